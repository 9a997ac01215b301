"""What people hold is captured as the model itself would take it: masks, types, positions, chats, frames and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

import attlas
from attlas.errors import InputError
from tests.families import BY_NAME, build_model, eager_attention

EAGER = 1e-5
TEXTS = ["The lamp went out twice.", "A keeper climbed the stairs in the dark, and lit it again.", "Ships."]


def eager(model: Any, **inputs: Any) -> list[torch.Tensor]:
    """Weights (B, H, N, N) of each layer, of the batch as it is."""
    with torch.no_grad():
        out = model(**inputs, output_attentions=True, use_cache=False)
    return list(out.attentions)


def assert_equal(page: xr.Dataset, layers: list[torch.Tensor], row: int, part: slice) -> None:
    for layer, weights in enumerate(layers):
        found = page.attention.isel(layer=layer).values
        np.testing.assert_allclose(found, weights[row, :, part, part].numpy(), atol=EAGER, rtol=0)


def part_of(mask: torch.Tensor) -> slice:
    places = mask.nonzero().ravel()
    return slice(int(places[0]), int(places[-1]) + 1)


@pytest.mark.real
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("given", ["encoding", "arguments"])
def test_padded_batches_of_a_real_encoder(minilm: Path, side: str, given: str) -> None:
    model = AutoModel.from_pretrained(minilm, attn_implementation="eager", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(minilm, padding_side=side)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    layers = eager(model, **batch)
    if given == "encoding":
        atlas = attlas.capture(minilm, batch, f"memory://padded-{side}", overwrite=True)
    else:
        atlas = attlas.capture(
            minilm, batch.input_ids, f"memory://padded-{side}", attention_mask=batch.attention_mask,
            token_type_ids=batch.token_type_ids, ids=TEXTS, overwrite=True,
        )  # fmt: skip
    assert len(atlas) == len(TEXTS)
    for row, document in enumerate(atlas):
        part = part_of(batch.attention_mask[row])
        assert atlas[document].query_token_id.values.tolist() == batch.input_ids[row, part].tolist()
        assert_equal(atlas[document], layers, row, part)
    if side == "left":
        np.testing.assert_array_equal(
            atlas.documents["first_position"], [part_of(m).start for m in batch.attention_mask]
        )
    else:
        assert "first_position" not in atlas.documents
    with pytest.raises(InputError, match=r"padding tokens \(id 0\).*attention_mask="):
        attlas.capture(minilm, batch.input_ids, "memory://refused")


@pytest.mark.real
def test_pairs_of_sentences_of_a_real_encoder(minilm: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(minilm, attn_implementation="eager", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    encoded = tokenizer(TEXTS[0], TEXTS[1], return_tensors="pt")
    layers, types = eager(model, **encoded), encoded.token_type_ids[0].tolist()
    untyped = eager(model, input_ids=encoded.input_ids)
    assert max(float((a - b).abs().max()) for a, b in zip(layers, untyped, strict=True)) > 0.1
    store = tmp_path / "pairs.zarr"
    atlas = attlas.capture(minilm, [(TEXTS[0], TEXTS[1]), TEXTS[2]], store)
    page, alone = atlas["doc-0"], atlas["doc-1"]
    assert_equal(page, layers, 0, slice(None))
    assert_equal(alone, eager(model, **tokenizer(TEXTS[2], return_tensors="pt")), 0, slice(None))
    assert page.query_token_type.values.tolist() == types
    assert (alone.key_token_type.values == 0).all()
    again = attlas.capture(
        minilm, encoded.input_ids[0], "memory://types", token_type_ids=encoded.token_type_ids[0], overwrite=True
    )["doc-0"]
    assert_equal(again, layers, 0, slice(None))
    span = [TEXTS[1][a:b] for a, b in zip(page.query_char_start.values, page.query_char_end.values, strict=True)]
    assert span[types.index(1)] == "A"
    words = page.query_word.values
    assert words[0] == words[-1] == -1
    assert words[types.index(1)] == words[1 : types.index(1) - 1].max() + 1

    attlas.capture(minilm, [(TEXTS[0], TEXTS[1]), TEXTS[2]], store, resume=True)
    ids = [encoded.input_ids[0].tolist(), tokenizer(TEXTS[2]).input_ids]
    with pytest.raises(InputError, match=r"other documents .*token_type differs"):
        attlas.capture(minilm, ids, store, resume=True)
    with pytest.raises(InputError, match=r"may be a pair of sentences or two documents"):
        attlas.capture(minilm, (TEXTS[0], TEXTS[1]), "memory://refused")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_packed_rows_are_the_model_s_own_documents(family: str) -> None:
    model = build_model(BY_NAME[family])
    ids = torch.randint(5, 35, (2, 17), generator=torch.Generator().manual_seed(0))
    lengths = [[6, 1, 10], [9, 8]]
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    layers = eager(model, input_ids=ids, position_ids=positions)
    atlas = attlas.capture(model, ids, f"memory://rows-{family}", position_ids=positions, overwrite=True)
    assert len(atlas) == 5
    documents = iter(atlas.values())
    for row, sizes in enumerate(lengths):
        start = 0
        for size in sizes:
            page = next(documents)
            assert page.query_token_id.values.tolist() == ids[row, start : start + size].tolist()
            assert_equal(page, layers, row, slice(start, start + size))
            start += size


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bert", "roberta", "gemma3"])
def test_left_padded_rows_are_numbered_as_the_model_numbers_them(family: str) -> None:
    """BERT and GPT-2 count the pads, RoBERTa and OPT do not, and to the others it is all one."""
    model = build_model(BY_NAME[family])
    pad = model.config.pad_token_id or 0
    ids = torch.randint(5, 35, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    ids[1, :5], mask[1, :5] = pad, 0
    layers = eager(model, input_ids=ids, attention_mask=mask)
    atlas = attlas.capture(model, ids, f"memory://left-{family}", attention_mask=mask, overwrite=True)
    assert_equal(atlas["doc-0"], layers, 0, slice(None))
    assert_equal(atlas["doc-1"], layers, 1, slice(5, None))
    assert ("first_position" in atlas.documents) == (family in {"bert", "gpt2"})


@pytest.mark.parametrize("family", ["gpt2", "llama", "roberta"])
def test_positions_are_obeyed_in_chunks_and_packs(family: str) -> None:
    model = build_model(BY_NAME[family])
    offset = 2 if family == "roberta" else 0
    ids = torch.randint(5, 35, (1, 20), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(20)[None] + offset + 7
    layers = eager(model, input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids))
    for chunk in (None, 6) if family != "roberta" else (None,):
        page = attlas.capture(model, ids, "memory://moved", position_ids=positions, chunk_tokens=chunk, overwrite=True)[
            "doc-0"
        ]
        assert_equal(page, layers, 0, slice(None))


def test_padded_pairs_of_an_encoder_decoder() -> None:
    """T5's positions are relative: a batch, padded on either side, is its rows."""
    model = build_model(BY_NAME["t5"])
    source, target = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), torch.tensor([[0, 11, 12], [0, 13, 1]])
    mask, target_mask = (source != 0).long(), torch.tensor([[1, 1, 1], [1, 1, 0]])
    atlas = attlas.capture(
        model,
        {
            "input_ids": source,
            "attention_mask": mask,
            "decoder_input_ids": target,
            "decoder_attention_mask": target_mask,
        },
        "memory://padded-t5",
        overwrite=True,
    )
    for name, pair in zip(atlas, [([5, 6, 7, 8], [0, 11, 12]), ([9, 10], [0, 13])], strict=True):
        for kind, layers in eager_attention(model, pair).items():
            found = atlas[name][f"{kind}_attention"].values
            np.testing.assert_allclose(found, torch.stack(layers).numpy(), atol=EAGER, rtol=0)


