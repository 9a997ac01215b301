"""Exact statistics, roles and similarities against brute force in float64: score rules, families, real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoModel, AutoTokenizer

import attlas
from attlas.jobs.reduction import Execution
from attlas.jobs.survey import LEVELS, parse_survey, survey_atlas
from attlas.storage import AtlasWriter, open_atlas
from tests.analysis import brute
from tests.families import BY_NAME, build_model, documents, eager_attention
from tests.storage.synthetic import Synthetic, synthetic

THRESHOLDS = (0.001, 0.01, 0.1)
EXACT = 1e-4
TINY = 2e-6
FACTOR = 1.023


def survey(atlas: attlas.Atlas, *, save: bool = True, workers: int | None = None, **choices: Any) -> xr.Dataset:
    """The whole survey, of which each analysis shows a part."""
    return survey_atlas(atlas, *parse_survey(atlas, choices), Execution(save=save, workers=workers))


def write(made: Synthetic, name: str, keep: str = "factors") -> attlas.Atlas:
    writer = AtlasWriter.create(f"memory://{name}", made.spec(keep), overwrite=True)
    for pack in made.packs:
        made.write_pack(writer, pack, keep=keep)
    return open_atlas(f"memory://{name}")


def dense_heads(made: Synthetic, layer: int, head: int, chosen: list[int] | None = None) -> list[brute.Dense]:
    found = []
    for i, document in enumerate(made.documents):
        if chosen is not None and i not in chosen:
            continue
        tokens = document.tokens["text"]
        start, stop = made.interval(len(tokens))
        keys = np.arange(len(tokens))
        found.append(
            brute.Dense(
                a_QK=made.dense(i)[layer, head], visible_QK=(keys >= start[:, None]) & (keys < stop[:, None]),
                ids_Q=tokens.ids, ids_K=tokens.ids, special_K=tokens.special, separator_K=tokens.special,
            )
        )  # fmt: skip
    return found


def check_statistics(
    found: xr.Dataset, place: dict[str, Any], expected: dict[str, Any], *, prefix: str = "", cells: int = 1000
) -> None:
    for name, value in expected.items():
        got = found[f"{prefix}{name}"].sel(place).values
        if name == "gini":  # two of a document's few cells may share a bin
            np.testing.assert_allclose(got, value, rtol=3e-4 if cells < 100 else EXACT, atol=TINY, err_msg=name)
        elif name == "weight_quantile":
            assert np.all(got <= value * FACTOR), (name, got, value)
            assert np.all(got >= value / FACTOR), (name, got, value)
        else:
            np.testing.assert_allclose(got, value, rtol=EXACT, atol=TINY, err_msg=f"{prefix}{name} {place}")


def check_roles(found: xr.Dataset, place: dict[str, Any], heads: list[brute.Dense]) -> None:
    scores, uniform = brute.roles(heads), brute.roles(heads, uniform=True)
    for role, value in scores.items():
        got = float(found.role_score.sel(place | {"role": role}))
        assert got == pytest.approx(value, rel=EXACT, abs=TINY), role
        if role in uniform:
            baseline = float(found.role_baseline.sel(layer=place["layer"], role=role))
            assert baseline == pytest.approx(uniform[role], rel=1e-9), role
    assert set(found.role.values) == set(scores)


@pytest.mark.parametrize("rule", ["plain", "softcap", "sinks", "bias"])
@pytest.mark.parametrize("window", [None, 12])
def test_statistics_equal_brute_force(rule: str, window: int | None) -> None:
    made = synthetic(rule=rule, window=window, seed=3)
    found = survey(write(made, f"exact-{rule}-{window}"), thresholds=THRESHOLDS)
    longest = max(len(d.tokens["text"]) for d in made.documents)
    for layer in (0, 1):
        for head in range(4):
            place = {"layer": layer, "head": head}
            heads = dense_heads(made, layer, head)
            options: dict[str, Any] = {"thresholds": THRESHOLDS, "levels": LEVELS, "longest": longest}
            check_statistics(found, place, brute.statistics(heads, **options))
            check_roles(found, place, heads)
            for i, one in enumerate(heads):
                where = place | {"document": f"doc-{i}"}
                expected = brute.statistics([one], **options)
                check_statistics(found, where, expected, prefix="document_", cells=int(one.visible_QK.sum()))
        dense = [made.dense(i)[layer] for i in range(len(made.documents))]
        np.testing.assert_allclose(found.similarity.sel(layer=layer), brute.cosine(dense), rtol=EXACT)


def test_documents_that_span_blocks_equal_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one shard: documents are cut, and joined again."""
    monkeypatch.setattr("attlas.jobs.blocks.BLOCK_ROWS", 64)
    made = synthetic((150, 7, 90, 200), seed=4)
    found = survey(write(made, "spanning"), thresholds=THRESHOLDS)
    for i in range(4):
        heads = dense_heads(made, 1, 2, [i])
        expected = brute.statistics(heads, thresholds=THRESHOLDS, levels=LEVELS, longest=200)
        check_statistics(found, {"layer": 1, "head": 2, "document": f"doc-{i}"}, expected, prefix="document_")


