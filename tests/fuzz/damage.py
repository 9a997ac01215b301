"""Files that are not what their names say, each by what is wrong with it: a maker, and the argument that takes it."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attlas
from attlas.engine.model.source import DEMO_FOLDER

__all__ = ["FLAWS"]

Maker = Callable[[Path], tuple[str, Path]]
"""A folder -> the argument of a command, and its value."""


def _input(name: str, content: bytes) -> Maker:
    def make(folder: Path) -> tuple[str, Path]:
        (folder / name).write_bytes(content)
        return "inputs", folder / name

    return make


def _model(damage: Callable[[Path], object]) -> Maker:
    def make(folder: Path) -> tuple[str, Path]:
        copy = folder / "model"
        shutil.copytree(DEMO_FOLDER, copy)
        damage(copy)
        return "model", copy

    return make


def _store(damage: Callable[[Path], object]) -> Maker:
    def make(folder: Path) -> tuple[str, Path]:
        attlas.capture("demo", ["one two three. " * 8], folder / "damaged.zarr", ids=["a"])
        damage(folder / "damaged.zarr")
        return "store", folder / "damaged.zarr"

    return make


def _cut(name: str, keep: float) -> Callable[[Path], object]:
    def cut(folder: Path) -> None:
        path = next(folder.glob(name))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

    return cut


def _written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _changed(name: str, **values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def _without_attribute(name: str) -> Callable[[Path], object]:
    def remove(folder: Path) -> None:
        path = folder / "zarr.json"
        root = json.loads(path.read_text())
        del root["attributes"][name]
        path.write_text(json.dumps(root))

    return remove


def _weights_of_other_shapes(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file({name: weight[..., :1].contiguous() for name, weight in load_file(path).items()}, path)


def _instead(what: str) -> Callable[[Path], object]:
    def replace(folder: Path) -> None:
        shutil.rmtree(folder)
        if what == "file":
            folder.write_bytes(b"x")
        else:
            folder.mkdir()

    return replace


DEEP = b"[" * 100_000

FLAWS: dict[str, Maker] = {
    "JSONL with half a surrogate pair": _input("a.jsonl", b'{"id": "a", "text": "\\ud800"}\n'),
    "JSONL with such an id": _input("a.jsonl", b'{"id": "\\ud800", "text": "a"}\n'),
    "JSONL with a number of 5,000 digits": _input("a.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n"),
    "JSONL nested without end": _input("a.jsonl", DEEP),
    "JSONL of numbers": _input("a.jsonl", b"1\n2\n"),
    "JSONL cut": _input("a.jsonl", b'{"text": "a"}\n{"text": "b'),
    "JSONL with an escape sequence that is no JSON": _input("a.jsonl", b'{"text": \x1b[31m}\n'),
    "JSONL twice the same id": _input("a.jsonl", b'{"id": "a", "text": "a"}\n' * 2),
    "JSON of other things": _input("a.json", b'{"a": {"b": 1}}'),
    "JSON nested without end": _input("a.json", DEEP),
    "text of other bytes": _input("a.txt", b"\xff\xfe\x00\xd8"),
    "text of nothing": _input("a.txt", b""),
    "CSV without a text": _input("a.csv", b"x,y\n1,2\n"),
    "CSV with NUL": _input("a.csv", b"text\n\0\0\n\"a"),
    "parquet that is none": _input("a.parquet", b"PAR1" + b"x" * 50 + b"PAR1"),
    "gz that is none": _input("a.txt.gz", b"plain"),
    "gz cut": _input("a.txt.gz", gzip.compress(b"one two three " * 100)[:-12]),
    "config cut": _model(_cut("config.json", 0.5)),
    "config nested without end": _model(_written("config.json", DEEP)),
    "config that is a list": _model(_written("config.json", b"[1]")),
    "config of words for numbers": _model(_changed("config.json", num_hidden_layers="many")),
    "config of minus layers": _model(_changed("config.json", num_hidden_layers=-1)),
    "config of no heads": _model(_changed("config.json", num_attention_heads=0)),
    "config of an unknown type": _model(_changed("config.json", model_type="nonsense")),
    "config of a null type": _model(_changed("config.json", model_type=None)),
    "config of another size": _model(_changed("config.json", hidden_size=20)),
    "weights cut": _model(_cut("*.safetensors", 0.5)),
    "weights empty": _model(_cut("*.safetensors", 0)),
    "weights of other shapes": _model(_weights_of_other_shapes),
    "weights with a huge header": _model(_written("model.safetensors", b"\xff" * 64)),
    "tokenizer cut": _model(_cut("tokenizer.json", 0.5)),
    "tokenizer that is a list": _model(_written("tokenizer.json", b"[]")),
    "tokenizer settings cut": _model(_written("tokenizer_config.json", b"{")),
    "no model in a folder": _model(lambda folder: (folder / "config.json").unlink()),
    "root cut": _store(_cut("zarr.json", 0.5)),
    "root nested without end": _store(_written("zarr.json", DEEP)),
    "root that is a list": _store(_written("zarr.json", b"[]")),
    "root without kinds": _store(_without_attribute("kinds")),
    "a file in an atlas's place": _store(_instead("file")),
    "an empty folder in its place": _store(_instead("folder")),
    "factors lost": _store(lambda folder: shutil.rmtree(folder / "self" / "q" / "c")),
    "tokens lost": _store(lambda folder: shutil.rmtree(folder / "tokens")),
    "layers lost": _store(lambda folder: shutil.rmtree(folder / "self" / "layer" / "c")),
}  # fmt: skip


def _gguf(content: bytes) -> Maker:
    def make(folder: Path) -> tuple[str, Path]:
        (folder / "a.gguf").write_bytes(content)
        return "model", folder / "a.gguf"

    return make


FLAWS |= {
    "gguf of nothing": _gguf(b""),
    "gguf that is none": _gguf(b"nonsense" * 20),
    "gguf cut": _gguf(b"GGUF\x03\x00\x00\x00\x05"),
    "gguf with a huge count": _gguf(b"GGUF\x03\x00\x00\x00" + b"\xff" * 64),
}
