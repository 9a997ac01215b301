"""The Ray cluster a capture runs on: a private one on this machine, or one that is there already."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import ray

from attlas.errors import ClusterError

__all__ = ["ClusterFacts", "joined_cluster"]

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

    A private cluster listens on loopback alone and is shut down at the end. cpus: how many it offers at least. Where
    the process is connected already, that connection is used and stays. Raises ClusterError.
    """
    ours = not ray.is_initialized()
    private = ours and address is None
    if ours:
        try:
            _connect(address, cpus)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            place = "a private Ray cluster here" if private else f"the Ray cluster at {address}"
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ClusterError(
                f"cannot reach {place}: {first} -- start one with ray start --head, give its address and, where token "
                "authentication is on, the same token (RAY_AUTH_TOKEN or ~/.ray/auth_token)"
            ) from error
    try:
        total = ray.cluster_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
        yield ClusterFacts(private=private, nodes=nodes, cpus=total.get("CPU", 0), gpus=total.get("GPU", 0))
    finally:
        if ours:
            ray.shutdown()


def _connect(address: str | None, cpus: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ray announces changes of its own defaults
        if address is not None:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            return
        ray.init(
            address="local",
            num_cpus=max(cpus, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=int(min(STORE_MOST, psutil.virtual_memory().total * STORE_SHARE)),
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
