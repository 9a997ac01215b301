"""Which layers go to which shard, and how many shards and replicas a set of devices carries. Values, no I/O, no Ray.

A cut is balanced by bytes and by work: the cost of a shard is the larger of its part of the weights and of its part of
the floating-point operations. Cuts lie on multiples of a span of layers wherever that costs little, because the layers
of a span share the store's files of what is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from accelerate.utils import compute_module_sizes
from transformers import PreTrainedModel

from attlas.engine.model.shape import ModelShape, shape_of
from attlas.engine.model.shard import Stack, find_stacks
from attlas.engine.model.support import interface_modules
from attlas.engine.model.weights import DTYPES
from attlas.errors import InputError
from attlas.parse import parse_bytes
from attlas.storage.sizes import MemoryParts, Sizes, plan_sizes
from attlas.storage.tiers import TIERS

__all__ = [
    "ClusterPlan",
    "Devices",
    "LayerCost",
    "ShardPlan",
    "cut_layers",
    "fit",
    "layer_costs",
    "parse_devices",
    "plan_cluster",
    "shard_shapes",
]

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
    count, times, memory = text.lower().partition("x")
    if not times or not count.strip().isdigit() or int(count) < 1:
        raise InputError(f"{text!r} describes no devices: write 8x80GB")
    return Devices(count=int(count), memory=parse_bytes(memory, "devices"))


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
    working: Callable[[ShardPlan], int],
    shards: int | None = None,
) -> tuple[ShardPlan, int]:
    """The fewest shards that fit a device each, and how many replicas the devices then carry.

    working: what the neediest shard of a plan takes beside its weights, in bytes. shards: so many, not fewer. Raises
    InputError with the numbers where no cut fits, and says what offload would take.
    """
    most = min(devices.count, len(costs))
    for count in [shards] if shards is not None else range(1, most + 1):
        plan = cut_layers(costs, stacks, count, outside=outside)
        if max(plan.weight_bytes) + working(plan) <= devices.memory and count <= devices.count:
            return plan, devices.count // count
    plan = cut_layers(costs, stacks, min(shards or most, len(costs)), outside=outside)
    if plan.shards > devices.count:
        raise InputError(
            f"{plan.shards} shards need as many devices, and there are {devices.count}: give fewer --shards"
        )
    largest, total, more = max(plan.weight_bytes), sum(plan.weight_bytes), working(plan)
    over = max(0, largest + more - devices.memory)
    raise InputError(
        f"the model does not fit: cut into {plan.shards} shards, the largest takes {_gb(largest + more)} "
        f"({_gb(largest)} weights, {_gb(more)} to work in) of {_gb(devices.memory)} on each of {devices.count} devices "
        f"({_gb(total)} weights in all) -- use more or larger devices, a smaller --dtype, or --offload, which reads "
        f"{_gb(over)} of that shard's weights from CPU memory or disk in every forward pass"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """A model on a cluster. memory: what each shard takes, in bytes. sizes: of the chunks and packs all shards share.

    used: devices that hold a shard.
    """

    shards: ShardPlan
    replicas: int
    sizes: Sizes
    memory: tuple[MemoryParts, ...]

    @property
    def used(self) -> int:
        return self.replicas * self.shards.shards


def plan_cluster(
    model: PreTrainedModel,
    *,
    devices: Devices | None,
    shards: int | None,
    dtype: str,
    keep: str,
    tokens: int,
    documents: int = 1,
    chunk_tokens: int | None = None,
    memory: int | None = None,
) -> ClusterPlan:
    """Lay a model (on the meta device) out over devices, for documents of `tokens` tokens.

    devices: None for as many, and as large, as it takes: then `shards` says how many. memory: what a shard may take;
    None for all of a device. Raises UnsupportedModelError where the model cannot be cut, InputError where it does not
    fit.
    """
    shape, stacks = shape_of(model, dtype=dtype), find_stacks(model)
    costs, outside = layer_costs(model, stacks, dtype=shape.dtype, tokens=tokens)
    most = memory if memory is not None else devices.memory if devices is not None else None

    def sized(plan: ShardPlan, budget: int | None) -> list[Sizes]:
        return [
            plan_sizes(
                one, tier=TIERS[keep], longest=tokens, total=tokens * documents, chunkable=shape.chunkable,
                memory=budget, chunk_tokens=chunk_tokens,
            )
            for one in shard_shapes(model, shape, stacks, plan)
        ]  # fmt: skip

    def working(plan: ShardPlan) -> int:
        try:
            found = sized(plan, most)
        except InputError:  # nothing fits: what the sizes would be if there were room
            found = sized(plan, None)
        return max(one.memory.total - one.memory.weights for one in found)

    if devices is None:
        plan, replicas = cut_layers(costs, stacks, shards or 1, outside=outside), 1
    else:
        fitting = Devices(count=devices.count, memory=min(most or devices.memory, devices.memory))
        plan, replicas = fit(costs, stacks, fitting, outside=outside, working=working, shards=shards)
    found = sized(plan, most)
    tightest = min(found, key=lambda one: (one.chunk_tokens or one.pack_tokens, one.pack_tokens, one.block))
    return ClusterPlan(shards=plan, replicas=replicas, sizes=tightest, memory=tuple(one.memory for one in found))


def shard_shapes(
    model: PreTrainedModel, shape: ModelShape, stacks: Sequence[Stack], plan: ShardPlan
) -> tuple[ModelShape, ...]:
    """The sizes of each shard: its own attention layers and weights."""
    place: dict[str, int] = {}
    for stack in stacks:
        place |= {f"{stack.name}.{i}.": len(place) + i for i in range(stack.layers)}
    holder = [
        next(number for prefix, number in place.items() if name.startswith(prefix))
        for name in interface_modules(model)
    ]  # fmt: skip
    return tuple(
        replace(
            shape,
            weight_bytes=weight_bytes,
            layers=tuple(layer for layer, number in zip(shape.layers, holder, strict=True) if start <= number < stop),
        )
        for (start, stop), weight_bytes in zip(plan.spans(), plan.weight_bytes, strict=True)
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
