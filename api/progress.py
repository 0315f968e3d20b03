"""Showing how far a run has come: a bar where there is a terminal and rich is installed, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands."""

    done: int
    total: int | None  # None: until the service says stop
    best: float | None  # the best value that counts, of this run's; None for several objectives, too
    best_trial: int | None
    failed: int
    lost: int

    def __str__(self) -> str:
        parts = [f"{self.done}/{self.total} trials" if self.total else f"{self.done} trials"]
        if self.best is not None:
            parts.append(f"best {self.best:.6g} (trial {self.best_trial})")
        parts += [f"{count} {name}" for name, count in (("failed", self.failed), ("lost", self.lost)) if count]
        return ", ".join(parts)


Show = Callable[[Progress], None]
"""What is told how a run goes."""


@contextmanager
def display(progress: bool | Show, title: str) -> Generator[Show, None, None]:
    """How to show progress: True for a bar or lines on stderr, False for nothing, or a function of one's own."""
    if callable(progress):
        yield progress
    elif not progress:
        yield _nothing
    elif sys.stderr is not None and sys.stderr.isatty() and _has_rich():
        with _bar(title) as show:
            yield show
    else:
        yield _lines(title)


def _nothing(progress: Progress) -> None:
    pass


def _has_rich() -> bool:
    return find_spec("rich") is not None


@contextmanager
def _bar(title: str) -> Generator[Show, None, None]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, note="")

        def show(progress: Progress) -> None:
            note = str(progress).partition(", ")[2]
            bar.update(task, completed=progress.done, total=progress.total, note=note)

        yield show


def _lines(title: str) -> Show:
    """A line for each improvement and for each tenth of the way."""
    start = time.monotonic()
    last = Progress(0, None, None, None, 0, 0)

    def show(progress: Progress) -> None:
        nonlocal last
        every = max((progress.total or 100) // 10, 1)
        if progress.best != last.best or progress.done // every > last.done // every or progress.done == progress.total:
            print(f"{title}: {progress}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)  # noqa: T201
        last = progress

    return show
