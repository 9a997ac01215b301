"""Shell blocks of the documentation: run by bash, or where they are plain attlas commands in this process, or parsed.

In this process a command is the same but for the seconds that a new one takes to import torch and transformers.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
from click.testing import CliRunner

from attlas.cli import main

__all__ = ["commands", "parse_command", "run_by_bash", "run_here"]

REPOSITORY = Path(__file__).parents[2]
NOT_PLAIN = set("|&;<>$`*?(){}")


def commands(source: str) -> list[str]:
    """The commands of a block, a line each, continued lines joined, comments and empty lines left out."""
    lines = source.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def run_by_bash(source: str, folder: Path) -> str:
    """What a block prints, in a new bash with attlas on its PATH; AssertionError where a command fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "80"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", source], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"exit status {done.returncode} of\n{source}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_here(source: str, folder: Path) -> str:
    """The same, with commands of attlas run in this process, whose folder is `folder`."""
    printed = ""
    for command in commands(source):
        words = shlex.split(command, comments=True)
        if words[0] != "attlas" or NOT_PLAIN & set("".join(shlex.split(command, comments=True))):
            printed += run_by_bash(command, folder)
            continue
        done = CliRunner().invoke(main, words[1:], env={"COLUMNS": "80"})
        assert done.exit_code == 0, f"exit status {done.exit_code} of {command}\n{done.output}{done.exception}"
        printed += done.stdout
    return printed


def parse_command(command: str) -> None:
    """Bash must be able to read it; each attlas command in it has the options that it is given. Runs nothing."""
    done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, f"bash cannot read {command!r}: {done.stderr}"
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = list(lexer)
    for word in words:
        ours = re.match(r"(benchmarks|tests|scripts|deploy)/[\w./-]+", word)
        assert ours is None or (REPOSITORY / ours[0]).exists(), f"{command!r} names {word}, which is not there"
    while "attlas" in words:
        begin = words.index("attlas") + 1
        end = next((i for i in range(begin, len(words)) if set(words[i]) <= set("|&;<>")), len(words))
        _parse(main, words[begin:end])
        words = words[end:]


def _parse(group: click.Command, words: list[str]) -> None:
    """Options, their values, and arguments as click reads them; AssertionError with what it says."""
    command, context = group, click.Context(group, info_name="attlas")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"attlas has no command {words[0]!r}"
        command, words = found, words[1:]
    try:
        command.make_context(command.name or "attlas", list(words))
    except click.exceptions.Exit:
        pass  # --help
    except click.ClickException as error:
        raise AssertionError(f"{' '.join(words)!r}: {error.format_message()}") from None
