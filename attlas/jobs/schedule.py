"""Running tasks: on this process's threads, on Ray, or on a dask.distributed cluster; the same tasks and numbers."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import delayed
from zarr.storage import MemoryStore

from attlas.errors import ClusterError, InputError
from attlas.parse import shown
from attlas.progress import Progress, Report

__all__ = ["check_scheduler", "run_groups", "workers_of"]

Task = tuple[Callable[..., Any], tuple[Any, ...]]
BETWEEN_LOOKS = 0.1


def check_scheduler(scheduler: str, store: Any) -> None:
    """Raise InputError where there is no such scheduler, or its workers could not reach the store."""
    if not isinstance(scheduler, str) or (scheduler not in {"threads", "ray"} and "://" not in scheduler):
        raise InputError(
            f"there is no scheduler {shown(scheduler)}: choose threads, ray, or an address like tcp://host:8786"
        )
    if scheduler != "threads" and isinstance(store, MemoryStore):
        raise InputError("an atlas in this process's memory is out of the workers' reach: use --scheduler threads")


def workers_of(scheduler: str, workers: int | None) -> int:
    """How many tasks run at once in one process."""
    return (workers or os.cpu_count() or 1) if scheduler == "threads" else 2


def run_groups(
    groups: Sequence[tuple[Sequence[Task], Callable[..., Any], tuple[Any, ...]]],
    shared: Any,
    *,
    scheduler: str,
    workers: int | None = None,
    progress: Report | None = None,
) -> list[Any]:
    """Run tasks and join them: for each (tasks, join, more) the result of join([task results], shared, *more).

    A task is (function, arguments), called as function(shared, *arguments). Raises ClusterError, or what a task raises.
    """
    held = delayed(shared, pure=False, traverse=False)  # dask would take every value in it apart, task by task
    joins, total = [], sum(len(tasks) for tasks, _, _ in groups)
    for tasks, join, more in groups:
        parts = [delayed(function, pure=False)(held, *arguments) for function, arguments in tasks]
        joins.append(delayed(join, pure=False)(parts, held, *more))
    begun = time.monotonic()

    def count(done: int) -> None:
        if progress is not None:
            progress(Progress(what="block", done=done, total=total, seconds=time.monotonic() - begun))

    names = frozenset(function.__name__ for tasks, _, _ in groups for function, _ in tasks)
    count(0)
    if scheduler == "threads":
        with _Counting(names, count):
            results = compute(*joins, scheduler="threads", num_workers=workers_of(scheduler, workers))
    elif scheduler == "ray":
        results = _on_ray(joins, names, count)
    else:
        results = _on_cluster(joins, scheduler, [len(tasks) for tasks, _, _ in groups], count)
    count(total)
    return list(results)


class _Counting(Callback):
    """Counts finished tasks of the threaded scheduler."""

    def __init__(self, names: frozenset[str], count: Callable[[int], None]) -> None:
        self.names, self.count, self.done = names, count, 0
        super().__init__()

    def _posttask(self, key: Any, _result: Any, _dsk: Any, _state: Any, _worker: Any) -> None:
        if str(key).rsplit("-", 5)[0] in self.names:
            self.done += 1
            self.count(self.done)


def _on_ray(joins: list[Any], names: frozenset[str], count: Callable[[int], None]) -> tuple[Any, ...]:
    import ray
    from ray.util.dask import RayDaskCallback, enable_dask_on_ray

    from attlas.actors.cluster import joined_cluster

    submitted: list[Any] = []
    ended = threading.Event()

    class Submitted(RayDaskCallback):
        def _ray_postsubmit(self, _task: Any, key: Any, _deps: Any, object_ref: Any) -> None:
            if str(key).rsplit("-", 5)[0] in names:
                submitted.append(object_ref)

    def watch() -> None:
        while not ended.wait(BETWEEN_LOOKS):
            refs = list(submitted)
            if refs:
                done, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
                count(len(done))

    with joined_cluster(os.environ.get("RAY_ADDRESS"), cpus=os.cpu_count() or 1), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of dask, about a setting that Ray makes
        watcher = threading.Thread(target=watch, name="attlas-progress", daemon=True)
        watcher.start()
        try:
            with enable_dask_on_ray(), Submitted():
                results: tuple[Any, ...] = compute(*joins)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        finally:
            ended.set()
            watcher.join()
            submitted.clear()
        return results


def _on_cluster(joins: list[Any], address: str, sizes: list[int], count: Callable[[int], None]) -> tuple[Any, ...]:
    from distributed import as_completed

    with _client(address) as client:
        futures = client.compute(joins)
        place = {future.key: size for future, size in zip(futures, sizes, strict=True)}
        done = 0
        for future in as_completed(futures, loop=client.loop):
            done += place[future.key]
            if future.status == "finished":
                count(done)
        return tuple(client.gather(futures))


@contextmanager
def _client(address: str) -> Iterator[Any]:
    from distributed import Client

    quiet = logging.getLogger("distributed")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"cannot reach a dask scheduler at {address} ({type(error).__name__}): start one with dask scheduler, and "
            "dask worker beside it"
        ) from error
    try:
        yield client
    finally:
        client.close()
        quiet.setLevel(level)
