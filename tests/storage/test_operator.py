"""The operator of an atlas: equal to the dense product of the page's own weights and of the model's eager attention,
whatever the tier, the rows kept, the packs, and the parts in which factors are read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForCausalLM

import attlas
from attlas.engine.kernels import door
from attlas.engine.kernels.discard import Discard
from attlas.errors import DocumentMissingError, InputError, TierError
from attlas.storage import Atlas, AttentionOperator
from tests.engine.kernels.operator_conformance import discarded
from tests.families import BY_NAME, FAMILIES, Family, build_model, documents, eager_attention

BOUND = 1e-5
TEXTS = ["one two three, one two three; and one two three again.", "hello", "a second one, of another length"]


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    """Three documents in one pack."""
    return attlas.capture("demo", TEXTS, "memory://operator", ids=["a", "b", "c"])


def near(found: Any, expected: Any, bound: float = BOUND) -> None:
    assert np.shape(found) == np.shape(expected)
    assert np.abs(np.asarray(found, dtype=float) - expected).max() <= bound * np.abs(expected).max()


def dense(atlas: Atlas, document: str, layer: int, kind: str = "self") -> Any:
    """(H, N, M) float64 of the page's weights."""
    return atlas.attention(document, kind).sel(layer=layer).values.astype(np.float64)


