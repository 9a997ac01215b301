"""From checked input to documents: texts and chats are tokenised, token ids checked against the model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jinja2
import numpy as np
from transformers import BatchEncoding, PreTrainedConfig, PreTrainedTokenizerBase

from attlas.engine.model.load import LoadedModel
from attlas.engine.model.positions import beyond_positions, position_limit
from attlas.engine.passage.documents import Document, Tokens
from attlas.engine.passage.input import Texts, parse_documents
from attlas.engine.passage.numbering import positions_behind_padding
from attlas.engine.passage.raw import Chat, Ids, RawDocument, Side
from attlas.engine.passage.readings import Readings, words_of_encoding, words_of_readings
from attlas.errors import InputError, first_line

__all__ = ["make_documents"]

ENDS = ("bos_token_id", "eos_token_id")


def make_documents(
    texts: Texts,
    loaded: LoadedModel,
    *,
    ids: Sequence[str] | None = None,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
    max_tokens: int | None = None,
    position_offset: int | None = None,
    bidirectional: bool = False,
    extrapolate: bool = False,
) -> list[Document]:
    """Tokenise and check the input; each error names the document and the remedy.

    texts, ids, attention_mask, token_type_ids, position_ids: see `parse_documents`. max_tokens: cut longer documents
    there, which is recorded in `Tokens.truncated_from`. A target text becomes what the decoder reads while it predicts
    the text: the start token, then the text's tokens without the last end token; target ids are taken as they are.
    position_offset: the model's number of a first token; None where it takes none. bidirectional: the model is an
    encoder, to which a pair is two sentences. extrapolate: take documents longer than the model's trained positions,
    where its positions go on. Raises InputError.
    """
    raw = parse_documents(
        texts,
        ids=ids,
        attention_mask=attention_mask,
        token_type_ids=token_type_ids,
        position_ids=position_ids,
        pairs="target" if loaded.is_encoder_decoder else "sentence" if bidirectional else None,
    )
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}: give 1 or more")
    door = _Door(loaded, position_offset, bidirectional, max_tokens)
    documents = _with_types([door.document(one) for one in raw])
    _check_lengths(documents, loaded, position_offset, extrapolate)
    return documents


def _with_types(documents: list[Document]) -> list[Document]:
    """Where one document has token types, the others are told theirs, 0: the model runs them side by side."""
    if not any(tokens.type is not None for document in documents for tokens in document.tokens.values()):
        return documents
    return [
        replace(
            document,
            tokens={
                axis: tokens if tokens.type is not None else replace(tokens, type=np.zeros_like(tokens.ids))
                for axis, tokens in document.tokens.items()
            },
        )
        for document in documents
    ]


def _check_lengths(
    documents: Sequence[Document], loaded: LoadedModel, position_offset: int | None, extrapolate: bool
) -> None:
    """Raise InputError where a document is longer than the model's positions, or than `extrapolate` can reach."""
    limit = position_limit(loaded.config, position_offset)
    longer = [
        (d.id, tokens)
        for d in documents
        for tokens in [max(d.tokens.values(), key=lambda one: len(one) + one.first_position)]
        if limit is not None and len(tokens) + tokens.first_position > limit
    ]
    if not longer or limit is None:
        return
    name, tokens = longer[0]
    beyond = beyond_positions(
        loaded.model, limit, tokens=len(tokens), first_position=tokens.first_position, extrapolate=extrapolate
    )
    if beyond is not None:
        raise InputError(f"document {name!r} has {beyond}")


