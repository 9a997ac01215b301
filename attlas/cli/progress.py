"""What a capture shows while it runs: one bar, and on a cluster a line for each shard; nothing in a pipe."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from attlas.cli.output import console, spinner, styled
from attlas.readable import human_bytes, human_seconds

if TYPE_CHECKING:
    from attlas.progress import CaptureProgress, ShardShare

__all__ = ["CaptureProgressBar", "capture_progress"]

BUSY_WIDTH = 20
LINES_MOST = 24
SECONDS_A_DRAW = 0.1
BESIDE = 30
"""Columns of the line that the spinner, a short bar, the time and the spaces between take."""


class Told(ProgressColumn):
    """What the work is at: a `Text`, in which a name is data and no markup."""

    def render(self, task: Task) -> Text:
        told: Text = task.fields["told"]
        return told


class CaptureProgressBar:
    """Takes the library's progress and draws it. last: the newest state, None before the first."""

    def __init__(self, title: str, screen: Console, live: Live | None) -> None:
        self.last: CaptureProgress | None = None
        self._live, self._drawn = live, 0.0
        self._room = screen.width - len(title) - BESIDE
        self._bar = Progress(
            spinner(screen),
            TextColumn(title),
            BarColumn(bar_width=None),
            Told(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, told=Text("loading the model"))
        if live is not None:
            live.update(self._bar)

    def __call__(self, state: CaptureProgress) -> None:
        self.last = state
        now = time.monotonic()
        if self._live is None or (now - self._drawn < SECONDS_A_DRAW and state.done < state.total):
            return
        self._drawn = now
        self._bar.update(self._task, total=state.total, completed=state.units, told=_description(state, self._room))
        self._live.update(Group(self._bar, _shard_lines(state.shards)) if state.shards else self._bar)


@contextmanager
def capture_progress(title: str, *, shown: bool = True) -> Iterator[CaptureProgressBar]:
    """Yields a function that takes the library's progress and moves the bar."""
    screen = console(stderr=True)
    if not (shown and screen.is_terminal):
        yield CaptureProgressBar(title, screen, None)
        return
    with Live(console=screen, transient=True, refresh_per_second=8) as live:
        yield CaptureProgressBar(title, screen, live)


def _description(state: CaptureProgress, room: int) -> Text:
    """The work done, of all of it, and the rest; on a narrow screen without what can be missed."""
    at = Text(f"{state.what} {min(state.done + 1, state.total)}/{state.total}")
    layer = Text(f"layer {state.layers_done}/{state.layers}" if state.layers else "")
    done = Text(f"{state.units / max(state.total, 1):.0%} of {state.tokens:,} tokens")
    packs, tokens, left = Text(), Text(), Text()
    if state.done_now and state.seconds:
        packs = Text(f"{state.done_now / state.seconds:.2g} packs/s")
        tokens = Text(f"{state.tokens_now / state.seconds:,.0f} tokens/s")
    if state.seconds_left is not None:
        left = Text(f"{human_seconds(state.seconds_left)} left")
    again = Text(f"{state.retries} run again" if state.retries else "", "yellow")
    failed = Text(f"{state.failed} failed" if state.failed else "", "red")
    shown = [at, layer, done, packs, tokens, left, again, failed]
    for one in (packs, layer, tokens, at):
        if _joined(shown).cell_len > room:
            shown.remove(one)
    return _joined(shown)


def _joined(parts: Sequence[Text]) -> Text:
    return Text("  ").join(part for part in parts if part.plain)


def _shard_lines(shards: tuple[ShardShare, ...]) -> Table:
    """A line for each shard; of very many the least busy, which are what a person looks for."""
    table = Table.grid(*(Column(no_wrap=True) for _ in range(6)), padding=(0, 2))
    shown = shards if len(shards) <= LINES_MOST else sorted(shards, key=lambda one: one.busy)[:LINES_MOST]
    for one in shown:
        filled = round(one.busy * BUSY_WIDTH)
        bar = Text("█" * filled, "green") + Text("░" * (BUSY_WIDTH - filled), "dim")
        table.add_row(
            styled("  [dim]replica[/] {} [dim]shard[/] {}", one.replica, one.shard),
            styled("[dim]layers[/] {}–{}", one.layers[0], one.layers[1] - 1) if one.layers[1] > one.layers[0] else "",
            bar if one.state == "ready" else Text(f"{one.state:<{BUSY_WIDTH}}", "yellow"),
            f"{one.busy:4.0%} busy" if one.state == "ready" else "",
            f"{human_bytes(one.peak_memory)}" if one.peak_memory else "",
            styled("[dim]{} {}[/]", one.node, one.device),
        )
    if len(shards) > len(shown):
        table.add_row(styled("  [dim]and {} busier shards[/]", len(shards) - len(shown)))
    return table
