"""How much goes through the model at once: one memory budget, turned into chunk, pack and block sizes. Pure functions.

Without a budget the sizes are the largest that are of use; with one they are halved, the greediest first, until the
predicted peak fits. The text is never shortened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from attlas.engine.kernels.row_statistics import statistic_names
from attlas.engine.model.layout import FACTOR_TOKENS
from attlas.engine.model.shape import LayerShape, ModelShape
from attlas.engine.model.weights import DTYPES
from attlas.errors import InputError, TooLittleMemoryError
from attlas.storage.tiers import Tier

__all__ = ["MemoryParts", "Sizes", "factor_bytes", "plan_sizes", "row_bytes"]

CHUNK_TOKENS, CHUNK_LEAST = 4_096, 64
PACK_TOKENS, WHOLE_PACK_TOKENS = 32_768, 8_192
BLOCK_STEP, BLOCK_LEAST, BLOCK_MOST = 64, 256, 32_768
FACTOR_FILES = 100
"""About how many Zarr shards of q, k and what is as wide are wanted at most: a longer token axis puts more layers into
each."""
ACTIVATION_BYTES = 2**29
"""Held for the way back before each layer is rather run again."""
GATHER_BYTES = 512 * 2**20
QUEUE_BYTES = 256 * 2**20
PROCESS_BYTES = 600 * 2**20
"""What Python, torch, transformers and the compiled kernels take before a model is loaded; measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryParts:
    """Bytes at the peak, by what takes them.

    keys_values: K and V of every layer over the longest passage. forward: one chunk's activations. kernel: tiles and
    row sums. gathered: rows that wait for their Zarr shard to fill, or to be written.
    """

    process: int
    weights: int
    keys_values: int
    forward: int
    kernel: int
    gathered: int

    @property
    def total(self) -> int:
        return self.process + self.weights + self.keys_values + self.forward + self.kernel + self.gathered


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """chunk_tokens: the most query tokens in a forward pass; None: a pack goes whole. pack_tokens: the most tokens in a
    pack; a longer document is a pack of its own. block: tokens in a Zarr shard of what is small, one number a row.
    factor_layers: layers in a Zarr shard of what is wide, such as q or k, at most. checkpoints: each layer is run again
    for gradients.
    """

    chunk_tokens: int | None
    pack_tokens: int
    block: int
    factor_layers: int
    checkpoints: bool = False
    memory: MemoryParts


