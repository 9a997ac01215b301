"""What a person sees while a capture runs, drawn on a terminal that is kept."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from attlas.cli import progress as module
from attlas.cli.progress import capture_progress
from attlas.progress import CaptureProgress, Progress, ShardShare


def shard(number: int, *, busy: float, state: str = "ready") -> ShardShare:
    return ShardShare(
        replica=0, shard=number, layers=(number * 2, number * 2 + 2), node="node-a", device="cuda:0", state=state,
        busy=busy, bytes=10, peak_memory=1_500_000_000, device_memory=0,
    )  # fmt: skip


def drawn(monkeypatch: pytest.MonkeyPatch, state: CaptureProgress) -> str:
    """The screen after one state; all states that came close behind one another are drawn once."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=150, height=40)
    monkeypatch.setattr(module, "console", lambda **_options: screen)
    with capture_progress("capture") as bar:
        bar(state)
        assert bar.last is state
    assert isinstance(screen.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.file.getvalue())


def test_rates_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run: 4 of 10 packs were there, 2 came in 20 seconds, so 4 more take 40."""
    told = drawn(
        monkeypatch,
        CaptureProgress(
            done=6, total=10, before=4, tokens=1000, tokens_done=600, tokens_before=400, seconds=20.0, retries=1
        ),
    )
    assert "pack 7/10" in told
    assert "0.1 packs/s  10 tokens/s" in told
    assert "40 s left" in told
    assert "1 run again" in told


def test_a_line_for_each_shard_and_of_very_many_the_least_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    state = CaptureProgress(done=0, total=2, tokens=10, tokens_done=0, shards=(shard(0, busy=0.5), shard(1, busy=0.9)))
    told = drawn(monkeypatch, state)
    assert "50% busy" in told
    assert "90% busy" in told
    assert "2–3" in told
    many = tuple(shard(i, busy=i / 100) for i in range(60))
    told = drawn(monkeypatch, CaptureProgress(done=0, total=2, tokens=10, tokens_done=0, shards=many))
    assert "and 36 busier shards" in told
    assert "23% busy" in told
    assert "24% busy" not in told
    loading = (shard(0, busy=0.0, state="loading"),)
    assert "loading" in drawn(monkeypatch, CaptureProgress(done=0, total=1, tokens=1, tokens_done=0, shards=loading))


def test_one_value_for_every_long_piece_of_work() -> None:
    """The units of this run and its pace tell what is left; a capture adds the layers of the pack at work."""
    blocks = Progress(what="block", done=30, total=90, before=10, seconds=40.0)
    assert (blocks.done_now, blocks.units, blocks.seconds_left) == (20, 30, 120.0)
    assert Progress(what="block", done=10, total=90, before=10, seconds=3.0).seconds_left is None
    state = CaptureProgress(done=1, total=4, before=1, tokens=40, tokens_done=10, layers=8, layers_done=4, seconds=5.0)
    assert (state.what, state.units, state.seconds_left) == ("pack", 1.5, 25.0)
    assert CaptureProgress(done=4, total=4, tokens=1, tokens_done=1, layers=8, layers_done=4).units == 4
