"""What the commands' parsers share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from preprocessing.terminal import Parser, show

USAGE = 2  # exit status


def create_parser(command: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    return Parser(command, description=description, epilog=epilog)


def add_train_data(parser: argparse.ArgumentParser, use: str) -> None:
    parser.add_argument("--train-data", type=Path, nargs="+", default=[], metavar="FILE.h5", help=use)


def stop(command: str, status: int, message: str) -> NoReturn:
    """Leave with one line on stderr."""
    show(f"{command}: {message}", sys.stderr)
    raise SystemExit(status)
