"""Registries: what is there, what is not, and what is there for a while."""

from __future__ import annotations

import pytest

from attlas.errors import InputError
from attlas.registry import Registry
from attlas.storage.tiers import Tier


def tier(name: str) -> Tier:
    return Tier(name=name, factors=(), description="")


def test_entries_come_back_by_name_and_in_order() -> None:
    registry = Registry("tier", tier("b"), tier("a"))
    assert registry.names == ("b", "a")
    assert [entry.name for entry in registry] == ["b", "a"]
    assert registry["a"] is list(registry)[1]
    with pytest.raises(InputError, match="no tier 'c': choose one of b, a"):
        registry["c"]
    assert 1 not in registry


def test_no_name_is_taken_twice_and_a_loan_ends() -> None:
    registry = Registry("tier", tier("a"))
    with registry.having(tier("b")):
        assert "b" in registry
        with pytest.raises(InputError, match="already"):
            registry.add(tier("b"))
    assert registry.names == ("a",)
    with pytest.raises(InputError), registry.having(tier("c"), tier("a")):
        pass
    assert registry.names == ("a",)
