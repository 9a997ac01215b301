"""Probes and published metrics, against the model's own eager attention; atlases of chosen heads and rows."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import attlas
from attlas import analysis
from attlas.analysis.head_probe import repeated_documents
from attlas.errors import InputError
from tests import oracle
from tests.analysis import brute
from tests.families import BY_NAME, VOCABULARY, build_model, documents, eager_attention


def test_probe_scores_are_diagonals_of_eager_attention() -> None:
    model = build_model(BY_NAME["llama"])
    found = analysis.probe_heads(model, length=20, count=2, seed=3)
    texts = repeated_documents(VOCABULARY, length=20, count=2, seed=3)
    maps = [np.stack([layer.numpy() for layer in eager_attention(model, text.tolist())["self"]]) for text in texts]
    for name, offset in (("previous", 1), ("duplicate", 20), ("induction", 19)):
        expected = np.mean([np.diagonal(a, -offset, 2, 3).mean(-1) for a in maps], axis=0)
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, err_msg=name)
    prefixes = repeated_documents(VOCABULARY, length=25, repeats=4, count=2, seed=4)
    expected = np.zeros((2, 4))
    for text in prefixes:
        a = np.stack([layer.numpy() for layer in eager_attention(model, text.tolist())["self"]])
        rows = [
            a[:, :, i, [j for j in range(1, i + 1) if text[j - 1] == text[i]]].sum(-1)
            for i in range(100)
            if any(text[j - 1] == text[i] for j in range(1, i + 1))
        ]
        expected += np.mean(rows, axis=0) / 2
    np.testing.assert_allclose(found.prefix_matching, expected, rtol=2e-2)  # documents are pooled by rows


def test_probes_at_once_each_have_a_store_of_their_own() -> None:
    models = [build_model(BY_NAME["llama"]) for _ in range(4)]
    gc.collect()
    before = memory_stores()
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda i: analysis.probe_heads(models[i], length=12, seed=i), range(4)))
    for i, probed in enumerate(at_once):
        xr.testing.assert_allclose(probed, analysis.probe_heads(models[i], length=12, seed=i), rtol=1e-5)
    gc.collect()
    assert memory_stores() == before, "nothing is left in memory"


def memory_stores() -> int:
    return sum(isinstance(one, MemoryStore) for one in gc.get_objects())


def test_the_demo_models_induction_head_is_found() -> None:
    found = analysis.probe_heads("demo", length=40)
    best = found.induction.argmax(...)
    assert float(found.induction.max()) > 0.5
    assert float(found.induction.max()) > 20 * float(found.induction_baseline)
    assert int(best["layer"]) == 1


def test_sink_metric_is_its_definition() -> None:
    model, texts = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=(30, 24))
    atlas = attlas.capture(model, texts, "memory://sinks", overwrite=True)
    found = analysis.sink_metric(atlas, epsilon=0.1, tokens=20)
    for i, text in enumerate(texts):
        a = np.stack([layer.numpy() for layer in eager_attention(model, text)["self"]])[:, :, :20, 0].mean(2)
        assert float(found.sink[i]) == pytest.approx((a > 0.1).mean())
    with pytest.raises(InputError, match="24 query rows"):
        analysis.sink_metric(atlas, tokens=25)
    same = attlas.capture(model, [text[:20] for text in texts], "memory://sinks-20", overwrite=True)
    again = analysis.sink_metric(same, epsilon=0.1, tokens=20)  # by one job, since every document is as long
    np.testing.assert_allclose(again["first"], found["first"], rtol=1e-5)
    np.testing.assert_array_equal(again.sink, found.sink)


@pytest.mark.parametrize("kept", [{"heads": [0, 3]}, {"heads": [0, 1, 3]}, {"layers": [1]}, {"queries": "2,5:9,-3:"}])
def test_chosen_heads_layers_and_rows_equal_eager_attention(kept: dict[str, object]) -> None:
    """Heads that share kv heads unequally too; rows that are only some of a document's."""
    model, texts = build_model(BY_NAME["mistral"]), documents(BY_NAME["mistral"], lengths=(40, 21, 33))
    atlas = attlas.capture(model, texts, "memory://chosen", overwrite=True, **kept)  # type: ignore[arg-type]
    found = analysis.statistics(atlas, thresholds=(0.01,))
    roles = analysis.head_roles(atlas, thresholds=(0.01,))
    maps = [eager_attention(model, text)["self"] for text in texts]
    for layer in found["layer"].values:
        for head in found["head"].values:
            place = {"layer": int(layer), "head": int(head)}
            rows = [np.array(sorted({2, *range(5, 9), *range(n - 3, n)})) for n in (40, 21, 33)]
            if "queries" not in kept:
                rows = [np.arange(n) for n in (40, 21, 33)]
            total, entropy, previous, seen = 0.0, 0.0, 0.0, 0
            for text, a, some in zip(texts, maps, rows, strict=True):
                a_QK = a[layer][head].double().numpy()
                d = brute.Dense(
                    a_QK=a_QK, visible_QK=a_QK > 0, ids_Q=np.array(text), ids_K=np.array(text),
                    special_K=np.zeros(len(text), bool), separator_K=np.zeros(len(text), bool),
                )  # fmt: skip
                one = oracle.row_statistics(d.a_QK, d.visible_QK, d.ids_Q, d.ids_K, d.special_K)
                entropy += one["entropy"][some].sum()
                previous += one["previous_weight"][some].sum()
                seen += int((some > 0).sum())
                total += len(some)
            assert float(found.entropy.sel(place)) == pytest.approx(entropy / total, rel=1e-4)
            score = float(roles.role_score.sel(place | {"role": "previous"}))
            assert score == pytest.approx(previous / seen, rel=1e-4)
