"""What the commands' parsers share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from preprocessing.terminal import Parser, show

USAGE = 2  # exit status


def create_parser(command: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    from audioset_dcls import __version__

    parser = Parser(command, description=description, epilog=epilog)
    parser.add_argument("--version", action="version", version=f"{command} {__version__}")
    return parser


def add_selection(parser: argparse.ArgumentParser, unit: str) -> argparse._ArgumentGroup:
    """What to tell of `unit`."""
    pick = parser.add_argument_group("what to show")
    pick.add_argument("--top", type=int, default=5, metavar="N", help=f"at most so many tags {unit} (default: 5)")
    pick.add_argument(
        "--threshold", type=float, default=0.2, metavar="SCORE", help="lowest score of a tag or event (default: 0.2)"
    )
    pick.add_argument(
        "--thresholds", type=Path, metavar="CSV", help="a class and its own lowest score a line (default: none)"
    )
    pick.add_argument(
        "--labels", type=Path, metavar="TXT", help="only the classes there, Animal/* for all animals (default: all)"
    )
    pick.add_argument(
        "--all-levels", action="store_true", help="Animal, too, if Bark was heard (default: the most specific)"
    )
    return pick


def add_model(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--model", metavar="NAME|PATH", help=".onnx file, checkpoint or name (default: the embedded one)"
    )


def add_device(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where the model runs (default: cpu)")


def add_train_data(parser: argparse.ArgumentParser, use: str) -> None:
    parser.add_argument("--train-data", type=Path, nargs="+", default=[], metavar="FILE.h5", help=use)


@contextmanager
def extra(command: str, name: str) -> Iterator[None]:
    """Leave with one line if a library is missing that `pip install 'audioset-dcls[<name>]'` brings."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("", "audioset_dcls", "preprocessing"):
            raise
        stop(command, 1, f"{error.name} is not installed; pip install 'audioset-dcls[{name}]'")


def stop(command: str, status: int, message: str) -> NoReturn:
    """Leave with one line on stderr."""
    show(f"{command}: {message}", sys.stderr)
    raise SystemExit(status)