def plan_sizes(
    shape: ModelShape,
    *,
    tier: Tier,
    longest: int,
    total: int,
    chunkable: bool,
    packable: bool = True,
    memory: int | None = None,
    chunk_tokens: int | None = None,
    most_chunk: int | None = None,
    most_pack: int | None = None,
) -> Sizes:
    """Choose the sizes for documents of at most `longest` tokens, `total` in all.

    packable: documents of a pack go through the model together. memory: bytes that the process may take.
    chunk_tokens: the chunk asked for, taken as it is. most_chunk, most_pack: what a pipeline wants at most. Raises
    TooLittleMemoryError, with the numbers, where no sizes fit, InputError where a chunk is asked of a model whose
    layers see later tokens.
    """
    if chunk_tokens is not None and chunk_tokens < 1:
        raise InputError(f"chunk_tokens is {chunk_tokens}: give 1 or more")
    if not chunkable and chunk_tokens is not None and chunk_tokens < longest:
        raise InputError(
            f"chunk_tokens is {chunk_tokens}, but this model's layers see later tokens, so a document must go "
            f"whole (the longest has {longest} tokens): leave chunk_tokens out"
        )
    if tier.gradients:  # flow through a document in one pass
        chunkable, chunk_tokens = False, None
    pack = max(min(PACK_TOKENS if chunkable else WHOLE_PACK_TOKENS, total), 1)
    pack = min(pack, most_pack or pack)
    chunk = None if not chunkable else chunk_tokens or min(CHUNK_TOKENS, most_chunk or CHUNK_TOKENS, max(pack, longest))
    most = min(BLOCK_MOST, max(BLOCK_LEAST, GATHER_BYTES // max(row_bytes(shape, tier), 1)))
    block = _whole_blocks(min(most, max(pack, longest)), total)

    def sized(chunk: int | None, pack: int, block: int, layers: int) -> Sizes:
        together = max(min(pack, total), longest) if packable else longest
        parts = _memory(shape, tier, chunk, together, block, layers, longest, total)
        activations = _activations(shape, together, checkpoints=False) if tier.gradients else 0
        checkpoints = activations > min(ACTIVATION_BYTES, activations if memory is None else memory - parts.total)
        if tier.gradients:
            held = _activations(shape, together, checkpoints=checkpoints)
            parts = replace(parts, forward=parts.forward + held)
        return Sizes(
            chunk_tokens=chunk, pack_tokens=pack, block=block, factor_layers=layers, checkpoints=checkpoints,
            memory=parts,
        )  # fmt: skip

    sizes = sized(chunk, pack, block, _factor_layers(shape, tier, block, total))
    while memory is not None and sizes.memory.total > memory:
        # each of these would make the peak smaller; take the one that helps most
        smaller = []
        now = (sizes.chunk_tokens, sizes.pack_tokens, sizes.block, sizes.factor_layers)
        if sizes.block > BLOCK_LEAST:
            smaller.append(sized(*now[:2], _whole_blocks(sizes.block // 2, total), now[3]))
        if sizes.factor_layers > 1:
            smaller.append(sized(*now[:3], sizes.factor_layers // 2))
        if sizes.pack_tokens > BLOCK_LEAST:
            smaller.append(sized(now[0], sizes.pack_tokens // 2, *now[2:]))
        if chunk_tokens is None and sizes.chunk_tokens is not None and sizes.chunk_tokens > CHUNK_LEAST:
            smaller.append(sized(max(sizes.chunk_tokens // 2, CHUNK_LEAST), *now[1:]))
        best = min(smaller, key=lambda one: one.memory.total, default=None)
        if best is None or best.memory.total > sizes.memory.total:  # one that helps nothing may make way for the next
            raise _too_little(sizes.memory, memory, longest, chunkable)
        sizes = best
    return sizes


def _whole_blocks(tokens: int, total: int) -> int:
    """A block of about `tokens` tokens, no larger than what there is, and whole Zarr shards of q and k."""
    tokens = min(tokens, total)
    step = BLOCK_STEP if tokens <= FACTOR_TOKENS else FACTOR_TOKENS
    return max(BLOCK_STEP, -(-tokens // step) * step)


def _factor_layers(shape: ModelShape, tier: Tier, block: int, total: int) -> int:
    """Layers in a Zarr shard of q or k: one, for as long as these are few; never more than GATHER_BYTES."""
    layers, tokens, wide = len(shape.layers), min(block, FACTOR_TOKENS), sum(f.width is not None for f in tier.kept)
    wanted = max(1, ceil(wide * layers * ceil(total / tokens) / FACTOR_FILES))
    return min(layers, wanted, max(1, GATHER_BYTES // max(_widest_row(shape, tier) * tokens, 1)))


def _too_little(parts: MemoryParts, memory: int, longest: int, chunkable: bool) -> TooLittleMemoryError:
    def told(size: int) -> str:
        return f"{size / 1e9:.2f} GB"

    whole = "" if chunkable else "; its layers see later tokens, so a document goes whole"
    return TooLittleMemoryError(
        f"a document of {longest} tokens does not fit into {told(memory)}: it takes at least {told(parts.total)} "
        f"({told(parts.weights)} weights, {told(parts.keys_values)} keys and values, {told(parts.forward)} "
        f"activations, {told(parts.process + parts.kernel + parts.gathered)} other{whole}) -- give more --memory, or "
        "cut the document with --max-tokens",
        least=parts.total,
    )


def factor_bytes(shape: ModelShape, tier: Tier, layer: LayerShape, *, wide: bool) -> int:
    """Bytes that one token's rows take in one layer: of the factors with a vector a row, or with a number a row."""
    return sum(_factor_rows(shape, tier, layer, wide=wide))


def row_bytes(shape: ModelShape, tier: Tier) -> int:
    """Bytes that one token's rows take in the Zarr shards that span all layers."""
    names = len(statistic_names(same_axis=True, sinks=False)) if tier.statistics else 0
    return sum(layer.heads * 4 * names + factor_bytes(shape, tier, layer, wide=False) for layer in shape.layers)


def _factor_rows(shape: ModelShape, tier: Tier, layer: LayerShape, *, wide: bool) -> list[int]:
    size = DTYPES[shape.dtype].itemsize
    return [
        factor.row_bytes(heads=layer.heads, kv_heads=layer.kv_heads, sizes=layer, itemsize=size)
        for factor in tier.kept
        if (factor.width is not None) == wide
    ]


def _activations(shape: ModelShape, tokens: int, *, checkpoints: bool) -> int:
    """Bytes that wait for the way back: what every layer needs, or with checkpoints one, and the inputs of all; logits
    and their gradient."""
    size = DTYPES[shape.dtype].itemsize
    widest = max(shape.layers, key=lambda layer: layer.heads * layer.features)
    heads = (widest.heads + widest.kv_heads) * (widest.features + widest.value_features)
    layer = 8 * shape.hidden + 4 * shape.intermediate + 2 * heads
    layers = len(shape.layers)
    held = layer + layers * shape.hidden if checkpoints else layers * layer
    return tokens * (held * size + 2 * shape.vocabulary * 4)


def _widest_row(shape: ModelShape, tier: Tier) -> int:
    """Bytes of one token's row of the widest factor in the widest layer; 0 where the tier keeps none."""
    return max((size for layer in shape.layers for size in _factor_rows(shape, tier, layer, wide=True)), default=0)


def _memory(
    shape: ModelShape,
    tier: Tier,
    chunk: int | None,
    together: int,
    block: int,
    factor_layers: int,
    longest: int,
    total: int,
) -> MemoryParts:
    """together: tokens of a pack, or of the longest document, if that is more."""
    size = DTYPES[shape.dtype].itemsize
    rows = together if chunk is None else min(chunk, together)
    passage = max(rows, longest)  # documents of several chunks go alone
    widest = max(shape.layers, key=lambda layer: layer.heads * layer.features)
    own = widest.heads * (widest.features + widest.value_features)
    keys = widest.kv_heads * (widest.features + widest.value_features)
    factor_row = [factor_bytes(shape, tier, layer, wide=True) for layer in shape.layers]
    held = sum(layer.kv_heads * (layer.features + layer.value_features) for layer in shape.layers) * passage * size
    block = min(block, -(-together // BLOCK_STEP) * BLOCK_STEP)
    gathered = row_bytes(shape, tier) * block
    if any(factor_row):
        tokens = min(block, FACTOR_TOKENS)
        shard = _widest_row(shape, tier) * tokens * factor_layers
        # a pass that ends within a shard of tokens leaves one half full in every layer
        whole = rows == together or (longest == total and rows % tokens == 0)
        gathered += sum(factor_row) * tokens if not whole else factor_layers * max(factor_row) * max(rows, tokens)
        gathered += min(max(QUEUE_BYTES, shard), sum(factor_row) * together) + shard
    forward = rows * (6 * shape.hidden + 3 * shape.intermediate + 3 * own + 3 * keys) * size
    if tier.maps:
        gathered += widest.heads * min(longest, 2_048) * longest * 4
    return MemoryParts(
        process=PROCESS_BYTES,
        weights=shape.weight_bytes,
        keys_values=held if rows < passage else 0,
        forward=forward,
        kernel=rows * widest.heads * 200 + passage * keys * 4 + 64 * 2**20,
        gathered=gathered + sum(layer.heads for layer in shape.layers) * block * 4,
    )
