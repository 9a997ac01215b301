"""Whether every contender's output is right, asked before any time is taken: sampled heads of what each wrote.

Eager attention in float32 judges attlas, and attlas's weights judge every float16 map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

import attlas
from benchmarks.peers.contenders import CONTENDERS, REFERENCE, Contender
from benchmarks.peers.watch import OK, Watched

__all__ = ["FLOAT16_BOUND", "Check", "check_all", "largest_difference", "sampled"]

EXACT_BOUND = 1e-5
"""Of a weight: attlas against eager, both float32."""
FLOAT16_BOUND = 1e-3
"""Of a weight that was rounded to float16, which alone is 2.4e-4 at most, against a float32 one."""
ENTROPY_BOUND = 1e-3
"""Of an entropy in nat, whose float32 sum runs over all keys."""
SAMPLED_LAYERS, SAMPLED_HEADS = 5, 4

Run = Callable[[Contender, Path], Watched]
"""Runs a contender on the tokens to check, into this folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """against: what by. difference: the largest found. status: `ok`, or why the contender is not measured."""

    contender: str
    against: str
    difference: float | None
    bound: float | None
    status: str


def check_all(run: Run, folder: Path, contenders: Sequence[Contender] = CONTENDERS) -> Iterator[Check]:
    """Run each contender that writes weights, and judge what it wrote. Raises RuntimeError where the judges fail."""
    factors = next(one for one in CONTENDERS if one.name == "attlas factors")
    for judge in (REFERENCE, factors):
        status = run(judge, folder / judge.name).status
        if status != OK:
            raise RuntimeError(f"{judge.name}, by which the others are judged: {status}")
    eager = _maps(REFERENCE, folder / REFERENCE.name)
    exact = attlas.open_atlas(str(folder / factors.name / "atlas.zarr"))["doc-0"].attention
    layers, heads = sampled(eager.shape[0], SAMPLED_LAYERS), sampled(eager.shape[1], SAMPLED_HEADS)

    def of_attlas(layer: int, head: int) -> NDArray[Any]:
        return np.asarray(exact.sel(layer=layer, head=head).values)

    def of_eager(layer: int, head: int) -> NDArray[Any]:
        return np.asarray(eager[layer, head])

    where = [(layer, head) for layer in layers for head in heads]
    yield _judged(factors, "eager attention, float32", EXACT_BOUND, of_attlas, of_eager, where)
    for one in contenders:
        if one.name in (factors.name, "forward"):
            continue
        output = folder / one.name
        ended = run(one, output)
        if ended.status != OK:
            yield Check(contender=one.name, against="", difference=None, bound=None, status=ended.status)
        elif one.maps:
            array = _maps(one, output)
            yield _judged(one, "attlas's weights", FLOAT16_BOUND, _of_array(array), of_attlas, where)
        else:
            page = attlas.open_atlas(str(output / "atlas.zarr"))["doc-0"]
            yield _judged(
                one, "entropy of eager attention, nat", ENTROPY_BOUND,
                _of_page(page), lambda layer, head: entropy(of_eager(layer, head)), where,
            )  # fmt: skip


def sampled(count: int, wanted: int) -> list[int]:
    """Indices spread evenly over `count`, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(wanted, count))})


def largest_difference(found: NDArray[Any], right: NDArray[Any]) -> float:
    """The largest absolute difference of two arrays; infinite where shapes differ or a number is not finite."""
    if found.shape != right.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - right.astype(np.float64)).max())


def entropy(weights: NDArray[Any]) -> NDArray[np.float64]:
    """Each row's, in nat."""
    seen = weights.astype(np.float64)
    return np.asarray(-(seen * np.log(np.where(seen > 0, seen, 1))).sum(axis=-1))


Part = Callable[[int, int], NDArray[Any]]


def _judged(
    one: Contender, against: str, bound: float, found: Part, right: Part, where: Sequence[tuple[int, int]]
) -> Check:
    difference = max(largest_difference(found(*place), right(*place)) for place in where)
    status = OK if difference <= bound else f"wrong: differs by {difference:.1e}, more than {bound:.0e}"
    return Check(contender=one.name, against=against, difference=difference, bound=bound, status=status)


def _maps(one: Contender, output: Path) -> zarr.Array[Any]:
    path = "atlas.zarr/self/maps/doc-0/attention" if one.environment == "attlas" else "maps.zarr"
    return zarr.open_array(output / path, mode="r")


def _of_array(array: zarr.Array[Any]) -> Part:
    return lambda layer, head: np.asarray(array[layer, head])


def _of_page(page: Any) -> Part:
    return lambda layer, head: np.asarray(page.entropy.sel(layer=layer, head=head).values)