def test_stored_row_statistics_give_the_same() -> None:
    made = synthetic(seed=5)
    factors, stored = (
        survey(write(made, f"tier-{keep}", keep), thresholds=THRESHOLDS) for keep in ("factors", "statistics")
    )
    assert stored.attrs["source"] == "stored row statistics"
    for name in ("entropy", "normalised_entropy", "row_max", "mean_distance", "first_weight", "std_weight"):
        np.testing.assert_allclose(stored[name], factors[name], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(stored[f"document_{name}"], factors[f"document_{name}"], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(stored.gini, factors.gini, atol=2e-3)
    np.testing.assert_allclose(stored.similarity, factors.similarity, rtol=1e-5)
    for role in stored.role.values:
        np.testing.assert_allclose(stored.role_score.sel(role=role), factors.role_score.sel(role=role), rtol=1e-5)
    assert "weight_by_distance" not in stored
    assert "document_gini" not in stored


FAMILIES = ("llama", "gemma2", "gpt_oss", "bert", "modernbert", "t5")


@pytest.mark.parametrize("name", FAMILIES)
def test_families_equal_their_eager_attention(name: str) -> None:
    family = BY_NAME[name]
    model, inputs = build_model(family), documents(family)
    atlas = attlas.capture(model, inputs, f"memory://analysis-{name}", overwrite=True)
    maps = [eager_attention(model, document) for document in inputs]
    for kind in atlas.kinds:
        found = survey(atlas, kind=kind, thresholds=THRESHOLDS)
        rows: dict[str, Any] = {"encoder": (0, 0), "decoder": (1, 1), "cross": (1, 0)}
        for layer in (0, 1):
            for head in (0, 3):
                heads = []
                for document, one in zip(inputs, maps, strict=True):
                    pair = rows.get(kind)
                    ids = (document, document) if pair is None else (document[pair[0]], document[pair[1]])
                    a_QK = one[kind][layer][head].double().numpy()
                    none = np.zeros(len(ids[1]), dtype=bool)
                    heads.append(
                        brute.Dense(
                            a_QK=a_QK, visible_QK=a_QK > 0, ids_Q=np.array(ids[0]), ids_K=np.array(ids[1]),
                            special_K=none, separator_K=none, same_axis=kind != "cross",
                        )
                    )  # fmt: skip
                longest = max(h.a_QK.shape[1] for h in heads)
                expected = brute.statistics(heads, thresholds=THRESHOLDS, levels=LEVELS, longest=longest)
                check_statistics(found, {"layer": layer, "head": head}, expected)
                check_roles(found, {"layer": layer, "head": head}, heads)


TEXT = (
    "The history of the lighthouse is older than the town below it. Sailors who came home at night looked for the "
    "light before they looked for the harbour, and the keeper wrote down every ship that passed. In the winter of the "
    "great storm the lamp went out twice; twice the keeper climbed the stairs in the dark, and twice he lit it again. "
) * 4


@pytest.mark.real
@pytest.mark.parametrize("real", ["minilm", "smollm2"])
def test_real_models_equal_their_eager_attention(real: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(real)
    texts = [TEXT[:700], "A short one.", TEXT[300:700]]
    atlas = attlas.capture(
        str(folder), texts, f"memory://analysis-{real}", dtype="float32", layers=[0, -1], overwrite=True
    )
    found = survey(atlas, thresholds=THRESHOLDS)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = set(tokenizer.all_special_ids)
    layers = atlas.layers("self")
    places = [(layer, head) for layer in layers for head in (0, 4, 8)]
    heads: dict[tuple[int, int], list[brute.Dense]] = {place: [] for place in places}
    dense: dict[int, list[Any]] = {layer: [] for layer in layers}
    for text in texts:
        ids = tokenizer(text).input_ids
        tokens = [str(tokenizer.decode([i])).strip(" ") for i in ids]
        marks = np.array(
            [i in special or (bool(t) and set(t) <= set(".,;:!?\n\r")) for i, t in zip(ids, tokens, strict=True)]
        )
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
        for layer in layers:
            a_HQK = out[layer][0].double().numpy()
            dense[layer].append(a_HQK)
            visible = np.ones(a_HQK.shape[1:], dtype=bool)
            for head in (0, 4, 8):
                heads[layer, head].append(
                    brute.Dense(
                        a_QK=a_HQK[head], visible_QK=visible if real == "minilm" else np.tril(visible),
                        ids_Q=np.array(ids), ids_K=np.array(ids),
                        special_K=np.array([i in special for i in ids]), separator_K=marks,
                    )
                )  # fmt: skip
    longest = max(d.a_QK.shape[0] for d in heads[places[0]])
    for layer, head in places:
        expected = brute.statistics(heads[layer, head], thresholds=THRESHOLDS, levels=LEVELS, longest=longest)
        check_statistics(found, {"layer": layer, "head": head}, expected)
        check_roles(found, {"layer": layer, "head": head}, heads[layer, head])
    for layer in layers:
        np.testing.assert_allclose(found.similarity.sel(layer=layer), brute.cosine(dense[layer]), rtol=EXACT)