def test_labels_become_what_the_decoder_reads() -> None:
    model = build_model(BY_NAME["bart"])
    batch = {"input_ids": [[5, 6, 7], [9, 10, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]]}
    labels = torch.tensor([[11, 12, 2], [13, 2, -100]])
    told = attlas.capture(model, batch | {"labels": labels}, "memory://labels", overwrite=True)
    found = [page["decoder_query_token_id"].values.tolist() for page in told.values()]
    assert found == [[2, 11, 12], [2, 13]]


@pytest.mark.parametrize(
    ("family", "texts", "options", "message"),
    [
        ("bert", [[5, 6, 0, 0]], {}, r"ends with 2 padding tokens \(id 0\)"),
        ("bert", [[0, 6, 7]], {}, r"begins with 1 padding token \(id 0\)"),
        ("bert", [[0, 0]], {}, "begins with 2 padding tokens"),
        ("bert", [[5, 6, 7]], {"token_type_ids": [[0, 1, 2]]}, "from 0 to 2; the model has 0 to 1"),
        ("llama", [[5, 6, 7]], {"token_type_ids": [[0, 1, 1]]}, "LlamaModel takes none"),
        ("bert", [[5, 6, 7, 8]], {"position_ids": [[0, 1, 0, 1]]}, "a row of its own"),
        ("llama", [[5, 6, 7, 8]], {"position_ids": [[0, 1, 4, 5]]}, "go on with 4"),
        ("llama", [[5, 6, 7, 8]], {"position_ids": [[-1, 0, 1, 2]]}, "from -1: the model's own begin at 0"),
        ("bert", [[5] * 100], {"position_ids": [list(range(50, 150))]}, "100 tokens behind 50 positions"),
        ("t5", {"input_ids": [5, 6], "labels": [7], "position_ids": [0, 1]}, {}, "takes none"),
        ("bert", [([5, 6], [7, 8])], {}, "a pair of token ids"),
        ("llama", [([5, 6], [7, 8])], {}, "a source and target pair, but LlamaModel takes one text"),
        ("bert", [{"source": "a", "target": "b"}], {}, "a source and target pair, but BertModel takes one text"),
        ("bart", {"input_ids": [[0, 5]], "attention_mask": [[0, 1]], "labels": [[7]]}, {}, "padded on the left"),
        ("bart", [[{"role": "user", "content": "a"}]], {}, "is one text, but BartModel"),
    ],
)
def test_what_a_model_cannot_take_is_refused(family: str, texts: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        attlas.capture(build_model(BY_NAME[family]), texts, "memory://refused", **options)
    assert "\n" not in str(refused.value)


@pytest.mark.real
def test_chats_are_templated(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    chats = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "灯塔?"}],
        [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}],
    ]
    encoded: list[Any] = [tokenizer.apply_chat_template(chat, return_dict=True) for chat in chats]
    expected = [one["input_ids"] for one in encoded]
    many = attlas.capture(smollm2, chats, "memory://chats", layers=[0], overwrite=True)
    one = attlas.capture(smollm2, chats[0], "memory://chat", layers=[0], overwrite=True)
    assert [page.query_token_id.values.tolist() for page in many.values()] == expected
    assert [page.query_token_id.values.tolist() for page in one.values()] == expected[:1]
    tokens = one["doc-0"].query_token.values.tolist()
    assert tokens[:2] == ["<|im_start|>", "system"]
    assert "灯" in tokens
    model = build_model(BY_NAME["llama"])
    with pytest.raises(InputError, match="has no tokenizer"):
        attlas.capture(model, chats, "memory://refused")
    with pytest.raises(InputError, match="has no chat template"):
        attlas.capture("demo", chats, "memory://refused")


