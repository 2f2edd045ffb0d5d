"""Text of others on its way to a terminal: file names, labels, metadata, error messages that quote them.

Everything that a command prints goes through `show`, or through `printable` where rich or matplotlib writes it.
"""

from __future__ import annotations

import argparse
import logging
import re
from typing import NoReturn, TextIO

# Control characters (escape sequences begin with one), what parts lines, what reverses the direction of writing, and
# the halves of surrogate pairs that stand for undecodable bytes in file names.
_UNSAFE = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_NOT_IN_A_LINE = re.compile(f"[{_UNSAFE}]")
_NOT_IN_A_CELL = re.compile(f"(?![\t\n])[{_UNSAFE}]")
_LONGEST_REASON = 400  # characters
_ID = re.compile(r"[A-Za-z0-9_-]+")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - spreadsheets take the full-width signs for formulas too


def printable(text: object) -> str:
    r"""`text` as one line that cannot move the cursor, change colours or look like other lines.

    Letters of every script stay as they are; control characters appear as Python would write them.

    >>> print(printable("a\x1b[31mb\nc 音"))
    a\x1b[31mb\nc 音
    """
    return _NOT_IN_A_LINE.sub(_escaped, str(text))


def show(line: object, file: TextIO | None = None) -> None:
    """Print one line, on stdout by default; nothing in it can act on the terminal or pretend to be another line."""
    print(printable(line), file=file)


def figure_text(text: object) -> str:
    """`text` for matplotlib, which would read what is between dollar signs as mathematics."""
    return printable(text).replace("$", r"\$")


class Parser(argparse.ArgumentParser):
    """A parser whose errors quote arguments as `show` does: a shell's `*` makes arguments of strangers' file names.

    It lets log records reach stderr in the same way, if nobody else has set up logging.
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options, allow_abbrev=False)  # type: ignore[arg-type, misc]
        if isinstance(logging.lastResort, logging.Handler):
            logging.lastResort.setFormatter(_LogLine())

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


class _LogLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())


def first_line(error: Exception) -> str:
    """The start of an error message of another library, for use within a line of ours."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0][:_LONGEST_REASON])


def json_text(text: str) -> str:
    """JSON as it is, but for characters that a terminal would act on: those as JSON's own escapes."""
    return _NOT_IN_A_CELL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def csv_cell(value: object) -> object:
    """A value for a cell of a CSV: text that a spreadsheet would run as a formula gets a leading apostrophe.

    Line feeds and tabs stay, as CSV can hold them; other control characters are escaped. Numbers stay as they are, and
    so do AudioSet's ids, of which one in 64 begins with "-": letters and digits alone make no formula that does harm.
    """
    if not isinstance(value, str):
        return value
    guarded = f"'{value}" if value.startswith(_FORMULA) and not _ID.fullmatch(value) else value
    return _NOT_IN_A_CELL.sub(_escaped, guarded)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
