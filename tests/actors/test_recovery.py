"""Something is killed at a random moment; the atlas is the undisturbed one, byte for byte. Twenty seeds, minutes."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

import attlas
from attlas.actors.log import LOGGER
from attlas.actors.replica import Replica
from attlas.capture import plan as plan_module
from attlas.progress import CaptureProgress
from tests.actors.chaos_driver import OPTIONS, corpus, plan_small_packs
from tests.actors.pipeline import assert_atlases_equal

KINDS = ("actor", "process", "node", "driver", "driver of a private cluster")
PACKS = 90
"""Something dies once so many packs at most are committed, of more than 130: on any machine in the midst of the run."""
JITTER = 0.2
"""And at most so many seconds later, so that it dies at any point of a pack."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, patch = tmp_path_factory.mktemp("calm"), pytest.MonkeyPatch()
    patch.setattr(plan_module, "plan_packs", plan_small_packs)
    for keep in ("factors", "statistics"):
        attlas.capture("demo", corpus(), folder / keep, keep=keep, shards=2, replicas=2, **OPTIONS)
    patch.undo()
    return {keep: folder / keep for keep in ("factors", "statistics")}


@pytest.mark.parametrize("seed", range(20))
def test_capture_survives(
    seed: int, undisturbed: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: Any
) -> None:
    draw = np.random.default_rng(seed)
    kind, keep = KINDS[seed % len(KINDS)], ("factors", "statistics")[seed // len(KINDS) % 2]
    packs, moment, store = int(draw.integers(PACKS)), float(draw.uniform(0, JITTER)), tmp_path / "atlas.zarr"
    if kind.startswith("driver"):
        private = kind != "driver"
        address = "private" if private else request.getfixturevalue("two_nodes").address
        told = drive_and_kill(store, keep, address, packs, moment)
    else:
        monkeypatch.setattr(plan_module, "plan_packs", plan_small_packs)
        told = capture_and_kill(kind, store, keep, request.getfixturevalue("two_nodes"), packs, moment, draw)
    print(f"seed {seed}: {kind} killed after {packs} packs and {moment:.2f} s, {keep}: {told}")
    assert_atlases_equal(store, undisturbed[keep])
    assert attlas.verify(store).problems == ()


def drive_and_kill(store: Path, keep: str, address: str, packs: int, moment: float) -> str:
    """kill -9 of the driver, then the same again, which resumes."""
    command = [sys.executable, "-m", "tests.actors.chaos_driver", str(store), keep, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdigit() and int(line) >= packs:
                break
        time.sleep(moment)
        before = process.poll()
        process.kill()
    assert before is None, "the driver had ended already"
    committed = len(attlas.open_atlas(store)) if store.exists() else 0
    assert committed < len(corpus()), "every pack was committed already"
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return f"{committed} documents were committed"


def capture_and_kill(
    kind: str, store: Path, keep: str, cluster: Cluster, packs: int, moment: float, draw: np.random.Generator
) -> str:
    """Capture from this process, and kill an actor, a process or the second node while it runs."""
    begun, events, replicas = threading.Event(), [], []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            events.append(json.loads(record.getMessage()))
            seen = [event["event"] for event in events]
            if seen.count("replica ready") >= 2 and seen.count("pack committed") >= packs:
                begun.set()

    real = Replica.start

    def start(self: Replica) -> None:
        replicas.append(self)
        real(self)

    def kill() -> None:
        begun.wait()
        time.sleep(moment)
        pids = [event["pid"] for event in events if event["event"] == "shard loaded"]
        if kind == "actor":
            replica = replicas[int(draw.integers(2))]
            if replica.actors:
                ray.kill(replica.actors[int(draw.integers(2))])
        elif kind == "process":
            try:
                os.kill(pids[int(draw.integers(4))], signal.SIGKILL)
            except ProcessLookupError:
                events.append({"event": "too late"})
        else:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    told: list[CaptureProgress] = []
    handler, level = Keep(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    Replica.start = start  # type: ignore[method-assign]
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        attlas.capture(
            "demo", corpus(), store, keep=keep, shards=2, replicas=2, address=cluster.address, progress=told.append,
            **OPTIONS,
        )  # fmt: skip
    finally:
        begun.set()
        killer.join()
        Replica.start = real  # type: ignore[method-assign]
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
    assert told[-1].losses == 1, f"{kind}: nothing died in time"
    return f"{told[-1].losses} pipelines lost, {told[-1].retries} packs again"
