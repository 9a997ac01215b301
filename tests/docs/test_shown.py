"""What counts as printed as shown: the comparison of the documentation's tests can fail."""

from __future__ import annotations

import pytest

from tests.docs.markdown import read_blocks
from tests.docs.shell import parse_command
from tests.docs.shown import difference


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("score 0.52  of 1.2e-05", "score   0.529  of 1.19e-05  "),
        ("0.19 s, 672 kB in demo.zarr", "12 s, 663 kB in demo.zarr"),
        ("a\n...\nz", "a\nb\nc\nz"),
        ("...\nb 1", "a\nb 1"),
        ("created  2026-11-25T20:27:56", "created  2027-01-02T00:00:00"),
    ],
)
def test_the_same(shown: str, printed: str) -> None:
    assert difference(shown, printed) is None


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("score 0.52", "score 0.54"),
        ("layer 3, head 2", "layer 3, head 1"),
        ("672 kB", "900 kB"),
        ("672 kB", "672 MB"),
        ("a\nb", "a"),
        ("a", "a\nb"),
        ("a\n...\nz", "a\nb"),
        ("induction", "duplicate"),
        ("1.2e-05", "1.4e-05"),
    ],
)
def test_not_the_same(shown: str, printed: str) -> None:
    assert difference(shown, printed) is not None


def test_blocks_of_a_page() -> None:
    page = "```sh\nattlas info a\n```\n\n```text\nshown\n```\n\nwords\n\n"
    page += "<!-- not run: needs the hub -->\n```python\nx\n```\n"
    first, second = read_blocks(page + "\nwords\n\n```text\na diagram\n```\n")[:2]
    assert (first.language, first.source, first.line, first.prints) == ("sh", "attlas info a\n", 1, "shown\n")
    assert (second.language, second.not_run, second.prints) == ("python", "needs the hub", None)


def test_a_reason_holds_for_the_next_block_alone() -> None:
    blocks = read_blocks("<!-- not run: needs the hub -->\n```sh\na\n```\n```sh\nb\n```\n")
    assert [block.not_run for block in blocks] == ["needs the hub", None]


@pytest.mark.parametrize(
    "command",
    ["attlas capture", "attlas info a --deep", "attlas plan demo --tokens many", "attlas nothing", "attlas info 'a"],
)
def test_commands_that_cannot_be_are_found_without_being_run(command: str) -> None:
    with pytest.raises(AssertionError):
        parse_command(command)


def test_pipes_and_redirections_are_not_arguments() -> None:
    parse_command("cat a | attlas capture demo - --store s.zarr --keep statistics && attlas info s.zarr > out.txt")
