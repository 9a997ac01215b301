"""A model whose weights are more than a process may take: accelerate reads what does not fit from disk."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

import attlas
from tests.actors.pipeline import assert_atlases_equal

MB = 10**6

WATCHED_CAPTURE = """
import json, re, sys, tempfile, threading
from pathlib import Path
import attlas

model, limit = Path(sys.argv[1]), json.loads(sys.argv[2])
peak, over = [0], threading.Event()

def watch():
    while not over.wait(0.02):
        found = re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())
        peak[0] = max(peak[0], int(found.group(1)) * 1024)

watcher = threading.Thread(target=watch)
watcher.start()
try:
    with tempfile.TemporaryDirectory() as folder:
        attlas.capture(model, [list(range(100, 356))], folder + "/a.zarr", dtype="float32", device="cpu", offload=limit)
finally:
    over.set()
    watcher.join()
print(peak[0])
"""
"""Prints the peak of anonymous memory, which the kernel cannot drop and read again: weights mapped from a file do not
count."""


def save_model(folder: Path, *, width: int, layers: int) -> int:
    """Store a model in bfloat16, so that no float32 weight is mapped from the file; returns its float32 bytes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
        num_key_value_heads=4, vocab_size=8000, max_position_embeddings=1024,
    )  # fmt: skip
    model: Any = LlamaModel(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters()) * 4


@pytest.mark.slow
def test_peak_memory_stays_far_below_the_weights(tmp_path: Path) -> None:
    weights = save_model(tmp_path, width=1024, layers=20)
    peaks = []
    for limit in (None, 200 * MB):
        done = subprocess.run(
            [sys.executable, "-c", WATCHED_CAPTURE, str(tmp_path), json.dumps(limit)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    whole, part = peaks
    assert part < weights < whole, (weights, whole, part)
    assert whole - part > weights / 3, (weights, whole, part)


def test_offloaded_weights_give_the_same_atlas(tmp_path: Path) -> None:
    save_model(tmp_path / "model", width=256, layers=6)
    ids = [torch.randint(5, 490, (40,), generator=torch.Generator().manual_seed(0)).tolist()]
    stores = {limit: tmp_path / f"{limit}.zarr" for limit in (None, 10 * MB)}
    for limit, store in stores.items():
        attlas.capture(tmp_path / "model", ids, store, keep="factors", dtype="float32", offload=limit)
    assert_atlases_equal(stores[10 * MB], stores[None])
    identities = [attlas.open_atlas(store).model for store in stores.values()]
    assert identities[0] == identities[1]  # the weights' hash reads those on disk too


@pytest.mark.slow
def test_offloaded_shards_give_the_same_atlas_and_clean_up(tmp_path: Path) -> None:
    save_model(tmp_path / "model", width=256, layers=6)
    ids = [list(range(5, 60))]
    common: dict[str, Any] = {"dtype": "float32", "threads": 1}
    attlas.capture(tmp_path / "model", ids, tmp_path / "one.zarr", **common)
    before = set(Path(tempfile.gettempdir()).glob("attlas-offload-*"))
    attlas.capture(tmp_path / "model", ids, tmp_path / "two.zarr", shards=2, offload=5 * MB, **common)
    assert_atlases_equal(tmp_path / "two.zarr", tmp_path / "one.zarr")
    assert set(Path(tempfile.gettempdir()).glob("attlas-offload-*")) <= before
