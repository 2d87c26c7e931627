"""What long work shows on stderr: a bar with time left and the current score, or plain lines where no terminal is."""

from __future__ import annotations

import sys
from typing import Any


def notice(text: str) -> None:
    """One line on stderr; above the bar if one is shown."""
    if Bar.current is not None:
        Bar.current.console.print(text, highlight=False, soft_wrap=True, markup=False)
    else:
        print(text, file=sys.stderr, flush=True)


class Bar:
    """``with Bar("training", total=n) as bar: bar.update(k, dice=0.8)``; silent without a terminal."""

    current: Any = None

    def __init__(self, title: str, *, total: int | None = None, start: int = 0, shown: bool = True) -> None:
        self.title, self.total, self.start = title, total, start
        self.shown = shown and sys.stderr.isatty()
        self.rich: Any = None
        self.task: Any = None

    def __enter__(self) -> Bar:
        if self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.rich = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[score]}"),
                console=Console(stderr=True),
                transient=self.total is None,
            )
            self.rich.start()
            Bar.current = self.rich
        return self

    def update(self, done: int, *, total: int | None = None, dice: float | None = None) -> None:
        if self.rich is None:
            return
        if self.task is None:
            whole = total or self.total
            self.task = self.rich.add_task(self.title, total=whole, completed=self.start, score="")
        self.rich.update(self.task, completed=done, score="" if dice is None else f"Dice {dice:.3f}")

    def tick(self, done: int, total: int) -> None:
        """The callback form: done of total."""
        self.update(done, total=total)

    def __exit__(self, *error: Any) -> None:
        if self.rich is not None:
            self.rich.stop()
            Bar.current = None