class _Door:
    """What checking and tokenising needs to know of the model, looked up once for all documents."""

    def __init__(
        self, loaded: LoadedModel, position_offset: int | None, bidirectional: bool, max_tokens: int | None
    ) -> None:
        self.loaded, self.config, self.tokenizer = loaded, loaded.config, loaded.tokenizer
        self.position_offset, self.bidirectional, self.max_tokens = position_offset, bidirectional, max_tokens
        self.model_class = loaded.identity.model_class
        self.vocabulary = int(self.config.get_text_config().vocab_size)
        self.takes_types = "token_type_ids" in inspect.signature(loaded.model.forward).parameters
        self.readings = Readings(self.tokenizer)
        self.special_ids = [] if self.tokenizer is None else self.tokenizer.all_special_ids
        self.padding = _padding_id(self.config, self.tokenizer)

    def document(self, raw: RawDocument) -> Document:
        name = raw.id
        assert name is not None, "parse_documents gives every document an id"
        if not self.loaded.is_encoder_decoder:
            return Document(id=name, tokens={"text": self._text(name, raw)}, fields=raw.fields)
        if raw.pair is None:
            raise InputError(
                f"document {name!r} is one text, but {self.model_class} is an encoder-decoder: give (source, target)"
            )
        sides = {"source": raw.side, "target": raw.pair}
        if any(isinstance(side, Chat) for side in sides.values()):
            raise InputError(f"document {name!r} is a chat, but {self.model_class} takes (source, target)")
        return Document(
            id=name,
            tokens={axis: self._side(f"{name} ({axis})", side, axis == "target") for axis, side in sides.items()},
            fields=raw.fields,
        )

    def _text(self, name: str, raw: RawDocument) -> Tokens:
        if raw.pair is None:
            return self._side(name, raw.side, False)
        if raw.is_target or not self.bidirectional:
            raise InputError(f"document {name!r} is a source and target pair, but {self.model_class} takes one text")
        if not (isinstance(raw.side, str) and isinstance(raw.pair, str)):
            raise InputError(
                f"document {name!r} is a pair of token ids: give one sequence of ids, [CLS] a [SEP] b [SEP], "
                "with token_type_ids="
            )
        return self._cut(self._tokenised(name, {"text": raw.side, "text_pair": raw.pair}), ends_special=True)

    def _side(self, name: str, side: Side, is_target: bool) -> Tokens:
        if isinstance(side, Ids):
            return self._cut(self._given(name, side, is_target), ends_special=False)
        if isinstance(side, Chat):
            text = self._templated(name, side)
            return self._cut(self._tokenised(name, {"text": text}, add_special_tokens=False), ends_special=False)
        tokens = self._tokenised(name, {"text_target" if is_target else "text": side})
        return self._cut(tokens, ends_special=not is_target)

    def _cut(self, tokens: Tokens, *, ends_special: bool) -> Tokens:
        """The first `max_tokens`; a closing special token ([SEP], </s>) that the tokenizer put there stays last."""
        length = self.max_tokens
        if length is None or len(tokens) <= length:
            return tokens
        closes = ends_special and length > 1 and bool(tokens.special[-1])
        keep = np.r_[: length - 1, len(tokens) - 1] if closes else np.arange(length)
        return replace(tokens.picked(keep), truncated_from=len(tokens))

    def _templated(self, name: str, chat: Chat) -> str:
        """The conversation as the tokenizer's chat template writes it."""
        tokenizer = self._needed_tokenizer()
        messages: Any = list(chat.messages)
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False))
        except jinja2.TemplateError as error:
            raise InputError(f"document {name!r}: the chat template refuses it: {first_line(error)}") from error
        except (ValueError, TypeError, KeyError) as error:
            if tokenizer.chat_template is not None:
                raise InputError(f"document {name!r}: the chat template fails: {first_line(error)}") from error
            raise InputError(
                f"document {name!r} is a chat, and the tokenizer of {self.loaded.identity.name} has no chat template: "
                "give the text itself, or a tokenizer with a template"
            ) from error

    def _needed_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            why = "" if self.loaded.no_tokenizer is None else f" that can be used ({self.loaded.no_tokenizer})"
            raise InputError(f"{self.loaded.identity.name} has no tokenizer{why}: give token ids, or a tokenizer")
        return self.tokenizer

    def _tokenised(self, name: str, texts: dict[str, str], **how: Any) -> Tokens:
        tokenizer, is_target = self._needed_tokenizer(), "text_target" in texts
        encoded: BatchEncoding = tokenizer(**texts, **how, return_offsets_mapping=tokenizer.is_fast, verbose=False)
        ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        offsets = encoded["offset_mapping"] if tokenizer.is_fast else np.full((len(ids), 2), -1)
        special = np.isin(ids, self.special_ids)
        if special.all() and (how.get("add_special_tokens", True) or not len(ids)):
            raise InputError(f"document {name!r} has no token of its own once it is tokenised: remove it")
        self._check_vocabulary(name, ids)
        text = self.readings.of(ids)
        spans = np.where(special[:, None], -1, np.asarray(offsets, dtype=np.int32).reshape(-1, 2))
        types = np.asarray(encoded.get("token_type_ids", []), dtype=np.int32)
        tokens = Tokens(
            ids=ids,
            text=text,
            char_start=np.ascontiguousarray(spans[:, 0]),
            char_end=np.ascontiguousarray(spans[:, 1]),
            special=special,
            word=words_of_encoding(encoded, text, special, self.readings.has_prefixes),
            type=types if types.any() and self.takes_types else None,
        )
        return self._shifted_right(tokens) if is_target else tokens

    def _check_vocabulary(self, name: str, ids: Any) -> None:
        """Raise InputError where a tokenizer gives an id that the model has no embedding for."""
        beyond = ids[ids >= self.vocabulary]
        if len(beyond):
            token = self._needed_tokenizer().convert_ids_to_tokens(int(beyond[0]))
            raise InputError(
                f"document {name!r} has the token {token!r} (id {beyond[0]}), and the model's vocabulary has 0 to "
                f"{self.vocabulary - 1}: give the tokenizer that belongs to the model, or take the token out"
            )

    def _given(self, name: str, given: Ids, is_target: bool) -> Tokens:
        ids = given.ids_N
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            raise InputError(
                f"document {name!r} has token ids from {ids.min()} to {ids.max()}; "
                f"the model's vocabulary has 0 to {self.vocabulary - 1}"
            )
        if not given.masked:
            self._check_padding(name, ids, is_target)
        first = 0 if is_target else self._first_position(name, given)
        own = ids.astype(np.int32)
        text, special = self.readings.of(own), np.isin(own, self.special_ids)
        none = np.full(len(own), -1, dtype=np.int32)
        tokens = Tokens(
            ids=own,
            text=text,
            char_start=none,
            char_end=none,
            special=special,
            word=None if self.tokenizer is None else words_of_readings(text, special, self.readings.has_prefixes),
            type=self._types(name, given.type_N),
            first_position=first,
        )
        return self._shifted_right(tokens) if given.labels else tokens

    def _check_padding(self, name: str, ids: Any, is_target: bool) -> None:
        """Raise InputError where ids are padded, and no mask says so: pads would be attended to.

        A padding token that is also the end of a text, or the start of a target, may stand alone.
        """
        if self.padding is None:
            return
        own = ids != self.padding
        left, right = (int(np.argmax(side)) if own.any() else len(ids) for side in (own, own[::-1]))
        ends = self._ends()
        allowed = int(self.padding in ends)
        allowed_left = int(self.padding in ends | {self._start()}) if is_target else allowed
        if left > allowed_left or right > allowed:
            side, count = ("begins", left) if left > allowed_left else ("ends", right)
            raise InputError(
                f"document {name!r} {side} with {count} padding token{'s' * (count > 1)} (id {self.padding}), which "
                "would be attended to: give attention_mask=, or the ids without padding"
            )

    def _ends(self) -> set[int]:
        """The tokens that begin or end a text by the model's or the tokenizer's own word."""
        text = self.config.get_text_config()
        found = [getattr(one, name, None) for one in (text, self.config, self.tokenizer) for name in ENDS]
        return {one for some in found if some is not None for one in (some if isinstance(some, list) else [some])}

    def _start(self) -> int | None:
        """The token with which a target begins."""
        start = getattr(self.config, "decoder_start_token_id", None)
        if start is None:
            start = getattr(self.config.get_text_config(decoder=True), "decoder_start_token_id", None)
        return start

    def _first_position(self, name: str, given: Ids) -> int:
        """How far the model's number of the first token lies behind its own first one."""
        if given.first_position is None:
            if not given.padding_left:
                return 0
            return positions_behind_padding(self.loaded.model, given.padding_left, self.position_offset, name)
        if self.position_offset is None:
            raise InputError(f"document {name!r} has position_ids, and {self.model_class} takes none: leave them out")
        first = given.first_position - self.position_offset
        if given.packed and first != 0:
            raise InputError(
                f"document {name!r} has position_ids that go on with {given.first_position}: they may count on by 1, "
                f"or restart with the next document at {self.position_offset}"
            )
        if given.packed and self.bidirectional:
            raise InputError(
                f"document {name!r} begins where position_ids restart in a row, which {self.model_class} attends to "
                "as one text: give each document a row of its own"
            )
        if first < 0:
            raise InputError(
                f"document {name!r} has position_ids from {given.first_position}: the model's own begin at "
                f"{self.position_offset}"
            )
        return first

    def _types(self, name: str, type_N: Any) -> Any:
        """Checked token types; None where the model is given none."""
        if type_N is None:
            return None
        if not self.takes_types:
            if type_N.any():
                raise InputError(f"document {name!r} has token_type_ids, and {self.model_class} takes none")
            return None
        count = getattr(self.config.get_text_config(), "type_vocab_size", None)
        if type_N.min() < 0 or (count is not None and type_N.max() >= count):
            raise InputError(
                f"document {name!r} has token_type_ids from {type_N.min()} to {type_N.max()}"
                + ("" if count is None else f"; the model has 0 to {count - 1}")
            )
        return type_N.astype(np.int32)

    def _shifted_right(self, tokens: Tokens) -> Tokens:
        """What a decoder reads while it predicts the tokens."""
        start = self._start()
        if start is None:
            raise InputError("the model names no decoder_start_token_id: give the target as token ids")
        if len(tokens) and tokens.ids[-1] == self.config.eos_token_id:
            tokens = tokens.picked(np.arange(len(tokens) - 1))
        return Tokens(
            ids=np.r_[np.int32(start), tokens.ids].astype(np.int32),
            text=(*self.readings.of(np.array([start])), *tokens.text),
            char_start=np.r_[np.int32(-1), tokens.char_start],
            char_end=np.r_[np.int32(-1), tokens.char_end],
            special=np.r_[start in self.special_ids, tokens.special],
            word=None if tokens.word is None else np.r_[np.int32(-1), tokens.word],
        )


def _padding_id(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None) -> int | None:
    found = None if tokenizer is None else tokenizer.pad_token_id
    if found is None:
        found = getattr(config.get_text_config(), "pad_token_id", None)
    return None if found is None else int(found)
