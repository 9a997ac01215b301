"""Reading documents from files: text, JSON Lines, JSON, CSV, Parquet, and these compressed by gzip. Needs no torch."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attlas.engine.passage.raw import RawDocument, is_chat, parse_chat, parse_text
from attlas.engine.passage.records import CONTENTS, parse_record
from attlas.errors import InputError, first_line

__all__ = ["check_names", "read_bytes", "read_file", "read_files"]

JSON_LINES = {".jsonl", ".ndjson", ".jsonlines"}
TABLES = {".csv": ",", ".tsv": "\t"}
NOT_TEXT = {
    ".arrow", ".bin", ".bz2", ".doc", ".docx", ".epub", ".feather", ".gguf", ".h5", ".npy", ".npz", ".odt", ".pdf",
    ".pickle", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".tgz", ".xls", ".xlsx", ".xz", ".zip", ".zst",
}  # fmt: skip
LONGEST_CELL = 2**31 - 1
READ = "text files, .jsonl, .json, .csv, .tsv and .parquet files, each also as .gz"


def read_files(paths: Sequence[str | Path]) -> tuple[RawDocument, ...]:
    """Every document of every file, in order, each with an id; see `read_file`."""
    return check_names([document for path in paths for document in read_file(path)])


def read_file(path: str | Path) -> list[RawDocument]:
    """The documents of one file. Raises InputError naming file and line.

    A .jsonl file has a record a line, a .json file an array of records or strings, a .csv, .tsv or .parquet file
    columns: see `parse_record`. Any other file is one text, named for the file. A name may end in .gz, and is unpacked.
    """
    file = Path(path).expanduser()
    try:
        if file.is_dir():
            raise InputError(f"{path} is a folder: name the files in it")
        if not file.exists():
            raise InputError(f"there is no file {path}: give {READ}, or - for standard input")
        return read_bytes(file.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or first_line(error)}") from error
    except ValueError as error:  # a NUL in the path
        if isinstance(error, InputError):
            raise
        raise InputError(f"there is no file {str(path)!r}: {first_line(error)}") from error


def read_bytes(raw: bytes, path: str, *, name: str | None = None, guess: bool = False) -> list[RawDocument]:
    """The documents in the bytes of a file. name: what documents without an id are named for; the file's by default.

    guess: the name tells nothing of the form; lines that all begin an object are JSON Lines.
    """
    place = Path(path)
    suffix = place.suffix.lower()
    if suffix == ".gz":
        raw, place = _unzipped(raw, path), place.with_suffix("")
        suffix = place.suffix.lower()
    name = place.stem if name is None else name
    if suffix in NOT_TEXT:
        raise InputError(f"{path} is no text: attlas reads {READ}; take the texts out of it first")
    if suffix == ".parquet":
        return _named(_records(_parquet(raw, path), lambda number: f"{path}, row {number}"), name)
    text = _decoded(raw, path)
    if suffix in JSON_LINES or (guess and _looks_like_json_lines(text)):
        return _named(_json_lines(text, path), name)
    if suffix == ".json":
        return _named(_json(text, path), name)
    if suffix in TABLES:
        return _named(_table(text, path, TABLES[suffix]), name)
    return [RawDocument(side=parse_text(text, path), id=name, where=path)]


def check_names(documents: Sequence[RawDocument]) -> tuple[RawDocument, ...]:
    """The same; raises InputError where two have one id, naming both places."""
    seen: dict[str, str] = {}
    for document in documents:
        if document.id is not None:
            if document.id in seen:
                raise InputError(
                    f"{document.where}: the id {document.id!r} is taken by {seen[document.id]}: ids must differ"
                )
            seen[document.id] = document.where
    return tuple(documents)


def _named(found: Iterator[tuple[int, RawDocument]], name: str) -> list[RawDocument]:
    """Documents without an id are named for the file and their line, row or place."""
    return [
        document if document.id is not None else replace(document, id=f"{name}-{number}") for number, document in found
    ]


def _json_lines(text: str, path: str) -> Iterator[tuple[int, RawDocument]]:
    for number, line in enumerate(text.split("\n"), 1):  # a line ends at a newline alone: U+2028 is text
        if line.strip():
            where = f"{path}, line {number}"
            for document in parse_record(_loaded(line, where), where):
                yield number, document


def _json(text: str, path: str) -> Iterator[tuple[int, RawDocument]]:
    loaded = _loaded(text, path)
    if is_chat(loaded):
        yield 1, RawDocument(side=parse_chat(loaded, path), where=path)
        return
    if isinstance(loaded, dict):
        if any(name in loaded for name in CONTENTS):
            loaded = [loaded]
        elif loaded and all(isinstance(value, str) for value in loaded.values()):
            loaded = [{"id": key, "text": value} for key, value in loaded.items()]
    if not isinstance(loaded, list) or not loaded:
        raise InputError(f'{path} is no array of documents: write [{{"id": ..., "text": ...}}, ...], or a line each')
    for number, one in enumerate(loaded, 1):
        where = f"{path}, document {number}"
        if isinstance(one, str):
            yield number, RawDocument(side=parse_text(one, where), where=where)
        elif is_chat(one):
            yield number, RawDocument(side=parse_chat(one, where), where=where)
        else:
            for document in parse_record(one, where):
                yield number, document


def _loaded(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, where))
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise InputError(f"{where} is not JSON ({error.msg}, {line}column {error.colno})") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply to be read: give plain fields") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} holds a number of too many digits: write it as a string") from error


def _object(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where} has the field {twice!r} twice: leave one out")
    return found


def _table(text: str, path: str, delimiter: str) -> Iterator[tuple[int, RawDocument]]:
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = next(reader, [])
        if not any(name in header for name in CONTENTS[:3]):
            raise InputError(
                f"{path} has no column text ({', '.join(header[:5])}): name the column of texts text in the first line"
            )
        if len(set(header)) != len(header):
            raise InputError(f"{path} has two columns of one name: name each one differently")
        for number, row in enumerate(reader, 1):
            if not row:
                continue
            where = f"{path}, line {reader.line_num}"
            if len(row) != len(header):
                raise InputError(f"{where} has {len(row)} cells, and the first line names {len(header)} columns")
            record: dict[str, Any] = dict(zip(header, row, strict=True))
            if record.get("id") == "":
                record["id"] = None
            for document in parse_record(record, where):
                yield number, document
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} is not CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _records(rows: list[dict[str, Any]], where: Any) -> Iterator[tuple[int, RawDocument]]:
    for number, row in enumerate(rows, 1):
        for document in parse_record(row, where(number)):
            yield number, document


def _parquet(raw: bytes, path: str) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(raw)).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is no Parquet file: {first_line(error)}") from error
    if not rows:
        raise InputError(f"{path} is empty: give it a text")
    return rows


def _unzipped(raw: bytes, path: str) -> bytes:
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is no whole gzip file: {first_line(error)}") from error


def _decoded(raw: bytes, path: str) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}; convert it, for example with iconv"
        ) from error
    if "\0" in text:
        raise InputError(f"{path} is no text: byte {raw.index(0)} is 0; attlas reads {READ}")
    if not text.strip():
        raise InputError(f"{path} is empty: give it a text")
    return text


def _looks_like_json_lines(text: str) -> bool:
    return all(line.lstrip().startswith("{") for line in text.split("\n") if line.strip())
