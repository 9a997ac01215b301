"""Blocks of weights against pooling of the dense weights in float64, for every rule and mask, whatever the tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attlas.engine.kernels import cpu_tiles
from attlas.engine.kernels.overview_cpu import add_blocks
from tests.engine.kernels.cases import MASKS, RULES, Case, case, truth


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("block", "tile_rows"), [(1, 8), (2, 128), (8, 8), (32, 16), (64, 8)])
def test_pooling_of_the_dense_weights(
    rule: str, mask: str, block: int, tile_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_tiles, "ROWS", tile_rows)
    of = Case(rule=rule, mask=mask)
    problem, _ = case(of)
    exact = truth(of)
    a_HNM = np.concatenate([exact.a_HNM, exact.a_HNM.mean(axis=0, keepdims=True)])
    size = -(-75 // block)
    largest, total = np.zeros((5, size, size), np.float32), np.zeros((5, size, size))
    add_blocks(problem, torch.from_numpy(exact.lse_HN), largest, total, block=block, tile_bytes=20_000)
    edges = np.arange(0, 75, block)
    expected = np.maximum.reduceat(np.maximum.reduceat(a_HNM, edges, axis=1), edges, axis=2)
    np.testing.assert_allclose(largest, expected, atol=2e-6)
    expected = np.add.reduceat(np.add.reduceat(a_HNM, edges, axis=1), edges, axis=2)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)


def test_keys_in_parts_add_up() -> None:
    """Two problems over parts of the keys, the second from a key within a block."""
    of = Case(mask="both")
    problem, _ = case(of)
    exact = truth(of)
    lse = torch.from_numpy(exact.lse_HN)
    whole = np.zeros((5, 10, 10), np.float32), np.zeros((5, 10, 10))
    add_blocks(problem, lse, *whole, block=8)
    parts = np.zeros((5, 10, 10), np.float32), np.zeros((5, 10, 10))
    for low, high in ((0, 30), (30, 75)):
        part = problem.tile(slice(0, 75), slice(low, high))
        part = type(part)(
            q_HND=part.q_HND, k_GMD=part.k_GMD, rule=part.rule, start_N=np.clip(part.start_N, low, high) - low,
            stop_N=np.clip(part.stop_N, low, high) - low, tokens=part.tokens,
        )  # fmt: skip
        add_blocks(part, lse, *parts, block=8, first_key=low)
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-6)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-5)
