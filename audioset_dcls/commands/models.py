"""dcls-models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from audioset_dcls.commands.parser import USAGE, create_parser, stop
from preprocessing.terminal import show

if TYPE_CHECKING:
    from audioset_dcls.models.hub import PublishedCheckpoint

COMMAND = "dcls-models"
_INTERRUPTED = 130


def main() -> None:
    """The published taggers: which there are, and their files in the cache."""
    parser = create_parser(
        COMMAND,
        "The published taggers that --model, Tagger and load_checkpoint take by name, and their files in the cache.",
        epilog="exit status: 0 done, 1 failed (the other names are done), 2 usage, 130 interrupted",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for act, summary, names in (
        (_list, "a table of all: published mAP, size, computing, licence", None),
        (_fetch, "download them ahead; what was interrupted is continued", "+"),
        (_verify, "compare size and SHA-256 with those published, or of the first download", "*"),
        (_remove, "remove them, and what was exported from them, from the cache", "+"),
        (_measure, "measure the seconds that one core computes for a minute of sound, for the table", "+"),
    ):
        action = actions.add_parser(act.__name__[1:], help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if names:
            every = " (default: all in the cache)" if names == "*" else ""
            action.add_argument("names", nargs=names, metavar="NAME", help=f"as the table has them{every}")
        action.set_defaults(act=act, names=[])
    arguments = parser.parse_args()
    models(arguments.act, arguments.names)


def models(act: Callable[[Sequence[PublishedCheckpoint]], None], names: Sequence[str]) -> None:
    """`dcls-models`; leaves by SystemExit with 1 if an action failed for a name, 2 for an unknown name."""
    from audioset_dcls.models.hub import published_checkpoint

    try:
        act([published_checkpoint(name) for name in names])
    except FileNotFoundError as error:
        stop(COMMAND, USAGE, str(error))
    except KeyboardInterrupt:
        stop(COMMAND, _INTERRUPTED, "interrupted; what came of a download is kept, the same command continues")


def table() -> list[str]:
    """A line for the head, the embedded tagger and each published checkpoint, in columns, and a note."""
    from audioset_dcls.models.hub import available_checkpoints
    from audioset_dcls.tagging.session import ModelError
    from audioset_dcls.tagging.speed import measured
    from audioset_dcls.tagging.tagger import embedded_tagger

    try:
        embedded = f"{embedded_tagger().stat().st_size / 1e6:.1f} MB", "in the box"
    except ModelError:
        embedded = "-", "missing"
    seconds = measured()
    rows = [
        ("name", "AudioSet mAP", "parameters", "GMACs", "download", "s/min", "licence", "cached"),
        ("(default)", "-", "-", "-", embedded[0], "-", "MIT", embedded[1]),
    ]
    for name, entry in available_checkpoints().items():
        rows.append(
            (
                name,
                f"{entry.mean_average_precision:.1f}",
                f"{entry.parameters / 1e6:.1f} M",
                f"{entry.gmacs:.2f}",
                _size(entry),
                f"{seconds[name]:.2f}" if name in seconds else "-",
                entry.licence,
                "yes" if entry.path.exists() else "no",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = (0, 6, 7)  # texts; numbers stand at the right
    lines = [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [
        *lines,
        "Parameters with 527 classes; the paper of the first four counts heads of 1000: 28.6, 21.5, 26.8, 26.8 M.",
    ]


def _size(entry: PublishedCheckpoint) -> str:
    if entry.size is None and not entry.path.exists():
        return f"~{4 * entry.parameters / 1e6:.0f} MB"  # of float32 weights
    return f"{(entry.size or entry.path.stat().st_size) / 1e6:.1f} MB"


def _list(entries: Sequence[PublishedCheckpoint]) -> None:
    for line in table():
        show(line)


def _fetch(entries: Sequence[PublishedCheckpoint]) -> None:
    from audioset_dcls.models.hub import locate

    def fetch(entry: PublishedCheckpoint) -> str:
        path = locate(entry.name)
        return f"{path}, {path.stat().st_size / 1e6:.1f} MB"

    _each(entries, fetch)


def _verify(entries: Sequence[PublishedCheckpoint]) -> None:
    from audioset_dcls.models.hub import available_checkpoints, verify

    def check(entry: PublishedCheckpoint) -> str:
        if not entry.path.exists():
            raise ValueError(f"is not in the cache; dcls-models fetch {entry.name}")
        if problem := verify(entry):
            raise ValueError(f"{entry.path}: {problem}; dcls-models fetch {entry.name} downloads it again")
        return f"{entry.path}: as {'published' if entry.sha256 else 'first downloaded'}"

    _each(entries or [entry for entry in available_checkpoints().values() if entry.path.exists()], check)


def _remove(entries: Sequence[PublishedCheckpoint]) -> None:
    from audioset_dcls.models.hub import remove
    from audioset_dcls.tagging.exported import forget

    def forget_and_remove(entry: PublishedCheckpoint) -> str:
        forget(entry.path)  # first: what is exported is found by the file that it came of
        if not remove(entry):
            raise ValueError("is not in the cache")
        return "removed"

    _each(entries, forget_and_remove)


def _measure(entries: Sequence[PublishedCheckpoint]) -> None:
    from audioset_dcls.tagging.speed import measure

    _each(entries, lambda entry: f"{measure(entry.name):.2f} s for a minute of sound, on one core")


def _each(entries: Sequence[PublishedCheckpoint], action: Callable[[PublishedCheckpoint], str]) -> None:
    """A line for each; if one fails, the others are done, and the command leaves with 1."""
    failed = False
    for entry in entries:
        try:
            show(f"{entry.name}: {action(entry)}")
        except (OSError, ValueError) as error:  # DownloadError, CheckpointError and ModelError among them
            show(f"{COMMAND}: {entry.name}: {error}", sys.stderr)
            failed = True
    if failed:
        raise SystemExit(1)