def test_fields_are_columns_of_the_documents(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "text": ["one", "two", "three"], "id": ["a", "b", "c"], "year": [1, 2, 3], "score": [0.5, np.nan, 2],
            "topic/sub": ["x", None, "y"], "kept": [True, False, True],
        }
    )  # fmt: skip
    store = tmp_path / "a.zarr"
    documents = attlas.capture("demo", frame, store).documents
    assert documents["document_id"].values.tolist() == ["a", "b", "c"]
    assert documents["year"].values.tolist() == [1, 2, 3]
    assert documents["year"].dtype == np.int64
    np.testing.assert_array_equal(documents["score"].values, [0.5, np.nan, 2])
    assert documents["topic/sub"].values.tolist() == ["x", "", "y"]
    assert documents["kept"].values.tolist() == [True, False, True]
    attlas.capture("demo", frame, store, resume=True)
    for other in (frame.assign(year=[1, 2, 4]), frame.drop(columns="year"), frame.assign(more=1)):
        with pytest.raises(InputError, match="other documents"):
            attlas.capture("demo", other, store, resume=True)
    with pytest.raises(InputError, match="'row_size' has the name of a column"):
        attlas.capture("demo", frame.assign(row_size=1), tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_a_page_is_written_and_chunked_by_others(tmp_path: Path) -> None:
    page = attlas.capture("demo", "the cat \0 sat. 灯塔", "memory://written", overwrite=True)["doc-0"]
    chunked = page.attention.chunk("auto")
    np.testing.assert_array_equal(chunked.compute().values, page.attention.values)
    assert "\\x00" in page.query_token.values.tolist()
    page.to_netcdf(tmp_path / "page.nc")
    with xr.open_dataset(tmp_path / "page.nc") as read:
        np.testing.assert_array_equal(read.attention.values, page.attention.values)
        assert read.query_token.values.tolist() == page.query_token.values.tolist()
    attlas.capture("demo", "the cat", tmp_path / "a.zarr")
    with xr.open_dataset(tmp_path / "a.zarr", engine="attlas", chunks="auto") as opened:
        assert opened.attention.chunks is not None
        np.testing.assert_allclose(opened.attention.sum("key").values, 1, atol=1e-5)


def test_a_token_that_the_model_lacks_is_named() -> None:
    backend = Tokenizer(models.WordLevel({"a": 5, "b": 6, "lighthouse": 400, "<unk>": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    model = build_model(BY_NAME["llama"])
    attlas.capture(model, ["a b a"], "memory://words", tokenizer=tokenizer, overwrite=True)
    with pytest.raises(InputError, match=r"'doc-0' has the token 'lighthouse' \(id 400\).*0 to 98"):
        attlas.capture(model, ["a lighthouse"], "memory://refused", tokenizer=tokenizer)


def test_token_types_reach_every_document_of_a_pack() -> None:
    model = build_model(BY_NAME["bert"])
    rows, types = [[5, 6, 7, 8, 9], [10, 11, 12]], [[0, 0, 1, 1, 1], [1, 1, 1]]
    atlas = attlas.capture(model, rows, "memory://typed", token_type_ids=types, overwrite=True)
    for page, row, own in zip(atlas.values(), rows, types, strict=True):
        layers = eager(model, input_ids=torch.tensor([row]), token_type_ids=torch.tensor([own]))
        assert_equal(page, layers, 0, slice(None))
        assert page.key_token_type.values.tolist() == own
    chosen = attlas.capture(model, rows, "memory://typed", token_type_ids=types, queries="-2:", overwrite=True)
    assert chosen["doc-0"].query_token_type.values.tolist() == types[0][-2:]
