"""What a capture will need, before anything is spent, as values ready for JSON. Loads no weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from attlas.engine.model.adapter import base_source
from attlas.engine.model.positions import beyond_positions, position_limit, table_offset
from attlas.engine.model.shape import shape_of
from attlas.engine.model.shard import meta_model
from attlas.engine.model.source import load_config
from attlas.engine.model.support import check_supported
from attlas.errors import InputError, TooLittleMemoryError
from attlas.storage.disk import tier_bytes
from attlas.storage.sizes import Sizes, plan_sizes
from attlas.storage.tiers import DEFAULT_TIER, TIERS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attlas.actors.plan import ClusterPlan, Devices

__all__ = ["estimate_capture"]


def estimate_capture(
    model: str,
    *,
    tokens: int,
    documents: int = 1,
    chunk_tokens: int | None = None,
    memory: int | None = None,
    shards: int | None = None,
    devices: str | None = None,
    address: str | None = None,
    keep: str = DEFAULT_TIER,
    dtype: str = "auto",
    revision: str | None = None,
    part: str | None = None,
    extrapolate: bool = False,
) -> dict[str, Any]:
    """The model's size; of each tier the disk, and the memory that documents of so many tokens take at the peak.

    >>> [(tier["keep"], tier["disk"]) for tier in estimate_capture("demo", tokens=512)["tiers"]]
    [('statistics', 409600), ('factors', 1622016), ('maps', 10010624), ('gradients', 3194880)]

    part: of the model, as of `attlas.capture`. memory: bytes that each process may take; a tier that does not fit has
    `fits` False and the memory it needs. devices ("8x80GB"), address (of a running Ray cluster) or shards: also how the
    layers are cut for `keep`, and how many replicas there is room for, as `cluster`. extrapolate: as of
    `attlas.capture`, which refuses what is refused here. Raises InputError, UnsupportedModelError, TooLittleMemoryError
    where no tier fits, ClusterError.
    """
    if devices is not None and address is not None:
        raise InputError("devices describe a cluster and an address names one: give one of them")
    base, base_revision = base_source(model, revision)
    meta = meta_model(load_config(base, revision=base_revision), part)
    check_supported(meta)
    _check_positions(meta, tokens, extrapolate=extrapolate)
    shape = shape_of(meta, dtype=dtype)
    disk = tier_bytes(shape, tokens=tokens, documents=documents)
    layout = None
    if devices is not None or address is not None or shards is not None:
        from attlas.actors.plan import parse_devices, plan_cluster  # Ray is loaded only where it is used

        layout = plan_cluster(
            meta,
            devices=_cluster_devices(address) if address else parse_devices(devices) if devices else None,
            shards=shards,
            dtype=dtype,
            keep=keep,
            tokens=tokens,
            documents=documents,
            chunk_tokens=chunk_tokens,
            memory=memory,
        )
    sizes: dict[str, Sizes] = {}
    too_little: dict[str, TooLittleMemoryError] = {}
    for tier in disk:
        try:
            sizes[tier] = plan_sizes(
                shape,
                tier=TIERS[tier],
                longest=tokens,
                total=tokens * documents,
                chunkable=shape.chunkable,
                memory=memory if layout is None else None,
                chunk_tokens=chunk_tokens,
            )
        except TooLittleMemoryError as error:
            too_little[tier] = error
    if not sizes:
        raise min(too_little.values(), key=lambda error: error.least)
    heads = sum(layer.heads for layer in shape.layers)
    return {
        "model": model,
        "class": shape.model_class,
        "dtype": shape.dtype,
        "parameters": shape.parameters,
        "weight_bytes": shape.weight_bytes,
        "layers": len(shape.layers),
        "heads": heads,
        "tokens": tokens,
        "documents": documents,
        "tiers": [
            {"keep": tier, "disk": disk[tier]}
            | (_sizes_json(sizes[tier]) if tier in sizes else {"fits": False, "memory": too_little[tier].least})
            for tier in disk
        ],
        "eager_attention_bytes": heads * tokens * tokens * (4 if shape.dtype == "float32" else 2),
        "cluster": None if layout is None else _cluster_json(layout, keep),
    }


def _check_positions(meta: PreTrainedModel, tokens: int, *, extrapolate: bool) -> None:
    """Raise InputError where `attlas.capture` would, for documents of so many tokens."""
    limit = position_limit(meta.config, table_offset(meta))
    axes = 2 if meta.config.is_encoder_decoder else 1  # source and target, each with positions of its own
    if limit is None or tokens <= axes * limit:
        return
    beyond = beyond_positions(meta, limit, tokens=-(-tokens // axes), extrapolate=extrapolate)
    if beyond is not None:
        raise InputError(f"such a document has {beyond}")


def _sizes_json(sizes: Sizes) -> dict[str, Any]:
    return {
        "fits": True,
        "memory": sizes.memory.total,
        "chunk_tokens": sizes.chunk_tokens,
        "pack_tokens": sizes.pack_tokens,
        "checkpoints": sizes.checkpoints,
        "block": sizes.block,
        "memory_parts": asdict(sizes.memory),
    }


def _cluster_devices(address: str) -> Devices:
    from attlas.actors.cluster import cluster_devices, joined_cluster

    with joined_cluster(address, cpus=1) as facts:
        return cluster_devices(facts, gpus=facts.gpus > 0)


def _cluster_json(layout: ClusterPlan, keep: str) -> dict[str, Any]:
    return {
        "keep": keep,
        "replicas": layout.replicas,
        "devices_used": layout.used,
        "chunk_tokens": layout.sizes.chunk_tokens,
        "pack_tokens": layout.sizes.pack_tokens,
        "shards": [
            {"layers": [start, stop], "weight_bytes": weights, "memory": parts.total, "memory_parts": asdict(parts)}
            for (start, stop), weights, parts in zip(
                layout.shards.spans(), layout.shards.weight_bytes, layout.memory, strict=True
            )
        ],
    }
