"""From what a user gives (texts, token ids, source and target pairs) to checked documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from attlas.engine.model.load import LoadedModel
from attlas.engine.model.positions import ends_of_positions, position_limit
from attlas.engine.passage.documents import Document, Tokens
from attlas.errors import InputError

__all__ = ["Side", "Text", "make_documents"]

Side = str | Sequence[int]
Text = Side | tuple[Side, Side]


def make_documents(
    texts: Text | Sequence[Text],
    loaded: LoadedModel,
    *,
    ids: Sequence[str] | None = None,
    max_tokens: int | None = None,
    position_offset: int | None = None,
    extrapolate: bool = False,
) -> list[Document]:
    """Tokenise and check the input; each error names the document and the remedy.

    texts: one text, or many: str, or token ids, or, for an encoder-decoder, (source, target) pairs of either.
    ids: the documents' names; "doc-0", "doc-1", ... by default. max_tokens: cut longer documents there, which is
    recorded in `Tokens.truncated_from`. A target text becomes what the decoder reads while it predicts the text: the
    start token, then the text's tokens without the last end token; target ids are taken as they are.
    extrapolate: take documents longer than the model's trained positions, where its positions go on.
    Raises InputError.
    """
    pairs = loaded.is_encoder_decoder
    items = _as_list(texts, pairs)
    if not items:
        raise InputError("there is nothing to capture: give at least one text")
    names = [f"doc-{i}" for i in range(len(items))] if ids is None else [str(name) for name in ids]
    if len(names) != len(items):
        raise InputError(f"{len(names)} ids for {len(items)} documents: give one id a document")
    _check_names(names)
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}: give 1 or more")
    reads = _Readings(loaded.tokenizer)
    documents = [
        Document(id=name, tokens=_document(name, item, loaded, reads, max_tokens))
        for name, item in zip(names, items, strict=True)
    ]
    _check_lengths(documents, loaded, position_offset, extrapolate)
    return documents


def _check_lengths(
    documents: Sequence[Document], loaded: LoadedModel, position_offset: int | None, extrapolate: bool
) -> None:
    """Raise InputError where a document is longer than the model's positions, or than `extrapolate` can reach."""
    limit = position_limit(loaded.config, position_offset)
    longer = [
        (d.id, n) for d in documents for n in [max(map(len, d.tokens.values()))] if limit is not None and n > limit
    ]
    if not longer or limit is None:
        return
    (name, length), end = longer[0], ends_of_positions(loaded.model, limit)
    told = f"document {name!r} has {length:,} tokens, and the model's positions end at {limit:,}"
    if end is not None:
        refused = ", and cannot be extrapolated" if extrapolate else ""
        raise InputError(f"{told}{refused}: {end}; shorten it with --max-tokens {limit}")
    if not extrapolate:
        raise InputError(f"{told}: shorten it with --max-tokens {limit}, or go beyond them with --extrapolate")


def _as_list(texts: Any, pairs: bool) -> list[Any]:
    if isinstance(texts, str) or (isinstance(texts, Sequence | np.ndarray) and len(texts) and _is_int(texts[0])):
        return [texts]
    if pairs and isinstance(texts, tuple) and len(texts) == 2:
        return [texts]
    return list(texts)


