"""What a capture shows while it runs: one bar, and on a cluster a line for each shard; nothing in a pipe."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from attlas.cli.output import console
from attlas.readable import human_bytes, human_seconds

if TYPE_CHECKING:
    from attlas.progress import CaptureProgress, ShardShare

__all__ = ["CaptureProgressBar", "capture_progress"]

BUSY_WIDTH = 20
LINES_MOST = 24
SECONDS_A_DRAW = 0.1


class CaptureProgressBar:
    """Takes the library's progress and draws it. last: the newest state, None before the first."""

    def __init__(self, title: str, live: Live | None) -> None:
        self.last: CaptureProgress | None = None
        self._live, self._drawn = live, 0.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn(title),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            expand=True,
        )
        self._task = self._bar.add_task("loading the model", total=None)
        if live is not None:
            live.update(self._bar)

    def __call__(self, state: CaptureProgress) -> None:
        self.last = state
        now = time.monotonic()
        if self._live is None or (now - self._drawn < SECONDS_A_DRAW and state.done < state.total):
            return
        self._drawn = now
        self._bar.update(self._task, total=state.total, completed=state.units, description=_description(state))
        self._live.update(Group(self._bar, _shard_lines(state.shards)) if state.shards else self._bar)


@contextmanager
def capture_progress(title: str, *, shown: bool = True) -> Iterator[CaptureProgressBar]:
    """Yields a function that takes the library's progress and moves the bar."""
    screen = console(stderr=True)
    if not (shown and screen.is_terminal):
        yield CaptureProgressBar(title, None)
        return
    with Live(console=screen, transient=True, refresh_per_second=8) as live:
        yield CaptureProgressBar(title, live)


def _description(state: CaptureProgress) -> str:
    parts = [f"{state.what} {min(state.done + 1, state.total)}/{state.total}"]
    if state.layers:
        parts.append(f"layer {state.layers_done}/{state.layers}")
    parts.append(f"{state.tokens_done:,} of {state.tokens:,} tokens")
    if state.done_now and state.seconds:
        packs, tokens = state.done_now / state.seconds, state.tokens_now / state.seconds
        parts.append(f"{packs:.2g} packs/s  {tokens:,.0f} tokens/s")
    left = state.seconds_left
    if left is not None:
        parts.append(f"{human_seconds(left)} left")
    if state.retries:
        parts.append(f"[yellow]{state.retries} run again[/]")
    if state.failed:
        parts.append(f"[red]{state.failed} failed[/]")
    return "  ".join(parts)


def _shard_lines(shards: tuple[ShardShare, ...]) -> Table:
    """A line for each shard; of very many the least busy, which are what a person looks for."""
    table = Table.grid(padding=(0, 2))
    shown = shards if len(shards) <= LINES_MOST else sorted(shards, key=lambda one: one.busy)[:LINES_MOST]
    for one in shown:
        filled = round(one.busy * BUSY_WIDTH)
        bar = Text("█" * filled, "green") + Text("░" * (BUSY_WIDTH - filled), "dim")
        table.add_row(
            f"  [dim]replica[/] {one.replica} [dim]shard[/] {one.shard}",
            f"[dim]layers[/] {one.layers[0]}–{one.layers[1] - 1}" if one.layers[1] > one.layers[0] else "",
            bar if one.state == "ready" else Text(f"{one.state:<{BUSY_WIDTH}}", "yellow"),
            f"{one.busy:4.0%} busy" if one.state == "ready" else "",
            f"{human_bytes(one.peak_memory)}" if one.peak_memory else "",
            f"[dim]{one.node} {one.device}[/]",
        )
    if len(shards) > len(shown):
        table.add_row(f"  [dim]and {len(shards) - len(shown)} busier shards[/]")
    return table
