"""What tokens read as: the text itself, for every script and kind of vocabulary."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from attlas.engine.passage.readings import Readings, words_of_encoding, words_of_readings

TEXTS = {
    "ascii": "The keeper climbs, twice.",
    "accents": "Der Wächter grüßt; ça va?",
    "chinese": "灯塔的看守人每天晚上点灯。",
    "japanese": "灯台守は毎晩ランプに火をともす。",
    "emoji": "family 👩‍👩‍👧‍👦 and 🏳️‍🌈!",
    "arabic": "يصعد الحارس الدرج مرتين",
    "hebrew": "השומר עולה במדרגות",
    "control": "a\x1b[31mred\x07\tb\n\nc",
}


def merged(readings: tuple[str, ...]) -> str:
    """The text that the readings stand for, bytes of characters begun before left out."""
    return "".join(re.sub(r"^(\\x[0-9a-f]{2})+", "", reading) for reading in readings)


@pytest.mark.real
@pytest.mark.parametrize("name", TEXTS)
def test_byte_level_pieces_read_as_text(smollm2: Path, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    text = TEXTS[name]
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids = np.array(encoding["input_ids"], dtype=np.int32)
    found = Readings(tokenizer).of(ids)
    assert merged(found) == text
    data, place = text.encode(), 0
    for reading, piece in zip(found, encoding.tokens(), strict=True):  # a byte-level piece has a character a byte
        own = range(place, place + len(piece))
        begun = [i for i in own if data[i] & 0xC0 != 0x80]
        before = range(place, begun[0] if begun else own.stop)
        characters = data[begun[0] :].decode()[: len(begun)] if begun else ""
        assert reading == "".join(f"\\x{data[i]:02x}" for i in before) + characters
        place = own.stop
    words = words_of_encoding(encoding, found, np.zeros(len(ids), dtype=bool), False)
    assert words.tolist() == encoding.word_ids()
    if name == "ascii":
        assert found == ("The", " keeper", " clim", "bs", ",", " twice", ".")


def test_bytes_of_a_split_character_are_shown_with_its_first(demo_tokenizer: Any) -> None:
    ids = np.array(list("é日\0x".encode()), dtype=np.int32)
    assert Readings(demo_tokenizer).of(ids) == ("é", "\\xa9", "日", "\\x97", "\\xa5", "\\x00", "x")
    assert Readings(demo_tokenizer).of(ids[1:4]) == ("\\xa9", "\\xe6", "\\x97")  # never whole
    assert Readings(demo_tokenizer).of(np.array([0xE6, 0xE6, 0x97, 0xA5])) == ("\\xe6", "日", "\\x97", "\\xa5")


@pytest.fixture(scope="module")
def demo_tokenizer() -> Any:
    from attlas.engine.model.tokenizer import load_tokenizer

    return load_tokenizer(None, "demo").tokenizer


@pytest.mark.real
def test_word_pieces(minilm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    encoding = tokenizer("Unbelievable lighthouses", "日本 שלום")
    ids = np.array(encoding["input_ids"])
    readings = Readings(tokenizer)
    found, special = readings.of(ids), np.isin(ids, tokenizer.all_special_ids)
    assert "日" in found
    assert any(reading.startswith("##") for reading in found)
    words = words_of_encoding(encoding, found, special, readings.has_prefixes)
    assert (words[special] == -1).all()
    kept = words[~special]
    assert kept.tolist() == sorted(kept)
    assert set(kept) == set(range(kept.max() + 1))
    assert kept.max() + 1 == 5  # two words, two characters that are words of their own, one word
    by_readings = words_of_readings(found, special, readings.has_prefixes)
    np.testing.assert_array_equal(by_readings, words)


def metaspace_tokenizer(*, pre_tokenised: bool) -> PreTrainedTokenizerFast:
    """Like T5's and Llama's: words begin with a lower block, bytes stand for what the vocabulary lacks."""
    pieces = ["<unk>", "</s>", "▁the", "▁light", "house", "▁", "灯", "塔", "."]
    vocabulary = [(piece, -float(i + 1)) for i, piece in enumerate(pieces)] + [
        (f"<0x{b:02X}>", -99.0) for b in range(256)
    ]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    if pre_tokenised:
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    else:
        from tokenizers import normalizers

        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize("pre_tokenised", [True, False])
def test_metaspace_keeps_the_space_of_a_word(pre_tokenised: bool) -> None:
    tokenizer = metaspace_tokenizer(pre_tokenised=pre_tokenised)
    encoding = tokenizer("the lighthouse 灯塔 é.", return_offsets_mapping=True)
    ids = np.array(encoding["input_ids"], dtype=np.int32)
    found = Readings(tokenizer).of(ids)
    assert found == (" the", " light", "house", " ", "灯", "塔", " ", "é", "\\xa9", ".")
    words = words_of_encoding(encoding, found, np.zeros(len(ids), dtype=bool), False)
    assert words.tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]


def test_without_a_tokenizer_ids_read_as_themselves() -> None:
    assert Readings(None).of(np.array([5, 99])) == ("5", "99")
