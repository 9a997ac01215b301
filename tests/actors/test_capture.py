"""Captures on real Ray clusters: equal to one process, whatever breaks on the way."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from transformers import AutoModel, LlamaConfig

import attlas
from attlas.actors.log import LOGGER
from attlas.capture import plan as plan_module
from attlas.errors import ClusterError, InputError, PacksFailedError
from attlas.progress import CaptureProgress
from tests.actors.chaos_driver import corpus, plan_small_packs
from tests.actors.pipeline import assert_atlases_equal
from tests.families import BY_NAME, build_model


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """What the capture logs, one dict a line."""
    found: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(record.getMessage()))

    handler, level = Keep(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield found
    LOGGER.removeHandler(handler)
    LOGGER.setLevel(level)


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(plan_module, "plan_packs", plan_small_packs)


@pytest.mark.usefixtures("small_packs")
def test_shards_and_replicas_on_a_private_cluster(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    texts = corpus(40)
    expected = attlas.capture("demo", texts, tmp_path / "one.zarr", keep="statistics", threads=1)
    assert len(expected.packs["pack"]) > 4
    told: list[CaptureProgress] = []
    listening: list[str] = []

    def progress(state: CaptureProgress) -> None:
        told.append(state)
        if not listening:
            listening.extend(listening_addresses())

    atlas = attlas.capture(
        "demo", texts, tmp_path / "many.zarr", keep="statistics", shards=2, replicas=2, threads=1,
        progress=progress,
    )  # fmt: skip
    assert not ray.is_initialized()
    assert attlas.verify(tmp_path / "many.zarr").passed
    assert list(atlas) == list(expected)
    for name in atlas:
        for statistic in ("entropy", "log_sum_exp"):
            np.testing.assert_allclose(atlas[name][statistic], expected[name][statistic], rtol=1e-5, atol=1e-5)
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    last = told[-1]
    assert (last.done, last.failed, last.retries) == (last.total, 0, 0)
    assert last.tokens_now == last.tokens == last.tokens_done
    assert [(share.replica, share.shard, share.layers) for share in last.shards] == [
        (0, 0, (0, 2)), (0, 1, (2, 4)), (1, 0, (0, 2)), (1, 1, (2, 4)),
    ]  # fmt: skip
    assert sum(share.bytes for share in last.shards) == last.bytes > 0
    assert all(0 < share.busy <= 1 and share.peak_memory > 10**8 for share in last.shards)
    committed = {event["pack"] for event in events if event["event"] == "pack committed"}
    assert committed == set(range(last.total))
    wrote = [event for event in events if event["event"] == "shard wrote"]
    assert {(event["pack"], event["shard"]) for event in wrote} == {(p, s) for p in committed for s in (0, 1)}


def listening_addresses() -> list[str]:
    """Where this process and all that it started listen."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = []
    for process in family:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.append(connection.laddr.ip)
    return found


