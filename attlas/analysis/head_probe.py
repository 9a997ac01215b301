"""Probes of a model: texts made so that a head's habit shows, captured, and scored by the published definitions.

Suffixes: T tokens, R one repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

import attlas
from attlas.analysis.head_roles import head_roles, leading_heads
from attlas.errors import InputError
from attlas.parse import parse_count, parse_seed, shown

__all__ = ["PROBES", "REPEATED", "probe_heads", "repeated_documents", "summarise_probe"]

REPEATED = "repeat-"
PROBES = ("previous", "duplicate", "induction", "prefix_matching")
"""Scores of the answer, each with its `..._baseline`."""
OPTIONS = (
    "tokenizer", "dtype", "device", "revision", "part", "layers", "heads", "chunk_tokens", "memory", "threads",
    "offload", "extrapolate", "progress",
)  # fmt: skip
"""Of `attlas.capture`, what does not choose among the rows that a probe is about."""
MOST = 1_000_000
"""Tokens of a probe, and documents."""


def repeated_documents(
    vocabulary: int, *, length: int = 100, repeats: int = 2, count: int = 2, seed: int = 0
) -> list[NDArray[np.int64]]:
    """`count` documents of `length` random token ids, each repeated `repeats` times; ids as evenly as they come, from
    the middle nine tenths of the vocabulary."""
    generator = np.random.default_rng(seed)
    low = vocabulary // 20
    once = generator.integers(low, vocabulary - low, (count, length))
    return [np.tile(ids, repeats) for ids in once]


def probe_heads(model: Any, *, length: int = 100, count: int = 2, seed: int = 0, **options: Any) -> xr.Dataset:
    """Previous-token, duplicate-token and induction scores of a decoder's heads on repeated random tokens.

    >>> attlas.analysis.probe_heads("demo").induction.max().item()
    0.747

    Of `count` documents of 2 x `length` random ids. previous, duplicate, induction (layer, head): mean weight on the
    diagonal at offset -1, -length, -(length - 1), as TransformerLens's exploratory analysis demo has them (its figures
    are of two documents of 2 x 100). prefix_matching(layer, head): mean weight, of tokens from the first repeat on, on
    the tokens that follow an earlier copy of them, on four repeats of 25 random ids (Olsson et al. 2022, appendix).
    `..._baseline`: of attention spread evenly over the visible keys.

    model: as of `attlas.capture`, with those of its `options` that OPTIONS names. seed: of the ids. Raises InputError
    for a model without `self` attention.
    """
    wrong = next((name for name in options if name not in OPTIONS), None)
    if wrong is not None:
        raise InputError(f"there is no option {shown(wrong)} of a probe: choose of {', '.join(OPTIONS)}")
    length, count = parse_count(length, "length", least=2, most=MOST), parse_count(count, "count", most=MOST)
    seed = parse_seed(seed)
    vocabulary = _vocabulary(model, options)
    stripes = repeated_documents(vocabulary, length=length, count=count, seed=seed)
    prefixes = repeated_documents(vocabulary, length=25, repeats=4, count=count, seed=seed + 1)
    ids = [f"{REPEATED}{i}" for i in range(count)] + [f"prefix-{i}" for i in range(count)]
    atlas = attlas.capture(
        model, [one.tolist() for one in (*stripes, *prefixes)], MemoryStore(), ids=ids,
        **{"dtype": "float32"} | options,
    )  # fmt: skip
    if "self" not in atlas.kinds:
        raise InputError(f"the probe is for models of self-attention, and this one has {', '.join(atlas.kinds)}")
    variables: dict[str, Any] = {}
    for name, offset in (("previous", 1), ("duplicate", length), ("induction", length - 1)):
        weight = np.mean([_diagonal(atlas[f"{REPEATED}{i}"], offset) for i in range(count)], axis=0)
        rows = np.arange(offset, 2 * length)
        variables[name] = (
            ("layer", "head"), weight,
            {"long_name": f"mean weight on the key {offset} tokens before", "units": "1"},
        )  # fmt: skip
        variables[f"{name}_baseline"] = ((), float(np.mean(1 / (rows + 1))), {"units": "1"})
    roles = head_roles(atlas, documents=[f"prefix-{i}" for i in range(count)], save=False)
    variables["prefix_matching"] = (
        ("layer", "head"), roles.role_score.sel(role="induction").values,
        {"long_name": "mean weight on tokens that follow an earlier copy of the query's token", "units": "1"},
    )  # fmt: skip
    baseline = roles.role_baseline.sel(role="induction").mean()
    variables["prefix_matching_baseline"] = ((), float(baseline), {"units": "1"})
    page = atlas[f"{REPEATED}0"]
    return xr.Dataset(
        variables,
        {"layer": page["layer"].values, "head": page["head"].values},
        {"question": "probe", "model": str(atlas.model.get("name")), "length": length, "count": count, "seed": seed},
    )


def summarise_probe(probed: xr.Dataset, count: int) -> dict[str, dict[str, Any]]:
    """score -> its baseline, and the `count` leading heads."""
    return {
        name: {
            "baseline": float(probed[f"{name}_baseline"]),
            "leading": [
                {"layer": layer, "head": head, "score": score}
                for layer, head, score in leading_heads(probed[name], count)
            ],
        }
        for name in PROBES
    }


def _diagonal(page: xr.Dataset, offset: int) -> NDArray[np.float64]:
    """(layer, head): mean weight of each query on the key `offset` tokens before it."""
    rows = np.arange(offset, page.sizes["query"])
    layers: list[Sequence[Any]] = []
    for layer in page["layer"].values:
        a_HQK = page.attention.sel(layer=layer).values
        layers.append(a_HQK[:, rows, rows - offset].mean(axis=1, dtype=np.float64))
    return np.array(layers)


def _vocabulary(model: Any, options: dict[str, Any]) -> int:
    from attlas.engine.model.adapter import base_source
    from attlas.engine.model.source import ModelSource, load_config
    from attlas.engine.model.unwrap import is_path, unwrap

    source = ModelSource.of(model, revision=options.get("revision"))
    if is_path(source.model):
        base, revision = base_source(source.model, source.revision)
        config = load_config(base, revision=revision)
    else:
        config = unwrap(source.model).model.config
    return int(config.get_text_config().vocab_size)
