"""Overrides that are none of the config are named in one line."""

from __future__ import annotations

import pytest

from audiocraft_qamdt.overrides import checked

from .runs import main_in


@pytest.mark.parametrize(
    "override, message",
    [
        ("mdt.detph=4", "mdt.detph=4: the config has no key mdt.detph, did you mean mdt.depth?"),
        ("conditioner=qamdt/loud", "conditioner=qamdt/loud: .*Could not find 'conditioner/qamdt/loud'"),
        ("fast", "fast: an override is key=value"),
    ],
)
def test_the_override_at_fault_is_named(tmp_path, override, message):
    argv = ["solver=qamdt/debug", "optim.epochs=1", override, "seed=1"]
    with pytest.raises(ValueError, match=message) as caught:
        checked(main_in(tmp_path), argv)
    assert "\n" not in str(caught.value)


def test_good_ones_are_an_experiment(tmp_path):
    argv = ["solver=qamdt/debug", "seed=1"]
    assert checked(main_in(tmp_path), argv).sig == main_in(tmp_path).get_xp(argv).sig
