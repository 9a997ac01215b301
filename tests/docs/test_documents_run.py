"""README.md and docs/*.md are run as they stand: every block in its order, and what is shown is what is printed.

Quickly here, commands in this process; by `make test-slow` with every shell block in a bash of its own, as a reader has
it. Blocks that need what a test has not (the hub, a GPU, a cluster) say so in a comment, and are only parsed.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attlas.jobs import questions
from tests.docs.markdown import RUN, SHOWN, Block, read_blocks
from tests.docs.shell import commands, parse_command, run_by_bash, run_here
from tests.docs.shown import difference

REPOSITORY = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "docs").glob("*.md"))]


def blocks_of(page: str) -> list[Block]:
    return read_blocks((REPOSITORY / page).read_text(encoding="utf-8"))


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who has cloned the repository: its examples, and nothing made yet."""
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(questions, "QUESTIONS", dict(questions.QUESTIONS))  # a page adds one of its own
    return tmp_path


def run_page(page: str, folder: Path, run_shell: Callable[[str, Path], str]) -> int:
    """Runs a page from top to bottom, its Python in one namespace; the number of blocks that were run."""
    names: dict[str, Any] = {"__name__": f"docs_{Path(page).stem}"}
    ran = 0
    for block in blocks_of(page):
        where = f"{page}, line {block.line}"
        if block.not_run or block.language not in RUN:
            continue
        if block.language == "sh":
            printed = run_shell(block.source, folder)
        else:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block.source, where, "exec"), names)
            printed = out.getvalue()
        ran += 1
        if block.prints is not None:
            unlike = difference(block.prints, printed)
            assert unlike is None, f"{where}: {unlike}; all of it:\n{printed}"
    return ran


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page: str, reader: Path) -> None:
    run_page(page, reader, run_here)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_its_reader_runs_it(page: str, reader: Path) -> None:
    run_page(page, reader, run_by_bash)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_can_be_read(page: str) -> None:
    for block in blocks_of(page):
        assert block.language in (*RUN, *SHOWN), f"{page}, line {block.line}: a block of {block.language!r}"
        if not block.not_run:
            continue
        if block.language == "python":
            ast.parse(block.source)
        elif block.language == "sh":
            for command in commands(block.source):
                parse_command(command)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            heads = [
                line.lstrip("# ") for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")
            ]
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, f"{page} links to {target}; there are {sorted(anchors)}"


def test_most_of_the_readme_is_run() -> None:
    blocks = [block for block in blocks_of("README.md") if block.language in RUN]
    assert len([block for block in blocks if not block.not_run]) >= 5


def test_the_folder_of_the_tests_is_not_the_readers(reader: Path) -> None:
    assert os.listdir(reader) == ["examples"]