@pytest.mark.usefixtures("small_packs")
def test_a_killed_worker_costs_nothing(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    texts = corpus(12)
    options: dict[str, Any] = {"keep": "factors", "threads": 1, "chunk_tokens": 100}
    attlas.capture("demo", texts, tmp_path / "calm.zarr", **options)
    killed: list[int] = []

    told: list[CaptureProgress] = []

    def progress(state: CaptureProgress) -> None:
        told.append(state)
        if state.done == 2 and not killed:
            pids = [event["pid"] for event in events if event["event"] == "shard loaded"]
            killed.append(pids[1])
            os.kill(pids[1], signal.SIGKILL)

    attlas.capture("demo", texts, tmp_path / "killed.zarr", shards=2, progress=progress, **options)
    assert killed
    assert told[-1].losses == 1
    assert told[-1].retries >= 1
    assert_atlases_equal(tmp_path / "killed.zarr", tmp_path / "calm.zarr")
    assert attlas.verify(tmp_path / "killed.zarr").passed
    assert any(event["event"] == "replica lost" for event in events)


@pytest.mark.usefixtures("small_packs")
def test_a_pack_that_always_fails_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Token 7's embedding is NaN: the document that holds it cannot be captured, here or on a cluster."""
    model = build_model(BY_NAME["llama"])
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = float("nan")  # type: ignore[operator]
    model.save_pretrained(tmp_path / "model")
    texts = [[11, 12, 13] * 40, [11, 7, 13] * 40, [21, 22, 23] * 40]
    for place, shards in (("here", 1), ("cluster", 2)):
        store = tmp_path / f"{place}.zarr"
        with pytest.raises(PacksFailedError, match=r"1 of 3 packs failed, the others are committed .*'doc-1'.* nan "):
            attlas.capture(tmp_path / "model", texts, store, shards=shards)
        atlas = attlas.open_atlas(store)
        assert list(atlas) == ["doc-0", "doc-2"]
        with pytest.raises(KeyError, match=r"doc-1.* which failed \(NotFiniteError: q is nan"):
            atlas["doc-1"]
        assert atlas.packs["attempt"].values[1] == 1
        assert attlas.verify(store).passed


def test_resume_keeps_to_what_was_begun(tmp_path: Path) -> None:
    """Another model, or shards that cut a span of layers, are refused; other shards that keep to it go on."""
    folder = tmp_path / "model"
    build_model(BY_NAME["llama"], layers=6).save_pretrained(folder)
    texts, store = [[11, 12, 13] * 30, [21, 22, 23] * 30], tmp_path / "atlas.zarr"
    attlas.capture(folder, texts, store, shards=2)
    before = attlas.open_atlas(store)["doc-1"].attention.values
    with pytest.raises(InputError, match=r"3 shards cannot be cut on multiples of 3 layers, .* at most 2 shards"):
        attlas.capture(folder, texts, store, shards=3, resume=True)
    again = attlas.capture(folder, texts, store, resume=True)
    assert np.array_equal(again["doc-1"].attention.values, before)
    build_model(BY_NAME["llama"], layers=6, seed=1).save_pretrained(folder)
    with pytest.raises(InputError, match=r"another model \(weights: "):
        attlas.capture(folder, texts, store, shards=2, resume=True)


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"cannot reach the Ray cluster at 127.0.0.1:1: .*ray start --head"):
        attlas.capture("demo", "text", tmp_path / "a.zarr", address="127.0.0.1:1")
    assert not (tmp_path / "a.zarr").exists()


def test_what_only_this_process_reaches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lies in this process's memory"):
        attlas.capture("demo", "text", "memory://a", shards=2)
    model = AutoModel.from_config(BY_NAME["llama"].config())
    with pytest.raises(InputError, match="this machine alone"):
        attlas.capture(model, [[1, 2, 3]], tmp_path / "a.zarr", address="127.0.0.1:1")
    assert threading.active_count() < 50


@pytest.mark.slow
def test_a_shard_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build_model(BY_NAME["llama"]).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model has no weights: there is neither"):
        attlas.capture(folder, [[1, 2, 3]], tmp_path / "a.zarr", shards=2)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.slow
def test_a_shard_that_dies_before_the_first_pack_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attlas.actors.replica import RemoteStage

    def dies(self: RemoteStage, *_args: Any, **_kwargs: Any) -> Any:
        ray.kill(self.actor)
        return ray.get(self.actor.probe_forward.remote({}, None, "eager"))

    monkeypatch.setattr(RemoteStage, "forward", dies)
    with pytest.raises(ClusterError, match=r"a shard's process died before the first pack .* --offload"):
        attlas.capture("demo", "the cat sat", tmp_path / "a.zarr", shards=2)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.slow
def test_memory_is_that_of_a_shard(tmp_path: Path) -> None:
    """A budget below the whole model's weights, which a shard of half of them keeps to."""
    model = AutoModel.from_config(
        LlamaConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=8, num_attention_heads=16,
            num_key_value_heads=4, vocab_size=1000, max_position_embeddings=512,
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path / "model")
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    budget = int(weights * 0.7) + 800 * 10**6
    texts = [list(range(5, 105))]
    with pytest.raises(InputError, match="does not fit"):
        attlas.capture(tmp_path / "model", texts, tmp_path / "a.zarr", memory=budget)
    atlas = attlas.capture(tmp_path / "model", texts, tmp_path / "a.zarr", memory=budget, shards=2)
    assert list(atlas) == ["doc-0"]
