"""Overrides that are none of the config are named in one line."""

from __future__ import annotations

import pytest

from audiocraft_qamdt.sweeps.overrides import checked

from ..helpers.runs import main_in


@pytest.mark.parametrize(
    "override, message",
    [
        ("mdt.detph=4", "mdt.detph=4: the config has no key mdt.detph, did you mean mdt.depth?"),
        ("conditioner=qamdt/loud", "conditioner=qamdt/loud: .*Could not find 'conditioner/qamdt/loud'"),
        ("fast", "fast: an override is key=value"),
        ("mdt.depth=deep", r"mdt.depth=deep: mdt.depth is a number \(.* in the config\), this is text"),
        ("mdt.patch=4", "mdt.patch=4: mdt.patch is a list .* this is a number"),
        ("quality.rule=[even]", r"quality.rule=\['even'\]: quality.rule is text .* this is a list"),
        ("mdt={depth: true}", "mdt.depth=True: mdt.depth is a number .* this is true or false"),
    ],
)
def test_the_override_at_fault_is_named(tmp_path, override, message):
    argv = ["solver=qamdt/debug", "optim.epochs=1", override, "seed=1"]
    with pytest.raises(ValueError, match=message) as caught:
        checked(main_in(tmp_path), argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["mdt.depth=null", "generate.quality=3.5", "quality.rule=7", "optim.lr=1"])
def test_good_ones_are_an_experiment(tmp_path, override):
    argv = ["solver=qamdt/debug", "seed=1", override]
    assert checked(main_in(tmp_path), argv).sig == main_in(tmp_path).get_xp(argv).sig
