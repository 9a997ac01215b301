"""What is data never acts on a terminal, whatever it holds; and a poor terminal, of 80 columns in ASCII, shows all."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

import attlas
from attlas.cli import main
from attlas.engine.model import demo
from attlas.server import listen, mcp
from tests.fuzz.commands import Command, commands, prepare

ODD = "[red]\x1b[2J\u202e[/nope]\x07\n[link=x]"
"""Markup that opens, closes what is not open, and links; an escape sequence, a bell, a turn of the writing, a line."""

ODD_TEXT = f"one two {ODD} \x1b]0;title\x07 \u2066three\x00 four \x9b31m five\r\n" * 4
NAMES = ("a", "b")


def listed(folder: Path, store: Path, ids: tuple[str, str], model: str, texts: Path) -> list[Command]:
    """Every command but benchmarks, on this atlas."""
    good = {
        **prepare(folder), "store": str(store), "other_store": str(store), "model": model, "inputs": str(texts),
        "pairs": str(texts if texts.suffix == ".jsonl" else folder / "pairs.jsonl"),
        "--document": ids[0], "--other-document": ids[1],
    }  # fmt: skip
    return [one for one in commands(good, folder) if one.words[0] != "bench"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[Command]:
    """Every command on an atlas whose ids, tokens, words, model and folder are odd."""
    folder = tmp_path_factory.mktemp("terminal")
    model = folder / ODD.replace("/", "|")
    shutil.copytree(next(iter(demo.__path__)), model, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    store, texts = folder / f"{model.name}.zarr", folder / f"{model.name}.jsonl"
    ids = (f"[draft] {ODD}", ODD)
    lines = [
        {"id": one, "text": text, "other": text.replace("one", "two", 1), "right": "\x1b", "wrong": "\x07"}
        for one in ids for text in [ODD_TEXT + one]
    ]  # fmt: skip
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    attlas.capture(str(model), [ODD_TEXT, f"and two, {ODD_TEXT}"], store, ids=list(ids))
    return listed(folder, store, ids, str(model), texts)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Command]:
    folder = tmp_path_factory.mktemp("plain")
    return listed(folder, folder / "a.zarr", NAMES, "demo", folder / "text.txt")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that serve end when they have said where."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(listen, "listen", lambda app, made, session, begun: (begun(), made.close()))
    monkeypatch.setattr(mcp, "make_server", lambda session: SimpleNamespace(run=lambda: None))


def invoked(command: Command, *more: str, charset: str = "utf-8") -> Result:
    runner = CliRunner(charset=charset, env={"COLUMNS": "80"})
    result = runner.invoke(main, [*command.line("", ""), *more])
    if command.made.exists():
        shutil.rmtree(command.made)
    return result


def acting(text: str) -> list[str]:
    """Letters that a terminal would act on."""
    return [letter for letter in text if letter != "\n" and not letter.isprintable()]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from (name, *strings(one))
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, str):
        yield value


def test_no_data_acts_on_a_terminal(odd: list[Command]) -> None:
    shown = ""
    for command in odd:
        result = invoked(command)
        assert result.exit_code == 0, (command.words, result.stderr, result.exception)
        assert not acting(result.stdout + result.stderr), (command.words, result.stdout)
        shown += result.stdout
    assert "[red]\\x1b[2J\\u202e" in shown  # as it is, and not left out


def test_json_has_the_data_as_it_is(odd: list[Command]) -> None:
    """Escapes stand in JSON's own strings, which read back as they were."""
    for command in odd:
        if "--json" in command.flags:
            result = invoked(command, "--json")
            assert result.exit_code == 0, (command.words, result.stderr)
            assert not acting(result.stdout), command.words
            found = list(strings(json.loads(result.stdout)))
            assert not [one for one in found if "\\x1b" in one or "\\u202e" in one], command.words
            if command.words in {("info",), ("compare",), ("received",)}:
                assert any(f"[draft] {ODD}" in one for one in found), command.words


def test_no_error_acts_on_a_terminal(odd: list[Command]) -> None:
    """One line, of a place, a document or a value that is not there."""
    for command in odd:
        for name in {*command.arguments, "--document", "--layers", "--output"} & {*command.arguments, *command.options}:
            result = CliRunner().invoke(main, command.line(name, f"no {ODD}"))
            assert result.exit_code in {0, 1, 2}, (command.words, name, result.exception)
            assert not acting(result.stdout + result.stderr), (command.words, name)
            if result.exit_code == 1 and result.stderr:
                assert len(result.stderr.splitlines()) == 1, (command.words, name)


def test_a_real_terminal_gets_our_own_colours_alone(odd: list[Command]) -> None:
    info = next(command for command in odd if command.words == ("info",))
    main_end, other_end = pty.openpty()
    line = [sys.executable, "-c", "from attlas.cli import main; main()", *info.line("", "")]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"}
    with subprocess.Popen(line, stdout=other_end, stderr=other_end, env=environment, close_fds=True) as process:
        os.close(other_end)
        got = b""
        while part := _read(main_end):
            got += part
    os.close(main_end)
    assert process.returncode == 0
    coloured = got.decode().replace("\r\n", "\n")
    assert "\x1b[1m" in coloured
    assert not acting(re.sub(r"\x1b\[[0-9;]*m", "", coloured))
    assert "[draft] [red]\\x1b[2J" in coloured


def _read(end: int) -> bytes:
    try:
        return os.read(end, 65536)
    except OSError:  # a terminal whose other end is closed
        return b""


def test_every_command_in_80_columns_of_ascii(plain: list[Command]) -> None:
    for command in plain:
        result = invoked(command, charset="ascii")
        assert result.exit_code == 0, (command.words, result.exception)
        assert (result.stdout_bytes + result.stderr_bytes).isascii(), command.words
        wide = [line for line in result.stdout.splitlines() if len(line) > 80]
        assert all(line.startswith("  http://") for line in wide), (command.words, wide)  # an address stays whole
        cut = re.findall(r".*\S~.*", result.stdout)  # the sign that stands behind what is cut
        assert not cut, (command.words, cut)
        assert "\\n" not in result.stdout, command.words  # a line end of ours, taken for data


def test_a_process_in_ascii(plain: list[Command]) -> None:
    stats = next(command for command in plain if command.words == ("stats",))
    line = [sys.executable, "-c", "from attlas.cli import main; main()", *stats.line("", "")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LANG": "C", "COLUMNS": "80"}
    done = subprocess.run(line, capture_output=True, env=environment, check=True)
    lines = done.stdout.decode("ascii").splitlines()
    assert not [row for row in lines if len(row) > 80]
    at = next(i for i, row in enumerate(lines) if row.strip() == "weight_by_distance")
    assert re.fullmatch(r"  0 +[\d.]+ .*\d, \d +", lines[at + 1])  # a place, and all that is told of it
