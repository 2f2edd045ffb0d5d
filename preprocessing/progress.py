"""The one progress bar: description, bar, columns of the caller, time left; on stderr, if that is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def progress_bar(*columns: ProgressColumn, **options: Any) -> Progress:
    """A `rich.progress.Progress`, to be used as a context.

    Args:
        columns: shown between bar and time left.
        options: of `Progress`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    description = TextColumn("{task.description}", markup=False)
    options = {"disable": not console.is_terminal} | options
    return Progress(description, BarColumn(), *columns, TimeRemainingColumn(), console=console, **options)
