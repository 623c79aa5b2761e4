from __future__ import annotations

from types import SimpleNamespace

import pytest

from audiocraft_qamdt.utils.patching import replaced


def test_an_attribute_is_another_one_inside_and_its_own_again_after():
    owner = SimpleNamespace(name="before")
    with replaced(owner, "name", "inside"):
        assert owner.name == "inside"
    assert owner.name == "before"


def test_an_error_inside_puts_the_attribute_back():
    owner = SimpleNamespace(name="before")
    with pytest.raises(KeyError), replaced(owner, "name", "inside"):
        raise KeyError
    assert owner.name == "before"
