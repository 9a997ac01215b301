"""The whole way, from a model to queried weights, against the model's own eager attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoModel, AutoTokenizer, T5ForConditionalGeneration

import attlas
from attlas.engine.kernels.histogram import gini_from_histogram
from attlas.engine.kernels.row_statistics import statistic_names
from attlas.errors import InputError, NotFiniteError, StoreExistsError, TierError, UnsupportedModelError
from tests import families, oracle
from tests.actors.pipeline import assert_atlases_equal
from tests.families import BY_NAME, FAMILIES, Family, build_model, documents, eager_attention

EAGER = 1e-5


def variable(kind: str, name: str) -> str:
    return name if kind == "self" else f"{kind}_{name}"


def special_tokens(length: int) -> np.ndarray[Any, Any]:
    return np.zeros(length, dtype=bool)  # documents given as ids to a model without a tokenizer have none


def visible_cells(a: torch.Tensor) -> np.ndarray[Any, Any]:
    return a.numpy() > 0


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_tier_equals_eager_attention(family: Family) -> None:
    model, inputs = build_model(family), documents(family)
    atlases = {
        keep: attlas.capture(
            model, inputs, f"memory://{family.name}-{keep}", keep=keep, map_dtype="float32", overwrite=True
        )
        for keep in ("factors", "statistics", "maps")
    }
    assert all(attlas.verify(f"memory://{family.name}-{keep}").passed for keep in atlases)
    for i, document in enumerate(inputs):
        pages = {keep: atlas[f"doc-{i}"] for keep, atlas in atlases.items()}
        for kind, layers in eager_attention(model, document).items():
            name = variable(kind, "attention")
            eager = torch.stack(layers).numpy()
            np.testing.assert_allclose(pages["factors"][name].values, eager, atol=EAGER, rtol=0)
            maps = atlases["maps"].root[f"{kind}/maps/doc-{i}/attention"]
            np.testing.assert_allclose(np.asarray(maps[...]), eager, atol=EAGER, rtol=0)  # type: ignore[index]
            with pytest.raises(TierError, match="factors"):
                pages["statistics"][name]
            _check_statistics(pages, kind, eager, document, has_sinks="sinks" in family.traits)


def _check_statistics(pages: dict[str, xr.Dataset], kind: str, eager: Any, document: Any, *, has_sinks: bool) -> None:
    queries, keys = {
        "self": (document, document),
        "encoder": (document[0], document[0]),
        "decoder": (document[-1], document[-1]),
        "cross": (document[-1], document[0]),
    }[kind]
    names = statistic_names(same_axis=kind != "cross", sinks=has_sinks)
    for layer in range(eager.shape[0]):
        for head in range(eager.shape[1]):
            a = eager[layer, head].astype(np.float64)
            expected = oracle.row_statistics(
                a, a > 0, queries, keys, special_tokens(len(keys)), same_axis=kind != "cross"
            )
            for name in names:
                for keep in ("statistics", "factors"):
                    found = pages[keep][variable(kind, name)].values[layer, head]
                    if name == "argmax_key":  # where two weights tie within rounding, either key is right
                        np.testing.assert_allclose(a[range(len(a)), found.astype(int)], a.max(1), atol=2e-5)
                    else:
                        np.testing.assert_allclose(
                            found, expected[name], rtol=1e-4, atol=3e-5, err_msg=f"{kind} {name} {keep}"
                        )


def test_the_model_is_as_it_was_after_a_capture() -> None:
    model = build_model(BY_NAME["t5"], attn_implementation="sdpa").train()
    attlas.capture(model, documents(BY_NAME["t5"]), "memory://restored", overwrite=True)
    assert model.config._attn_implementation == "sdpa"
    assert model.training
    assert not any("compute_bias" in vars(module) for module in model.modules())


def test_a_model_with_its_head_is_captured_as_the_model_under_it() -> None:
    """T5's head has no base model of its own to be found; the others are run without theirs."""
    family = BY_NAME["t5"]
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(family.config()).eval()  # type: ignore[arg-type]
    model.set_attn_implementation("eager")
    inputs = documents(family)
    page = attlas.capture(model, inputs, "memory://head", overwrite=True)["doc-0"]
    for kind, layers in eager_attention(model, inputs[0]).items():
        np.testing.assert_allclose(page[f"{kind}_attention"].values, torch.stack(layers).numpy(), atol=EAGER, rtol=0)


TEXT = (
    "The history of the lighthouse is older than the town below it. Sailors who came home at night looked for the "
    "light before they looked for the harbour, and the keeper wrote down every ship that passed. In the winter of the "
    "great storm the lamp went out twice; twice the keeper climbed the stairs in the dark, and twice he lit it again. "
) * 12