def exact(atlas: Atlas, document: str, layer: int) -> Any:
    """(H, N, N), softmax in float64 of a causal layer: scores of 40 leave float32 itself 1e-6 to 7e-6."""
    rows = atlas.rows("self", atlas.documents.document_id.values.tolist().index(document))
    place = np.arange(rows.queries)
    q_HND, _, k_GND = rows.factors(layer, np.arange(4), place, place)
    k_HND = k_GND.repeat_interleave(4 // len(k_GND), dim=0).double()
    scores_HNN = q_HND.double() @ k_HND.transpose(1, 2) * float(rows.rule(layer).scaling)
    hidden_NN = torch.ones(rows.queries, rows.queries).triu(1).bool()
    return scores_HNN.masked_fill(hidden_NN, -torch.inf).softmax(-1).numpy()


def draw(*shape: int) -> Any:
    return np.random.default_rng(5).normal(size=shape)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_equal_to_the_models_eager_attention(family: Family) -> None:
    """Both products of every kind and layer, of each head and of the mean, packed with other documents."""
    model = build_model(family)
    given = documents(family, lengths=(23, 12))
    atlas = attlas.capture(model, given, f"memory://operator-{family.name}")
    # scores of T5 are large and not scaled: float32 leaves them, and eager's own, 1e-4 (docs/validation.md)
    bound = 2e-4 if "relative_bias" in family.traits else BOUND
    for document, one in zip(atlas, given, strict=True):
        for kind, layers in eager_attention(model, one).items():
            for layer, a in enumerate(layers):
                a_HNM = a.double().numpy()
                operator = atlas.operator(document, layer, kind)
                queries, keys = operator.shape
                x, y = draw(keys, 3), draw(queries, 3)
                near(operator.apply(x), a_HNM @ x, bound)
                near(operator.apply(x, "mean"), a_HNM.mean(axis=0) @ x, bound)
                near(operator.apply_transposed(y), a_HNM.transpose(0, 2, 1) @ y, bound)
                near(operator.apply_transposed(y, "mean"), a_HNM.mean(axis=0).T @ y, bound)
                near(operator.row_sums(), a_HNM.sum(axis=2), bound)


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_equal_to_the_eager_attention_of_a_real_model(name: str, request: pytest.FixtureRequest) -> None:
    """Every layer of the two real models, 200 tokens and more."""
    folder = str(request.getfixturevalue(name))
    atlas = attlas.capture(folder, [TEXTS[0] * 18], f"memory://operator-{name}", ids=["a"], overwrite=True)
    load = AutoModelForCausalLM if name == "smollm2" else AutoModel
    model = load.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    ids = torch.from_numpy(atlas.attention("a")["key_token_id"].values[None].astype(np.int64))
    with torch.no_grad():
        layers = model(ids, output_attentions=True).attentions
    assert ids.shape[1] > 200
    assert len(layers) == len(atlas.layers("self"))
    x = draw(ids.shape[1], 3)
    for layer, a in enumerate(layers):
        a_HNN, operator = a[0].double().numpy(), atlas.operator("a", layer)
        near(operator.apply(x), a_HNN @ x)
        near(operator.apply(x, "mean"), a_HNN.mean(axis=0) @ x)
        near(operator.apply_transposed(x), a_HNN.transpose(0, 2, 1) @ x)
        near(operator.apply_transposed(x, "mean"), a_HNN.mean(axis=0).T @ x)


@pytest.mark.parametrize("keep", ["factors", "maps"])
def test_heads_and_shapes(keep: str) -> None:
    atlas = attlas.capture("demo", TEXTS, f"memory://operator-{keep}", ids=["a", "b", "c"], keep=keep)
    operator, a = atlas.operator("a", 2), dense(atlas, "a", 2)
    queries, keys = operator.shape
    x = draw(keys, 4)
    near(operator.apply(x, 3), a[3] @ x)
    near(operator.apply(x, [3, 1, 0]), a[[3, 1, 0]] @ x)
    near(operator.apply(x, (2,)), a[[2]] @ x)
    near(operator.apply(x[:, 0]), a @ x[:, 0])
    near(operator.apply(x[:, 0], "mean"), a.mean(axis=0) @ x[:, 0])
    own = draw(4, keys, 2)
    near(operator.apply(own), a @ own)
    near(operator.apply(own, "mean"), (a @ own).mean(axis=0))
    near(operator.apply_transposed(draw(4, queries, 2)), a.transpose(0, 2, 1) @ draw(4, queries, 2))
    assert operator.apply(x.astype(np.float32), 0).dtype == np.float32
    assert operator.apply(np.arange(keys), 0).dtype == np.float64
    np.testing.assert_allclose(operator.row_sums([1, 2]), 1)
    assert operator.row_sums(0).shape == (queries,)


def test_of_chosen_query_rows(atlas: Atlas) -> None:
    """A has a row for each query kept; its columns are all keys."""
    some = attlas.capture("demo", TEXTS[:1], "memory://operator-rows", ids=["a"], queries=[3, 4, 10, 20])
    operator = some.operator("a", 1)
    assert operator.queries.tolist() == [3, 4, 10, 20]
    a = dense(atlas, "a", 1)[:, [3, 4, 10, 20]]
    assert operator.shape == a.shape[1:]
    near(operator.apply(draw(a.shape[2], 2)), a @ draw(a.shape[2], 2))
    near(operator.apply_transposed(draw(4, 2), "mean"), a.mean(axis=0).T @ draw(4, 2))


def test_a_labelled_x_gives_a_labelled_answer(atlas: Atlas) -> None:
    operator, a = atlas.operator("a", 1), dense(atlas, "a", 1)
    keys = operator.shape[1]
    x = xr.DataArray(draw(keys, 2, 3), dims=("key", "word", "what"), coords={"what": list("uvw")}, attrs={"units": "m"})
    found = operator.apply(x)
    assert found.dims == ("head", "query", "word", "what")
    assert found["what"].values.tolist() == list("uvw")
    assert found.attrs == {"units": "m", "document_id": "a", "kind": "self", "layer": 1}
    near(found.values, np.einsum("hqk,kab->hqab", a, x.values))
    near(operator.apply(x.transpose("what", "key", "word"), "mean").transpose("query", "word", "what").values,
         np.einsum("qk,kab->qab", a.mean(axis=0), x.values))  # fmt: skip
    back = operator.apply_transposed(found[:, :, 0, 0].drop_vars("what"), [0, 1, 2, 3])
    assert back.dims == ("head", "key")
    near(back.values, np.einsum("hqk,hq->hk", a, found.values[:, :, 0, 0]))
    assert operator.apply(x[:, 0, 0], 2).dims == ("query",)
    with pytest.raises(InputError, match="it needs key"):
        operator.apply(found)


@settings(max_examples=12, deadline=None)
@given(
    factor_bytes=st.integers(3_000, 60_000), tile_bytes=st.integers(1, 20_000), document=st.sampled_from("abc"),
    head=st.sampled_from([None, 2, [1, 3], "mean"]),
)  # fmt: skip
def test_the_parts_do_not_matter(atlas: Atlas, factor_bytes: int, tile_bytes: int, document: str, head: Any) -> None:
    whole = atlas.operator(document, 1)
    cut = replace(whole, factor_bytes=factor_bytes, tile_bytes=tile_bytes)
    a_HNM = exact(atlas, document, 1)
    a = a_HNM if head is None else a_HNM.mean(axis=0) if head == "mean" else a_HNM[head]
    x = draw(whole.shape[0], 2)
    near(cut.apply(x, head), a @ x)
    near(cut.apply_transposed(x, head), np.swapaxes(a, -1, -2) @ x)
    discard = Discard(share=0.6)
    near(cut.apply(x, "mean", discard=discard), whole.apply(x, "mean", discard=discard), 2 * BOUND)


def test_discard_is_of_the_mean(atlas: Atlas) -> None:
    operator, a = atlas.operator("a", 0), dense(atlas, "a", 0).mean(axis=0)
    expected = discarded(a, np.tril(np.ones(a.shape, dtype=bool)), Discard(share=0.5))
    x = draw(len(a), 2)
    near(operator.apply(x, "mean", discard=Discard(share=0.5)), expected @ x)
    near(operator.apply_transposed(x, "mean", discard=Discard(share=0.5)), expected.T @ x)
    with pytest.raises(InputError, match='give head="mean"'):
        operator.apply(x, 0, discard=Discard(share=0.5))


@pytest.mark.parametrize("whole_rows", [False, True])
def test_no_more_factors_are_held_than_told(whole_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of q, k and log-sum-exp within their bytes, and as many as these make necessary."""
    atlas = attlas.capture("demo", ["one two three " * 60], f"memory://operator-long-{whole_rows}", ids=["a"])
    operator = atlas.operator("a", 1)
    held: list[int] = []
    keys: list[int] = []
    real = door.apply

    def watched(problem: Any, lse_HN: Any, *rest: Any, **asked: Any) -> torch.Tensor:
        held.append(sum(tensor.nbytes for tensor in (problem.q_HND, problem.k_GMD, lse_HN)))
        keys.append(problem.k_GMD.nbytes)
        return real(problem, lse_HN, *rest, **asked)

    monkeypatch.setattr(door, "apply", watched)
    discard = Discard(share=0.1) if whole_rows else None
    operator.apply(np.ones(operator.shape[1]), "mean", discard=discard)
    (everything,) = held
    held.clear()
    most = everything * 2 // 5 if whole_rows else everything // 6
    replace(operator, factor_bytes=most).apply(np.ones(operator.shape[1]), "mean", discard=discard)
    assert max(held) <= (max(keys) + most // 2 if whole_rows else most)
    assert 3 <= len(held) < 100


def test_what_cannot_be_multiplied_is_refused(atlas: Atlas) -> None:
    operator = atlas.operator("a", 1)
    keys = operator.shape[1]
    for x in (np.ones(keys + 1), np.ones((3, keys, 2)), np.ones((1, 1, keys, 1)), 3.0, "x", None, [[1], [1, 2]],
              np.ones(keys, dtype=complex), np.full(keys, np.nan), np.ones(keys, dtype=object)):  # fmt: skip
        with pytest.raises(InputError):
            operator.apply(x)
        with pytest.raises(InputError):
            operator.apply_transposed(x, "mean")
    heads: tuple[Any, ...] = (4, -1, True, 1.5, "all", [], [0, 9], {}, np.zeros((2, 2)))
    for head in heads:
        with pytest.raises(InputError):
            operator.apply(np.ones(keys), head)
    layers: tuple[Any, ...] = (4, -1, None, "1", 1.0, True)
    for layer in layers:
        with pytest.raises(InputError, match="the atlas has 0 to 3"):
            atlas.operator("a", layer)
    with pytest.raises(InputError, match="no cross attention"):
        atlas.operator("a", 1, "cross")
    with pytest.raises(DocumentMissingError):
        atlas.operator("z", 1)


def test_a_tier_without_weights_is_refused() -> None:
    atlas = attlas.capture("demo", TEXTS[1:2], "memory://operator-statistics", keep="statistics")
    with pytest.raises(TierError, match="holds statistics alone"):
        atlas.operator("doc-0", 1)


def test_an_operator_is_a_frozen_value(atlas: Atlas) -> None:
    operator = atlas.operator("b", 0)
    assert isinstance(operator, AttentionOperator)
    with pytest.raises(AttributeError):
        operator.layer = 2  # type: ignore[misc]


def test_sharp_rows_of_a_model_with_sinks() -> None:
    """Row sums below one are those of the weights."""
    model = build_model(BY_NAME["gpt_oss"])
    (one,) = documents(BY_NAME["gpt_oss"], lengths=(30,))
    atlas = attlas.capture(model, [one], "memory://operator-sinks")
    operator = atlas.operator("doc-0", 1)
    sums = dense(atlas, "doc-0", 1).sum(axis=2)
    assert sums.min() < 0.9
    near(operator.row_sums("mean"), sums.mean(axis=0))
    near(operator.apply(np.ones(30)), sums)


def test_parts_of_keys_leave_a_position_bias_where_it_was() -> None:
    model, given = build_model(BY_NAME["t5"]), documents(BY_NAME["t5"], lengths=(31,))
    whole = attlas.capture(model, given, "memory://operator-bias").operator("doc-0", 1, "encoder")
    cut = replace(whole, factor_bytes=1_500)
    assert len(list(cut._parts(np.arange(4), whole_rows=False))) > 3
    x = draw(whole.shape[1], 2)
    near(cut.apply(x), whole.apply(x))
    near(cut.apply_transposed(x), whole.apply_transposed(x))
