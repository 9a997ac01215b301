"""What tokens read as: text for every script, and the word each token belongs to.

A token of a byte-level vocabulary may hold parts of a character. The character is shown with the token in which it
begins; bytes of one that began before, or that is never whole, are shown as `\\x97`. A space that belongs to a token is
kept. Control characters are data and stay; NUL alone, which ends a string on disk, is shown as `\\x00`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

__all__ = ["Readings", "words_of_encoding", "words_of_readings"]

WORD_START = "\u2581"
LONGEST_CHARACTER = 4


class Readings:
    """The readings of a vocabulary's tokens, looked up once and shared by all documents."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.tokenizer = tokenizer
        self.steps = set(_decoder_steps(tokenizer))
        self.added = {} if tokenizer is None else {i: str(t) for i, t in tokenizer.added_tokens_decoder.items()}
        self.known: dict[int, str | bytes] = {}

    @property
    def has_prefixes(self) -> bool:
        """Whether a token that goes on with a word begins with ##."""
        return "WordPiece" in self.steps

    def of(self, ids: NDArray[np.int32]) -> tuple[str, ...]:
        """What each of the ids reads as where they stand in this order."""
        pieces = [self.known[i] if i in self.known else self._read(i) for i in ids.tolist()]
        texts, place = [""] * len(pieces), 0
        while place < len(pieces):
            piece = pieces[place]
            if isinstance(piece, str):
                texts[place], place = piece, place + 1
                continue
            run = [piece]
            while place + len(run) < len(pieces) and isinstance(following := pieces[place + len(run)], bytes):
                run.append(following)
            texts[place : place + len(run)] = _joined(run)
            place += len(run)
        return tuple(text.replace("\0", "\\x00") for text in texts)

    def _read(self, token: int) -> str | bytes:
        """Its text; its bytes, where they are no whole characters; its id, where there is no tokenizer."""
        found = self._looked_up(token)
        if isinstance(found, bytes):
            with suppress(UnicodeDecodeError):
                found = found.decode()
        return self.known.setdefault(token, found)

    def _looked_up(self, token: int) -> str | bytes:
        if self.tokenizer is None:
            return str(token)
        if token in self.added:
            return self.added[token]
        piece = str(self.tokenizer.convert_ids_to_tokens(token))
        if "ByteLevel" in self.steps:
            return bytes(BYTE_OF[c] for c in piece) if all(c in BYTE_OF for c in piece) else piece
        if "ByteFallback" in self.steps and len(piece) == 6 and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        if "Metaspace" in self.steps:
            return piece.replace(WORD_START, " ")
        decoded = str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return piece if not decoded or "\ufffd" in decoded or piece.startswith("##") else decoded


def words_of_encoding(encoding: Any, readings: Sequence[str], special_N: NDArray[np.bool_], prefixes: bool) -> Any:
    """(N,) int32: the number of the word that each token belongs to, -1 for special ones.

    A fast tokenizer knows its words; one that takes the whole text for a word does not, nor does a slow one: then the
    readings tell. In a pair of sentences the second one's words are counted on from the first one's.
    """
    if not encoding.is_fast:
        return words_of_readings(readings, special_N, prefixes)
    sentences, words = encoding.sequence_ids(), encoding.word_ids()
    word_N, begin = np.full(len(readings), -1, dtype=np.int32), 0
    for sentence in sorted({one for one in sentences if one is not None}):
        own = [i for i, one in enumerate(sentences) if one == sentence and not special_N[i]]
        told = [words[i] for i in own]
        if None in told or len(set(told)) < 2:
            told = words_of_readings([readings[i] for i in own], special_N[own], prefixes).tolist()
        # words are counted without gaps, whatever the tokenizer counts
        numbers = {word: number for number, word in enumerate(dict.fromkeys(told))}
        word_N[own] = [begin + numbers[word] for word in told]
        begin += len(numbers)
    return word_N


def words_of_readings(readings: Sequence[str], special_N: NDArray[np.bool_], prefixes: bool) -> Any:
    """(N,) int32: words told from what the tokens read as: a new one begins at a space, or without ## (`prefixes`)."""
    word_N, word, before = np.full(len(readings), -1, dtype=np.int32), -1, ""
    for i, (reading, special) in enumerate(zip(readings, special_N.tolist(), strict=True)):
        if special:
            before = ""
            continue
        goes_on = reading.startswith("##") if prefixes else not reading[:1].isspace() or before.isspace()
        word += not before or not goes_on
        word_N[i], before = word, reading
    return word_N


def _decoder_steps(tokenizer: PreTrainedTokenizerBase | None) -> Iterator[str]:
    """What a tokenizer does to decode its pieces, by the names of the tokenizers package."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        if hasattr(tokenizer, "byte_decoder"):
            yield "ByteLevel"
        elif hasattr(tokenizer, "sp_model"):
            yield from ("Metaspace", "ByteFallback")
        return
    told = json.loads(backend.decoder.__getstate__())
    for step in told.get("decoders", [told]):
        if step["type"] == "Replace" and step.get("pattern") == {"String": WORD_START}:
            yield "Metaspace"
        else:
            yield step["type"]


def _joined(run: list[bytes]) -> list[str]:
    """The reading of each of a run of byte strings: characters where they begin, other bytes as \\x97."""
    data = b"".join(run)
    owners = [number for number, piece in enumerate(run) for _ in piece]
    texts, place = [""] * len(run), 0
    while place < len(data):
        character, size = _character(data, place)
        if character is None:
            texts[owners[place]] += f"\\x{data[place]:02x}"
        else:
            texts[owners[place]] += character
            for later in range(place + 1, place + size):
                if owners[later] != owners[place]:
                    texts[owners[later]] += f"\\x{data[later]:02x}"
        place += size
    return texts


def _character(data: bytes, place: int) -> tuple[str | None, int]:
    """The character that begins at a place and its bytes; None and 1 where none does."""
    for size in range(1, LONGEST_CHARACTER + 1):
        try:
            return data[place : place + size].decode(), size
        except UnicodeDecodeError:
            continue
    return None, 1


def _byte_characters() -> dict[str, int]:
    """character -> byte, as GPT-2's vocabulary writes bytes: printable ones as themselves, the others from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_characters()
