"""Which layers go to which shard, and how many shards and replicas a set of devices carries. Values, no I/O, no Ray.

A cut is balanced by bytes and by work: the cost of a shard is the larger of its part of the weights and of its part of
the floating-point operations. Cuts lie on multiples of a span of layers wherever that costs little, because the layers
of a span share the store's files of what is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from accelerate.utils import compute_module_sizes
from transformers import PreTrainedModel

from attlas.engine.models import DTYPES
from attlas.engine.shard import Stack
from attlas.errors import InputError

__all__ = ["LayerCost", "ShardPlan", "Devices", "cut_layers", "layer_costs", "parse_devices", "fit"]

SPAN_COST = 1.05
"""How much larger the largest shard may be for the sake of cuts on multiples of a span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """What one layer takes. weight_bytes: its weights. work: floating-point operations a token, attention included."""

    weight_bytes: int
    work: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """cuts: shard i holds layers [cuts[i], cuts[i + 1]), counted over all stacks. weight_bytes: of each shard, with the
    embedding where it has one and what surrounds the layers."""

    cuts: tuple[int, ...]
    weight_bytes: tuple[int, ...]

    @property
    def shards(self) -> int:
        return len(self.cuts) - 1

    def spans(self) -> tuple[tuple[int, int], ...]:
        return tuple(pairwise(self.cuts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """`count` equal devices of `memory` bytes."""

    count: int
    memory: int


def parse_devices(text: str) -> Devices:
    """`8x80GB` -> eight devices of 80 GB; raises InputError."""
    from attlas.engine.selection import parse_bytes

    count, times, memory = text.lower().partition("x")
    if not times or not count.strip().isdigit() or int(count) < 1:
        raise InputError(f"{text!r} describes no devices: write 8x80GB")
    return Devices(count=int(count), memory=parse_bytes(memory))


def layer_costs(
    model: PreTrainedModel, stacks: Sequence[Stack], *, dtype: str, tokens: int
) -> tuple[tuple[LayerCost, ...], tuple[int, int]]:
    """The layers' costs, and the bytes of (input embedding, all else outside the layers), of a model without weights.

    Work is two operations a weight and token that is used (of a mixture of experts only the chosen experts), and the
    scores and outputs of attention over half of `tokens` keys.
    """
    sizes = compute_module_sizes(model, dtype=DTYPES[dtype])
    item = DTYPES[dtype].itemsize
    text = model.config.get_text_config()
    width = int(text.hidden_size)
    share = _active_share(model)
    costs = []
    for stack in stacks:
        for i in range(stack.layers):
            size = int(sizes[f"{stack.name}.{i}"])
            expert = sum(
                int(sizes[name])
                for name in sizes
                if name.startswith(f"{stack.name}.{i}.") and name.endswith(".experts")
            )
            used = (size - expert + expert * share) / item
            costs.append(LayerCost(weight_bytes=size, work=2 * used + 2 * width * tokens))
    embedding = model.get_input_embeddings()
    table = sum(p.numel() for p in embedding.parameters()) * item
    rest = int(sizes[""]) - sum(cost.weight_bytes for cost in costs) - table
    return tuple(costs), (table, max(rest, 0))


def cut_layers(
    costs: Sequence[LayerCost],
    stacks: Sequence[Stack],
    shards: int,
    *,
    outside: tuple[int, int],
    step: int | None = None,
) -> ShardPlan:
    """Cut the layers into `shards` shards of nearly equal cost.

    outside: bytes of the input embedding, which the first shard holds (in an encoder-decoder, every one), and of what
    surrounds the layers, which all hold. step: cuts only on multiples of it in each stack; None: the largest that
    makes no shard more than SPAN_COST larger. Raises InputError where there are fewer layers, or places, than shards.
    """
    layers = len(costs)
    if not 1 <= shards <= layers:
        raise InputError(f"{shards} shards of {layers} layers: give from 1 to {layers}")
    embedding, rest = outside
    total_bytes = sum(cost.weight_bytes for cost in costs) + embedding
    total_work = sum(cost.work for cost in costs)
    weight = [0, *accumulate(cost.weight_bytes for cost in costs)]
    work = [0.0, *accumulate(cost.work for cost in costs)]

    def cost(start: int, stop: int) -> float:
        held = weight[stop] - weight[start] + (embedding if start == 0 else 0)
        return max(held / max(total_bytes, 1), (work[stop] - work[start]) / total_work)

    best = _partition(cost, _places(stacks, 1), shards)
    assert best is not None
    chosen = best
    steps = [step] if step is not None else range(-(-layers // shards), 1, -1)
    for one in steps:
        found = _partition(cost, _places(stacks, one), shards)
        if found is not None and (step is not None or found[0] <= best[0] * SPAN_COST):
            chosen = found
            break
    else:
        if step is not None:
            raise InputError(
                f"{shards} shards cannot be cut on multiples of {step} layers, as this atlas was begun: "
                f"resume with at most {len(_places(stacks, step)) - 1} shards, or choose another store"
            )
    cuts = chosen[1]
    beside = [embedding if start == 0 or len(stacks) > 1 else 0 for start in cuts[:-1]]
    return ShardPlan(
        cuts=cuts,
        weight_bytes=tuple(
            weight[stop] - weight[start] + more + rest
            for (start, stop), more in zip(pairwise(cuts), beside, strict=True)
        ),
    )


def fit(
    costs: Sequence[LayerCost],
    stacks: Sequence[Stack],
    devices: Devices,
    *,
    outside: tuple[int, int],
    working_bytes: int,
    shards: int | None = None,
) -> tuple[ShardPlan, int]:
    """The fewest shards that fit a device each, and how many replicas the devices then carry.

    working_bytes: what a shard needs beside its weights. Raises InputError with the numbers where no cut fits, and
    says what offload would take.
    """
    most = min(devices.count, len(costs))
    for count in [shards] if shards is not None else range(1, most + 1):
        plan = cut_layers(costs, stacks, count, outside=outside)
        if max(plan.weight_bytes) + working_bytes <= devices.memory and count <= devices.count:
            return plan, devices.count // count
    count = shards or most
    plan = cut_layers(costs, stacks, min(count, len(costs)), outside=outside)
    largest, total = max(plan.weight_bytes), sum(plan.weight_bytes)
    need = largest + working_bytes
    over = max(0, need - devices.memory)
    raise InputError(
        f"the model does not fit: cut into {plan.shards} shards, the largest takes {_gb(need)} ({_gb(largest)} "
        f"weights, {_gb(working_bytes)} to work in) of {_gb(devices.memory)} on each of {devices.count} devices "
        f"({_gb(total)} weights in all) -- use more or larger devices, a smaller --dtype, or --offload, which reads "
        f"{_gb(over)} of each shard's weights from CPU memory or disk in every forward pass"
    )


def _places(stacks: Sequence[Stack], step: int) -> list[int]:
    """Where a cut may lie: the ends, the borders of stacks, and every `step` layers of a stack."""
    places, before = {0}, 0
    for stack in stacks:
        places |= set(range(before, before + stack.layers, step))
        before += stack.layers
    return sorted(places | {before})


def _partition(cost: object, places: list[int], shards: int) -> tuple[float, tuple[int, ...]] | None:
    """Cuts at `places` that make the costliest shard as cheap as can be; None where there are too few places."""
    assert callable(cost)
    if len(places) <= shards:
        return None
    best = [(cost(places[0], stop), (places[0], stop)) if i else (0.0, (0,)) for i, stop in enumerate(places)]
    for count in range(2, shards + 1):
        now = list(best)
        for j in range(count, len(places)):
            options = (
                (max(best[i][0], cost(places[i], places[j])), (*best[i][1], places[j])) for i in range(count - 1, j)
            )
            now[j] = min(options)
        best = now
    return best[-1]


def _active_share(model: PreTrainedModel) -> float:
    """The part of a mixture's experts that a token goes through; 1 where there is no mixture."""
    text = model.config.get_text_config()
    chosen = getattr(text, "num_experts_per_tok", None)
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((getattr(text, name) for name in names if isinstance(getattr(text, name, None), int)), None)
    return chosen / experts if isinstance(chosen, int) and experts else 1.0


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
