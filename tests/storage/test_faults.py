"""Seeded faults in a store: attlas tells no wrong number, and `verify` finds each fault that changes one."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest
from zarr.storage import MemoryStore

import attlas
from attlas.errors import AttlasError
from attlas.storage import AtlasWriter, verify
from tests.storage.faults import FAULTS, damaged, differing, readings, reopen, snapshot, store_of
from tests.storage.synthetic import synthetic

TIERS = ("statistics", "factors", "maps")
FAULTS_A_TIER = int(os.environ.get("ATTLAS_FAULTS", "2001")) // len(TIERS)


def sound(keep: str) -> dict[str, bytes]:
    store = MemoryStore()
    if keep == "maps":  # of a real model, whose maps a capture writes
        attlas.capture("demo", ["the cat sat. the cat sat.", "a lamp"], store, keep=keep, layers=[1, 3], heads=[0, 2])
        return snapshot(store)
    made = synthetic(lengths=(40, 7, 60, 31), rule="sinks" if keep == "factors" else "bias")
    writer = AtlasWriter.create(store, made.spec(keep))
    for pack in made.packs:
        made.write_pack(writer, pack, keep=keep)
    return snapshot(store)


def outcome(files: dict[str, bytes], expected: dict[str, Any]) -> str:
    """ "error", "same", or what attlas told wrongly."""
    try:
        found = readings(reopen(files))
    except AttlasError as error:
        return "several lines" if "\n" in str(error) else "error"
    return differing(found, expected) or "same"


def verified(files: dict[str, bytes]) -> bool:
    try:
        return verify(store_of(files)).passed
    except AttlasError:
        return False


def run(keep: str, seed: int, count: int) -> Counter[str]:
    files = sound(keep)
    expected = readings(reopen(files))
    assert verify(store_of(files)).passed
    rng, keys, tally = np.random.default_rng(seed), sorted(files), Counter[str]()
    silent, unseen = [], []
    kinds = list(FAULTS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        fault = FAULTS[kind](rng, files, keys[int(rng.integers(len(keys)))])
        if fault is None:
            continue
        changed = damaged(files, fault)
        if changed == files:
            continue
        result, passed = outcome(changed, expected), verified(changed)
        tally[f"{kind}: {result if result in ('same', 'error') else 'wrong'}, {'clean' if passed else 'found'}"] += 1
        if result not in {"same", "error"}:
            silent.append((fault, result))
        if result != "same" and passed:
            unseen.append((fault, result))
    for line, number in sorted(tally.items()):
        print(f"{keep:>10} {number:>5} {line}")
    assert not silent, f"{len(silent)} silently wrong, such as {silent[:5]}"
    assert not unseen, f"verify passes {len(unseen)} that readers meet, such as {unseen[:5]}"
    return tally


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("keep", TIERS)
def test_no_fault_gives_a_wrong_number(keep: str) -> None:
    tally = run(keep, seed=14, count=FAULTS_A_TIER)
    assert sum(tally.values()) > 0.9 * FAULTS_A_TIER


@pytest.mark.parametrize("keep", TIERS)
def test_a_few_faults(keep: str) -> None:
    """The same, short enough for every run of the tests."""
    run(keep, seed=3, count=28)