def _check_names(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise InputError("a document has an empty id: give every document a name")
        if name in seen:
            raise InputError(f"two documents have the id {name!r}: ids must differ")
        seen.add(name)


def _document(name: str, item: Any, loaded: LoadedModel, reads: _Readings, max_tokens: int | None) -> dict[str, Tokens]:
    if not loaded.is_encoder_decoder:
        if isinstance(item, tuple) and len(item) == 2 and not _is_int(item[0]):
            raise InputError(
                f"document {name!r} is a source and target pair, but {loaded.identity.model_class} takes one text"
            )
        return {"text": _side(name, item, loaded, reads, False, max_tokens)}
    if isinstance(item, str) or len(item) != 2 or _is_int(item[0]):
        raise InputError(
            f"document {name!r} is one text, but {loaded.identity.model_class} is an encoder-decoder: "
            "give (source, target)"
        )
    source, target = item
    return {
        "source": _side(f"{name} (source)", source, loaded, reads, False, max_tokens),
        "target": _side(f"{name} (target)", target, loaded, reads, True, max_tokens),
    }


def _side(
    name: str, side: Any, loaded: LoadedModel, reads: _Readings, is_target: bool, max_tokens: int | None
) -> Tokens:
    is_text = isinstance(side, str)
    tokens = _tokenised(name, side, loaded, reads, is_target) if is_text else _given(name, side, loaded, reads)
    whole = len(tokens)
    if max_tokens is not None and whole > max_tokens:
        tokens = _cut(tokens, max_tokens, ends_special=is_text and not is_target)
    return tokens


def _tokenised(name: str, text: str, loaded: LoadedModel, reads: _Readings, is_target: bool) -> Tokens:
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        why = "" if loaded.no_tokenizer is None else f" that can be used ({loaded.no_tokenizer})"
        raise InputError(f"{loaded.identity.name} has no tokenizer{why}: give token ids, or a tokenizer")
    if not text.strip():
        raise InputError(f"document {name!r} is empty: remove it, or give it a text")
    argument = {"text_target": text} if is_target else {"text": text}
    encoded = tokenizer(**argument, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    ids = np.asarray(encoded["input_ids"], dtype=np.int32)
    spans = np.asarray(encoded["offset_mapping"] if tokenizer.is_fast else np.full((len(ids), 2), -1), dtype=np.int32)
    if is_target:
        ids, spans = _shift_right(ids, spans, loaded.config)
    special = np.isin(ids, tokenizer.all_special_ids)
    spans = np.where(special[:, None], -1, spans.reshape(-1, 2))
    if special.all():
        raise InputError(f"document {name!r} has no token of its own once it is tokenised: remove it")
    return _tokens(ids, spans, special, reads)


def _given(name: str, ids: Any, loaded: LoadedModel, reads: _Readings) -> Tokens:
    array = np.asarray(ids)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"document {name!r} must be a text or a non-empty sequence of token ids (integers)")
    vocabulary = int(loaded.config.get_text_config().vocab_size)
    if array.min() < 0 or array.max() >= vocabulary:
        raise InputError(
            f"document {name!r} has token ids from {array.min()} to {array.max()}; "
            f"the model's vocabulary has 0 to {vocabulary - 1}"
        )
    array = array.astype(np.int32)
    special_ids = [] if loaded.tokenizer is None else loaded.tokenizer.all_special_ids
    return _tokens(array, np.full((len(array), 2), -1, dtype=np.int32), np.isin(array, special_ids), reads)


def _tokens(ids: Any, spans: Any, special: Any, reads: _Readings) -> Tokens:
    return Tokens(
        ids=ids,
        text=reads.of(ids),
        char_start=np.ascontiguousarray(spans[:, 0], dtype=np.int32),
        char_end=np.ascontiguousarray(spans[:, 1], dtype=np.int32),
        special=np.asarray(special, dtype=np.bool_),
    )


class _Readings:
    """What each token of a vocabulary reads as, looked up once and shared by all documents."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.tokenizer = tokenizer
        self.known: dict[int, str] = {}

    def of(self, ids: Any) -> tuple[str, ...]:
        return tuple(self.known[i] if i in self.known else self._read(i) for i in ids.tolist())

    def _read(self, token: int) -> str:
        """Its decoded text, or the vocabulary's own string where it decodes to none."""
        if self.tokenizer is None:
            text = str(token)
        else:
            piece = str(self.tokenizer.convert_ids_to_tokens(token))
            decoded = str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
            text = piece if not decoded or "\ufffd" in decoded or piece.startswith("##") else decoded
        return self.known.setdefault(token, text)


def _cut(tokens: Tokens, length: int, *, ends_special: bool) -> Tokens:
    """The first `length` tokens; a closing special token ([SEP], </s>) that the tokenizer put there stays last."""
    closes = ends_special and length > 1 and bool(tokens.special[-1])
    keep = np.r_[: length - 1, len(tokens) - 1] if closes else np.arange(length)
    return Tokens(
        ids=tokens.ids[keep],
        text=tuple(tokens.text[i] for i in keep),
        char_start=tokens.char_start[keep],
        char_end=tokens.char_end[keep],
        special=tokens.special[keep],
        truncated_from=len(tokens),
    )


def _shift_right(ids: Any, spans: Any, config: PreTrainedConfig) -> tuple[Any, Any]:
    """What a decoder reads while it predicts `ids`."""
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = getattr(config.get_text_config(decoder=True), "decoder_start_token_id", None)
    if start is None:
        raise InputError("the model names no decoder_start_token_id: give the target as token ids")
    if len(ids) and ids[-1] == config.eos_token_id:
        ids, spans = ids[:-1], spans[:-1]
    return np.r_[np.int32(start), ids].astype(np.int32), np.vstack([np.full((1, 2), -1, np.int32), spans])


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
