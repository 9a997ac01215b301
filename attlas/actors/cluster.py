"""The Ray cluster a capture runs on: a private one on this machine, or one that is there already."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray._private import ray_constants as constants
from ray._private import worker as ray_worker
from ray.exceptions import RayError

from attlas.actors.log import log_event
from attlas.actors.plan import Devices
from attlas.errors import ClusterError, first_line

__all__ = ["ClusterFacts", "cluster_devices", "joined_cluster"]

CONNECT_SECONDS = 10.0
UNFETCHED_ERRORS = "RAY_IGNORE_UNHANDLED_ERRORS"
STORE_SHARE, STORE_MOST = 0.2, 4 * 2**30
"""Of this machine's memory, what a private cluster's object store may take: hidden states on their way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """private: started by this process, and gone with it. cpus, gpus: of all nodes together."""

    private: bool
    nodes: int
    cpus: float
    gpus: float


@contextmanager
def joined_cluster(address: str | None, *, cpus: int) -> Iterator[ClusterFacts]:
    """Join the cluster at `address` ("auto", "host:port", "ray://host:port"); without one, start a private cluster.

    A private cluster listens on loopback alone, sends no usage statistics, and is shut down at the end. cpus: how many
    it offers at least. Where the process is connected already, that connection is used and stays. Raises ClusterError.
    """
    ours = not ray.is_initialized()
    private = ours and address is None
    if ours:
        try:
            _check_reachable(address)
            _connect(address, cpus)
        except (RayError, RuntimeError, ValueError, OSError) as error:
            place = "a private Ray cluster here" if private else f"the Ray cluster at {address}"
            raise ClusterError(
                f"cannot reach {place}: {first_line(error)} -- start one with ray start --head and give its "
                "address; where it asks for a token, set RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN or "
                "~/.ray/auth_token"
            ) from error
    try:
        with _cluster_messages_logged() if ours else nullcontext():
            total = ray.cluster_resources()
            nodes = sum(node["Alive"] for node in ray.nodes())
            yield ClusterFacts(private=private, nodes=nodes, cpus=total.get("CPU", 0), gpus=total.get("GPU", 0))
    finally:
        if ours:
            ray.shutdown()


def cluster_devices(facts: ClusterFacts, *, gpus: bool) -> Devices:
    """The joined cluster's devices, its GPUs or its nodes' memory, as large as the smallest."""
    if gpus:
        asked = [_gpu_memory.remote() for _ in range(int(facts.gpus))]
        return Devices(count=int(facts.gpus), memory=min(ray.get(asked)))
    sizes = [int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"]]
    return Devices(count=len(sizes), memory=min(sizes))


@ray.remote(num_gpus=1)
def _gpu_memory() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[1])


def _check_reachable(address: str | None) -> None:
    """Raise OSError at once where nothing listens: Ray would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


@contextmanager
def _cluster_messages_logged() -> Iterator[None]:
    """What Ray has to say of its workers goes to the log of events: it would print it on standard output."""

    def log(data: dict[str, Any], ignore_prefix: bool = False) -> None:
        log_event("ray says", message=" ".join(" ".join(data["lines"]).split()))

    before = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = log
    os.environ[UNFETCHED_ERRORS] = "1"  # of a pack that broke, the first error is fetched; the others are its echo
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = before
        del os.environ[UNFETCHED_ERRORS]


@contextmanager
def _same_sigterm() -> Iterator[None]:
    """Ray puts its own handler in the place of the one there is; a program that has one is to keep it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before):
        signal.signal(signal.SIGTERM, before)


def _connect(address: str | None, cpus: int) -> None:
    with warnings.catch_warnings(), _same_sigterm():
        warnings.simplefilter("ignore")  # ray announces changes of its own defaults
        if address is not None:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            return
        with _loopback_only():
            ray.init(
                address="local",
                num_cpus=max(cpus, os.cpu_count() or 1),
                include_dashboard=False,
                object_store_memory=int(min(STORE_MOST, psutil.virtual_memory().total * STORE_SHARE)),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    (node,) = ray.nodes()
    if node["NodeManagerAddress"] not in {"127.0.0.1", "::1"}:
        ray.shutdown()
        raise ClusterError(
            f"a private Ray cluster would listen on {node['NodeManagerAddress']}, which other machines reach: start "
            "one yourself with ray start, guarded as you see fit, and give its --address"
        )


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Have Ray take the loopback address for its node, on which all its servers then listen, and call no one.

    Ray takes it by itself where it does not expect clusters (macOS, Windows); elsewhere it turns a loopback address
    that it is given into one that other machines reach, so that the expectation is what has to change.
    """
    settings = {constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0", "RAY_USAGE_STATS_ENABLED": "0"}
    before = constants.ENABLE_RAY_CLUSTER, {name: os.environ.get(name) for name in settings}
    constants.ENABLE_RAY_CLUSTER = False
    os.environ.update(settings)
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before[0]
        for name, value in before[1].items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
