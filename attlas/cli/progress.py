"""The progress bar of a capture: on a terminal, on stderr; nothing in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from attlas.cli.output import console

if TYPE_CHECKING:
    from attlas.progress import Progress as CaptureProgress

__all__ = ["capture_progress"]


@contextmanager
def capture_progress(title: str, *, shown: bool = True) -> Iterator[Callable[[CaptureProgress], None]]:
    """Yields a function that takes the library's progress and moves the bar."""
    screen = console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn(title),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not (shown and screen.is_terminal),
    ) as bar:
        task = bar.add_task(title, total=None, told="loading the model")

        def move(state: CaptureProgress) -> None:
            running = state.layers_done / state.layers if state.layers else 0.0
            done = min(state.packs_done + (running if state.packs_done < state.packs else 0.0), state.packs)
            bar.update(
                task,
                total=state.packs,
                completed=done,
                told=f"pack {min(state.packs_done + 1, state.packs)}/{state.packs}  "
                f"layer {state.layers_done}/{state.layers}  {state.tokens_done:,} of {state.tokens:,} tokens",
            )

        yield move
