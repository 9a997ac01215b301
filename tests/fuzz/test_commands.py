"""Every command, argument and option with every wrong text and damaged file: one line, the right exit status, no
traceback, no half-made store."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result

import attlas
from attlas.cli import COMMANDS, main
from attlas.errors import AttlasError
from attlas.server import listen, mcp
from tests.fuzz.commands import Command, commands, prepare
from tests.fuzz.damage import FLAWS
from tests.fuzz.values import TEXTS

Input = tuple[Command, str, str]
LONG = {("--top", "hundred thousand")}
"""Right values that mean minutes of work: a table of so many lines."""

SERVERS = {"view", "serve", "mcp"}
"""Commands that go on until they are stopped: here they end when they would begin to answer."""

PLACES = {"--folder", "--store"}
NO_PLACES = {"empty", "surrogate", "long", "digits"}
NO_SIZES = NO_PLACES | {
    "word",
    "escape",
    "newlines",
    "superscript",
    "URL",
    "markup",
    "bidi",
    "minus five",
    "zero as text",
    "list",
    "key without value",
    "json",
    "comma",
    "tilde",
}
"""What no benchmark takes for anything but a place; left out are numbers, of which some are sizes."""

QUICK = 60
PROCESSES = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def every(folder: Path) -> list[Command]:
    return commands(prepare(folder), folder)


@pytest.fixture(autouse=True)
def _elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a strange name makes is made there, and is not left for the next."""
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    monkeypatch.setattr(listen, "listen", lambda app, made, session, begun: (begun(), made.close()))
    monkeypatch.setattr(mcp, "make_server", lambda session: SimpleNamespace(run=lambda: None))
    yield
    shutil.rmtree(folder / "here")


def inputs(every: list[Command]) -> list[Input]:
    return [
        (command, name, value)
        for command in every for name in (*command.arguments, *command.options) for value in TEXTS
    ]  # fmt: skip


def test_every_command_is_a_door(every: list[Command]) -> None:
    """Commands and options that are added are tried by being there."""
    assert {command.words[0] for command in every} == set(COMMANDS)
    for command in every:
        found: click.Command = main
        for word in command.words:
            assert isinstance(found, click.Group)
            found = found.get_command(click.Context(found), word) or found
        named = {max(one.opts, key=len) if isinstance(one, click.Option) else one.name for one in found.params}
        assert named == {*command.options, *command.flags, *command.arguments}


def test_every_command_runs_as_it_is_meant(every: list[Command]) -> None:
    """The good values are good: what follows is not refused for another reason."""
    for command in every:
        if command.words[0] != "bench":
            result = CliRunner().invoke(main, command.line("", ""))
            assert result.exit_code == 0, (command.words, result.output)
            _cleared(command)


def test_some_wrong_texts(every: list[Command]) -> None:
    tried = [one for one in inputs(every) if one[0].words[0] != "bench"]
    wrong = tracebacks(random.Random(3).sample(tried, QUICK))
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_all_wrong_texts(every: list[Command]) -> None:
    tried = [one for one in inputs(every) if one[0].words[0] != "bench" and one[1:] not in LONG]
    assert len(tried) > 5000
    wrong = tracebacks(tried)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wrong_texts_of_benchmarks(every: list[Command]) -> None:
    tried = [one for one in inputs(every) if one[0].words[0] == "bench" and _refused(one)]
    assert len(tried) > 600
    wrong = tracebacks(tried)
    assert not wrong, "\n".join(wrong)


def _refused(one: Input) -> bool:
    """Whether a benchmark ought not to run, for a run takes seconds or, with a large size, for ever."""
    _, name, value = one
    return value in (NO_PLACES if name in PLACES else NO_SIZES if name not in {"--address", "--seed"} else {"empty"})


def tracebacks(tried: list[Input]) -> list[str]:
    found = []
    for command, name, value in tried:
        told = outcome(command, command.line(name, TEXTS[value]))
        if told:
            found.append(f"{' '.join(command.words)} {name}={value}: {told}")
    return found


def outcome(command: Command, line: list[str]) -> str:
    """What is wrong with how a command takes a line; "" for nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = wrong(CliRunner(catch_exceptions=True).invoke(main, line))
    left = [path for path in (command.made, *Path.cwd().iterdir()) if path.is_dir() and not _whole(path)]
    _cleared(command)
    return told or (f"left {left[0]} behind" if left else "")


def wrong(result: Result) -> str:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"{type(result.exception).__name__}: {result.exception}"[:300]
    return refusal(result.exit_code, result.stderr)


def refusal(status: int, stderr: str) -> str:
    """What is wrong with an exit status and what is said to it; "" for nothing."""
    lines = stderr.splitlines()
    if status not in (0, 1, 2):
        return f"exit status {status}"
    if "Traceback" in stderr or (status and not lines):
        return f"exit status {status}, and says {stderr[:300]!r}"
    if not all(line.isprintable() for line in lines):
        return f"says {stderr[:300]!r}"
    if status == 1 and (len(lines) != 1 or not lines[0].startswith("error: ")):
        return f"exit status 1, and {len(lines)} lines: {stderr[:300]!r}"
    if status == 2 and not (lines[0].startswith("Usage: ") and lines[-1].startswith("Error: ")):
        return f"exit status 2, and says {stderr[:300]!r}"
    return ""


def _whole(path: Path) -> bool:
    """Whether a folder is, or has in it, a whole atlas: a strange name for a store may have a / in it."""
    roots = sorted(path.rglob("zarr.json"), key=lambda one: len(one.parts))
    try:
        return bool(roots) and attlas.verify(roots[0].parent).passed
    except AttlasError:
        return False


def _cleared(command: Command) -> None:
    for path in (command.made, *Path.cwd().iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", FLAWS)
def test_a_damaged_file(name: str, every: list[Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused in one line by every command that reads such a file; nothing is captured."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    argument, path = FLAWS[name](tmp_path)
    for command in every:
        if argument in command.arguments and (command.words[0] != "bench" or argument == "inputs"):
            result = CliRunner().invoke(main, command.line(argument, str(path)))
            reports = command.words == ("verify",) and result.exit_code == 1 and not result.stderr
            assert reports or wrong(result) == "", (command.words, result.stderr)
            if argument != "store" and not (argument == "model" and command.words == ("plan",)):
                assert result.exit_code in (1, 2), (command.words, result.output)
            assert not command.made.exists()


def test_processes_survive(every: list[Command]) -> None:
    """What would take the process with it, and what its start and end print."""
    wrong = processes(every, 2)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_processes_survive(every: list[Command]) -> None:
    wrong = processes(every, PROCESSES)
    assert not wrong, "\n".join(wrong)


def processes(every: list[Command], count: int) -> list[str]:
    tried = random.Random(5).sample([one for one in inputs(every) if one[0].words[0] not in {"bench", *SERVERS}], count)
    found = []
    for command, name, value in tried:
        line = [sys.executable, "-c", "from attlas.cli import main; main()", *command.line(name, TEXTS[value])]
        try:
            done = subprocess.run(line, capture_output=True, timeout=120, env=os.environ, check=False)
        except (OSError, ValueError):  # too long for a command line, or no text that one can have
            continue
        told = refusal(done.returncode, done.stderr.decode())
        found += [f"{' '.join(command.words)} {name}={value}: {told}"] if told else []
        _cleared(command)
    return found