@pytest.mark.real
@pytest.mark.parametrize("real", ["minilm", "smollm2"])
def test_real_models_equal_eager_attention(real: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue(real)
    texts = [TEXT, "A short one.", TEXT[: len(TEXT) // 3]]
    limit = 512 if real == "minilm" else 768
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    atlases = {
        keep: attlas.capture(
            str(folder), texts, tmp_path / f"{keep}.zarr", keep=keep, max_tokens=limit, dtype="float32",
            layers=None if keep == "factors" else [0, -1], map_dtype="float32",
        )
        for keep in ("factors", "statistics", "maps")
    }  # fmt: skip
    truncated = atlases["factors"].documents["truncated_from"].values
    assert truncated[0] > limit
    assert truncated[1] == 0
    _check_sums(atlases["statistics"], atlases["factors"])
    rng = np.random.default_rng(0)
    for document in ("doc-0", "doc-1"):
        page = atlases["factors"][document]
        ids = page.query_token_id.values
        assert len(ids) == (limit if document == "doc-0" else len(ids))
        (layers,) = eager_attention(model, ids.tolist()).values()
        for layer, eager in enumerate(layers):
            found = page.attention.isel(layer=layer).values
            np.testing.assert_allclose(found, eager.numpy(), atol=EAGER, rtol=0)
        last = len(layers) - 1
        special = np.isin(ids, tokenizer.all_special_ids)
        for layer in (0, last):
            head = int(rng.integers(layers[layer].shape[0]))
            a = layers[layer][head].double().numpy()
            stored = np.asarray(
                atlases["maps"].root[f"self/maps/{document}/attention"][0 if layer == 0 else 1]  # type: ignore[index]
            )
            np.testing.assert_allclose(stored, layers[layer].numpy(), atol=EAGER, rtol=0)
            expected = oracle.row_statistics(a, a > 0, ids, ids, special)
            for name in statistic_names(same_axis=True, sinks=False):
                if name == "argmax_key":
                    continue
                for keep in ("statistics", "factors"):
                    found = atlases[keep][document][name].sel(layer=layer, head=head).values
                    np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=3e-5, err_msg=f"{name} {keep}")


def _check_sums(statistics: attlas.Atlas, factors: attlas.Atlas) -> None:
    """Gini from the histogram within 2e-3 of that of all visible weights, head_gram within 1e-4, over every head."""
    assert len(statistics.packs["state"]) == 1
    counts, grams = (statistics.column(f"self/statistics/{name}")[0] for name in ("histogram", "head_gram"))
    for place, layer in enumerate(statistics.layers("self")):
        seen: list[list[Any]] = [[] for _ in range(counts.shape[1])]
        gram = np.zeros(grams.shape[1:])
        for document in factors:
            rows = factors.rows("self", list(factors).index(document))
            start, stop = rows.intervals(layer, np.arange(rows.queries))
            keys = np.arange(rows.keys)
            visible = (keys >= start[:, None]) & (keys < stop[:, None])
            a = factors[document].attention.sel(layer=layer).values.astype(np.float64)
            for head, one in enumerate(a):
                seen[head].append(one[visible])
            flat = a.reshape(len(a), -1)
            gram += flat @ flat.T
        np.testing.assert_allclose(grams[place], gram, rtol=1e-4)
        for head, weights in enumerate(seen):
            every = np.concatenate(weights)
            assert counts[place, head].sum() == len(every)
            assert abs(gini_from_histogram(counts[place, head]) - oracle.gini(every)) < 2e-3


@pytest.mark.real
def test_gguf_is_loaded_as_it_is(smollm2_gguf: Path, smollm2: Path) -> None:
    first = attlas.capture(str(smollm2_gguf), "The capital of France", "memory://gguf", layers=[0], overwrite=True)
    second = attlas.capture(str(smollm2), "The capital of France", "memory://safetensors", layers=[0], overwrite=True)
    np.testing.assert_array_equal(first["doc-0"].attention.values, second["doc-0"].attention.values)
    assert first.model["weights"] == second.model["weights"]


def test_bfloat16_is_kept_exactly() -> None:
    family = BY_NAME["llama"]
    model = build_model(family).bfloat16()
    atlas = attlas.capture(model, documents(family), "memory://bf16", overwrite=True)
    rows = atlas.rows("self", 0)
    heads, tokens = np.arange(4), np.arange(rows.queries)
    for layer in range(2):
        q, _, k = rows.factors(layer, heads, tokens, tokens)
        assert q.dtype == torch.bfloat16
        score = torch.einsum("hqd,hkd->hqk", q.double(), k.double().repeat_interleave(len(q) // len(k), 0)) * 8**-0.5
        future = torch.ones(score.shape[1:]).triu(1).bool()
        expected = torch.softmax(score.masked_fill(future, -torch.inf), -1)
        found = atlas["doc-0"].attention.isel(layer=layer).values
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("keep", ["statistics", "factors", "maps"])
def test_nan_in_a_key_projection_is_named_and_nothing_is_committed(keep: str, tmp_path: Path) -> None:
    family = BY_NAME["qwen2"]
    model = build_model(family)
    attlas.capture(model, documents(family), tmp_path / "good.zarr", keep=keep)
    layer = model.get_submodule("layers.1.self_attn.k_proj")

    def poison(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if output.shape[1] > 30:  # the documents' pack, not the probe
            output = output.clone()
            output[0, 23 + 5 + 4, 8 + 3] = float("nan")  # third document, its token 4, kv head 1
        return output

    handle = layer.register_forward_hook(poison)
    try:
        with pytest.raises(NotFiniteError, match=r"k is nan in document 'c', self layer 1, kv head 1, token 4"):
            attlas.capture(model, documents(family), tmp_path / "bad.zarr", keep=keep, ids=["a", "b", "c"])
        assert not (tmp_path / "bad.zarr").exists()
    finally:
        handle.remove()


def test_infinite_scores_are_named() -> None:
    family = BY_NAME["llama"]
    model = build_model(family)
    with torch.no_grad():
        for name in ("q_proj", "k_proj"):
            model.get_parameter(f"layers.0.self_attn.{name}.weight").mul_(1e25)
    with pytest.raises((NotFiniteError, UnsupportedModelError)):
        attlas.capture(model, documents(family), "memory://overflow", overwrite=True)


def test_layers_keep_the_models_own_indices() -> None:
    model, inputs = build_model(BY_NAME["modernbert"]), documents(BY_NAME["modernbert"])
    whole = attlas.capture(model, inputs, "memory://whole", overwrite=True)["doc-0"]
    some = attlas.capture(model, inputs, "memory://some", layers=[1, -1], overwrite=True)["doc-0"]
    assert some.layer.values.tolist() == [1, 3]
    np.testing.assert_array_equal(some.attention.sel(layer=3).values, whole.attention.sel(layer=3).values)
    np.testing.assert_array_equal(some.entropy.sel(layer=1).values, whole.entropy.sel(layer=1).values)


def test_chunks_change_nothing() -> None:
    for name in ("llama", "gemma2", "gpt_oss", "llama4", "mistral"):
        model, inputs = build_model(BY_NAME[name]), documents(BY_NAME[name], lengths=(37, 20))
        whole = attlas.capture(model, inputs, "memory://one-pass", overwrite=True)
        cut = attlas.capture(model, inputs, "memory://chunks", chunk_tokens=10, overwrite=True)
        for document in whole:
            np.testing.assert_allclose(
                cut[document].attention.values, whole[document].attention.values, atol=1e-5, err_msg=name
            )


@pytest.mark.parametrize("layers", [2, 4])
def test_shards_of_several_layers_hold_the_same(layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of many blocks puts several layers into a file: fewer files, every array and answer the same."""
    model, inputs = build_model(BY_NAME["gemma2"], layers=4), documents(BY_NAME["gemma2"], lengths=(120, 20, 90, 100))
    monkeypatch.setattr("attlas.storage.sizes.FACTOR_TOKENS", 64)
    monkeypatch.setattr("attlas.storage.schema.FACTOR_TOKENS", 64)
    stores: dict[str, Any] = {}
    for most, name in ((1000, "many"), (20 if layers == 2 else 1, "few")):
        monkeypatch.setattr("attlas.storage.sizes.FACTOR_FILES", most)
        stores[name] = attlas.capture(model, inputs, tmp_path / name, chunk_tokens=100)
    blocks = -(-stores["few"].root["self/q"].shape[2] // 64)
    for name, span in (("many", 1), ("few", layers)):
        assert stores[name].root["self/q"].shards[0] == span
        files = [path for x in "qk" for path in (tmp_path / name / "self" / x / "c").rglob("*") if path.is_file()]
        assert len(files) == 2 * (4 // span) * blocks
    assert_atlases_equal(tmp_path / "few", tmp_path / "many")
    assert attlas.verify(tmp_path / "few").problems == ()
    one, other = (attlas.analysis.statistics(atlas, save=False) for atlas in stores.values())
    xr.testing.assert_identical(one, other)


def test_a_bidirectional_model_refuses_chunks() -> None:
    with pytest.raises(InputError, match="see later tokens"):
        attlas.capture(
            build_model(BY_NAME["bert"]), documents(BY_NAME["bert"]), "memory://never", chunk_tokens=4, overwrite=True
        )


def test_resume_adds_only_what_is_missing(tmp_path: Path) -> None:
    family = BY_NAME["llama"]
    model = build_model(family)
    inputs = documents(family, lengths=(60, 70, 80))
    store = tmp_path / "atlas.zarr"
    attlas.capture(model, inputs, store, resume=True)  # nothing is there yet: it begins
    with pytest.raises(StoreExistsError, match="--resume"):
        attlas.capture(model, inputs, store)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    attlas.capture(model, inputs, store, resume=True)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before
    with pytest.raises(InputError, match="other documents"):
        attlas.capture(model, documents(family, seed=1, lengths=(60, 70, 80)), store, resume=True)
    with pytest.raises(InputError, match="another model"):
        attlas.capture(build_model(family, seed=5), inputs, store, resume=True)
    with pytest.raises(InputError, match="another keep"):
        attlas.capture(model, inputs, store, keep="statistics", resume=True)


def test_families_are_many() -> None:
    traits = set().union(*(family.traits for family in FAMILIES))
    assert len(FAMILIES) >= 24
    assert traits >= {"gqa", "sliding", "softcap", "sinks", "mla", "moe", "relative_bias"}
    assert families.VOCABULARY < 100
