"""Attributes have their old values again, whatever happens in between."""

from types import SimpleNamespace

import pytest

from megatron_coreward.utils.replaced import replaced


class Base:
    inherited = 1


class Library(Base):
    name = staticmethod(lambda: "old")


def test_attributes_are_replaced_and_set_back() -> None:
    target = SimpleNamespace(a=1, b=2)
    with replaced(target, a=3, b=4):
        assert (target.a, target.b) == (3, 4)
    assert (target.a, target.b) == (1, 2)


def test_an_error_sets_them_back_as_well() -> None:
    original = vars(Library)["name"]
    with pytest.raises(KeyError), replaced(Library, name=staticmethod(lambda: "new")):
        assert Library.name() == "new"
        raise KeyError
    assert vars(Library)["name"] is original


@pytest.mark.parametrize("name", ["inherited", "missing"])
def test_what_is_not_the_targets_own_is_refused(name: str) -> None:
    with pytest.raises(KeyError, match=name), replaced(Library, **{name: 2}):
        pass
    assert Library.inherited == 1
