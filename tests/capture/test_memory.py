"""Memory: what a device without enough of it is asked to do, and that the peak grows with N and not with N x N."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attlas
from attlas.engine.kernels import door
from attlas.engine.kernels.measure import TILE_BYTES, Measure
from attlas.engine.kernels.problem import Problem
from attlas.engine.model.probe import PROBE_TOKENS
from attlas.errors import NoMemoryError
from tests.families import BY_NAME, build_model, documents

MB, MIB = 10**6, 2**20


def short_of_memory(monkeypatch: pytest.MonkeyPatch, *, tile_bytes: int, tokens: int) -> list[tuple[int, int]]:
    """Attention runs out of memory with a larger tile, or more query tokens, than these; the probe's few never do."""
    asked: list[tuple[int, int]] = []
    real = door.attend

    def attend(problem: Problem, v_GMV: torch.Tensor, measure: Measure) -> Any:
        if problem.rows > PROBE_TOKENS:
            asked.append((measure.tile_bytes, problem.rows))
            if measure.tile_bytes > tile_bytes or problem.rows > tokens:
                raise torch.OutOfMemoryError("no memory")
        return real(problem, v_GMV, measure)

    monkeypatch.setattr(door, "attend", attend)
    return asked


def test_tile_then_chunk_are_halved_and_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=(120, 100))
    whole = attlas.capture(model, inputs, "memory://roomy", overwrite=True)
    assert whole.packs["attempt"].values.tolist() == [1]
    asked = short_of_memory(monkeypatch, tile_bytes=TILE_BYTES, tokens=64)
    atlas = attlas.capture(model, inputs, "memory://tight", overwrite=True)
    failed = [one for one in asked if one[1] > 64]
    assert failed == [(32 * MIB, 220), (16 * MIB, 220), (8 * MIB, 220), (4 * MIB, 220), (4 * MIB, 110)]
    assert atlas.packs["attempt"].values.tolist() == [6]
    assert atlas.packs["tile_bytes"].values.tolist() == [4 * MIB]
    assert atlas.packs["chunk_tokens"].values.tolist() == [64]
    for document in whole:
        assert atlas[document].sizes == whole[document].sizes, "the text is never shortened"
        np.testing.assert_allclose(atlas[document].attention.values, whole[document].attention.values, atol=1e-5)


def test_a_smaller_tile_alone_may_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build_model(BY_NAME["bert"]), documents(BY_NAME["bert"], lengths=(60,))
    short_of_memory(monkeypatch, tile_bytes=TILE_BYTES // 2, tokens=1000)
    atlas = attlas.capture(model, inputs, "memory://half", overwrite=True)
    assert atlas.packs["tile_bytes"].values.tolist() == [16 * MIB]
    assert atlas.packs["chunk_tokens"].values.tolist() == [0], "an encoder takes its packs whole"


def test_where_nothing_helps_the_error_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=(120,))
    short_of_memory(monkeypatch, tile_bytes=0, tokens=0)
    with pytest.raises(NoMemoryError, match=r"no memory for pack 0 \('doc-0', 120 tokens\), with a tile of 4 MiB"):
        attlas.capture(model, inputs, tmp_path / "none.zarr")
    assert not (tmp_path / "none.zarr").exists()


GROWTH = """
import resource, sys, torch, transformers, attlas
torch.manual_seed(0)
config = transformers.LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=1 << 17)
model = transformers.AutoModel.from_config(config).eval()
tokens, keep = int(sys.argv[1]), sys.argv[2]
ids = torch.randint(5, 60, (tokens,)).tolist()
attlas.capture(model, [ids[:512]], "memory://warm", keep=keep, chunk_tokens=256)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
attlas.capture(model, [ids], sys.argv[3], keep=keep, chunk_tokens=512)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("keep", ["statistics", pytest.param("factors", marks=pytest.mark.slow)])
def test_measured_peak_grows_with_the_tokens_and_not_with_their_square(keep: str, tmp_path: Path) -> None:
    """2k, 4k, 8k and 16k tokens in a process each: a doubling adds at most about twice what the one before it added;
    maps of one layer at 16k would take 2.1 GB."""
    peaks = []
    for tokens in (2048, 4096, 8192, 16_384):
        done = subprocess.run(
            [sys.executable, "-c", GROWTH, str(tokens), keep, str(tmp_path / f"{tokens}.zarr")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout))
    print(keep, [f"{peak / MB:.0f} MB" for peak in peaks])
    first, second, third = (int(step) for step in np.diff(peaks))
    assert third <= 2 * max(second, first * 2) + 30 * MB
    assert second <= 2 * max(first, 0) + 30 * MB
    assert peaks[-1] <= 8 * max(peaks[0], 15 * MB) + 30 * MB
