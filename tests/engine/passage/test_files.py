"""Documents from files of every form, and the one line that says what is wrong with one."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from attlas.engine.passage.files import read_files
from attlas.engine.passage.raw import Chat
from attlas.errors import InputError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


LINES = '{"id": "x", "text": "a", "year": 1920}\n\n{"id": null, "text": "b\u2028c\x85d"}\r\n{"id": 7, "text": "e"}'
FOUND: list[tuple[str, str, dict[str, Any]]] = [
    ("x", "a", {"year": 1920}), ("f-3", "b\u2028c\x85d", {}), ("7", "e", {}),
]  # fmt: skip


@pytest.mark.parametrize("name", ["f.jsonl", "f.JSONL", "f.ndjson", "f.jsonl.gz", "f.JSONL.GZ"])
def test_json_lines_end_at_newlines_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(LINES.encode()) if name.lower().endswith(".gz") else LINES.encode())
    assert [(d.id, d.side, dict(d.fields)) for d in read_files([path])] == FOUND


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("f.txt", "\ufeffa\nb", [("f", "\ufeffa\nb".removeprefix("\ufeff"), {})]),
        ("f.txt.gz", "a", [("f", "a", {})]),
        ("notes", "a", [("notes", "a", {})]),
        ("f.json", '["a", {"id": "x", "text": "b", "k": [1]}]', [("f-1", "a", {}), ("x", "b", {"k": "[1]"})]),
        ("f.json", '{"x": "a", "y": "b"}', [("x", "a", {}), ("y", "b", {})]),
        ("f.json", '{"text": "a", "id": "x"}', [("x", "a", {})]),
        ("f.csv", 'id,text,k\nx,"a, ""b""\nc",1\n,d,2\n', [("x", 'a, "b"\nc', {"k": "1"}), ("f-2", "d", {"k": "2"})]),
        ("f.tsv", "text\tk\na\t1\n", [("f-1", "a", {"k": "1"})]),
        ("f.CSV.gz", "text\na\n", [("f-1", "a", {})]),
    ],
)
def test_forms(tmp_path: Path, name: str, content: str, expected: Any) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    assert [(d.id, d.side, dict(d.fields)) for d in read_files([path])] == expected


def test_long_cells_leave_the_limit_of_the_csv_module_alone(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (found,) = read_files([write(tmp_path, "f.csv", f"text\n{'a' * 200_000}\n")])
    assert found.side == "a" * 200_000
    assert csv.field_size_limit() == limit


def test_parquet(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a", "b"], "id": [1, 2], "score": [0.5, 1.5]}).to_parquet(tmp_path / "f.parquet")
    found = read_files([tmp_path / "f.parquet"])
    assert [(d.id, d.side, dict(d.fields)) for d in found] == [("1", "a", {"score": 0.5}), ("2", "b", {"score": 1.5})]


def test_chats_pairs_and_ids_in_json_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "f.jsonl",
        '{"messages": [{"role": "user", "content": "hi"}]}\n'
        '{"text": "a", "text_pair": "b"}\n'
        '{"source": "a", "target": "b"}\n'
        '{"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0], "split": "train"}\n',
    )
    chat, pair, target, ids = read_files([path])
    assert isinstance(chat.side, Chat)
    assert (pair.side, pair.pair, pair.is_target) == ("a", "b", False)
    assert (target.side, target.pair, target.is_target) == ("a", "b", True)
    assert ids.side.ids_N.tolist() == [5, 6]  # type: ignore[union-attr]
    assert ids.fields == {"split": "train"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}', r"line 2: text holds half of a surrogate pair \(U\+D83D"),
        ("f.jsonl", '{"text": "a", "id": "\\ud83d"}', "line 1: id holds half"),
        ("f.jsonl", '{"text": "a", "n": %s}' % ("9" * 5000), "line 1 holds a number of too many digits"),
        ("f.jsonl", '{"text": "a", "n": %s}' % ("[" * 100_000 + "]" * 100_000), "line 1 is nested too deeply"),
        ("f.jsonl", '{"text": "a", "text": "b"}', "line 1 has the field 'text' twice"),
        ("f.jsonl", '{"text": "a", "": 1}', "a field without a name"),
        ("f.jsonl", '{"text": "a"} {"text": "b"}', "line 1 is not JSON"),
        ("f.jsonl", '"a"', "line 1 is not an object"),
        ("f.jsonl", '{"text": "a", "id": ["x"]}', "line 1: id must be"),
        ("f.jsonl", '{"messages": []}', "line 1: messages must be a list of messages"),
        ("f.jsonl", '{"text": "a", "id": "f-2"}\n{"text": "b"}', "line 2: the id 'f-2' is taken by .*line 1"),
        ("f.json", "[]", "no array of documents"), ("f.json", "5", "no array of documents"),
        ("f.json", '[\n"a",\n5]', "document 2 is not an object"), ("f.json", '{"x": 5}', "no array of documents"),
        ("f.json", '[\n"a",\n', r"is not JSON \(Expecting value, line 3"),
        ("f.csv", "words\na\n", r"no column text \(words\)"), ("f.csv", "text,k\na\n", "line 2 has 1 cells"),
        ("f.csv", 'text\n"a\n', "is not CSV"), ("f.csv", "text,text\na,b\n", "two columns"),
        ("f.csv", "text\n\n \n", "line 3: text is empty"),
        ("f.pdf", "a", "is no text: attlas reads"), ("f.docx", "a", "is no text"), ("f.txt", "a\0b", "byte 1 is 0"),
        ("f.txt", "", "is empty"), ("f.jsonl", "", "is empty"), ("f.txt", b"caf\xe9", "is not UTF-8: byte 3 is 0xe9"),
        ("f.parquet", "abc", "no Parquet file"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(InputError, match=message) as refused:
        read_files([path])
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_damaged_gzip_and_missing_files(tmp_path: Path) -> None:
    whole = gzip.compress(LINES.encode())
    for name, raw in (
        ("cut.jsonl.gz", whole[:-9]),
        ("no.jsonl.gz", b"abc"),
        ("bad.jsonl.gz", whole[:20] + b"x" + whole[21:]),
    ):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(InputError, match="no whole gzip file"):
            read_files([tmp_path / name])
    for path, message in (
        (tmp_path, "is a folder"), (tmp_path / "none", "there is no file"), ("a\0b", "there is no file"),
        (tmp_path / ("x" * 300), "x: "),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_files([path])
