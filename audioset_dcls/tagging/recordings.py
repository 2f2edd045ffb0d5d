# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH118, PTH119, PTH120, PTH207 - paths stay strings, as the user wrote them
"""From what a user names - files, folders, globs, stdin - to recordings, in an order that never changes."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from preprocessing.constants import AUDIO_SUFFIXES

STDIN = "-"
_LONGEST_PART = 80  # bytes: a recording, a time and a class make no more than the 255 that file systems take
_REPEATED = re.compile("_+")


@dataclass(frozen=True)
class Recording:
    """One input. `name` is its path below the inputs' common folder: unique, and the name of its output files."""

    path: str  # as the user would write it; "-" for stdin
    name: str


@dataclass(frozen=True)
class Found:
    """The recordings, each once, and one line for every input that gave none. Names are paths below `root`."""

    recordings: list[Recording]
    problems: list[str]
    root: str


def find_recordings(inputs: Iterable[str]) -> Found:
    """Files as they are, folders recursively, globs (also `**`) expanded, "-" for stdin.

    Folders and globs give files with the suffix of an audio format, without hidden ones, sorted by path; links to
    folders are followed once. A missing file stays in the list, so that it fails like any other unreadable one.
    """
    paths: list[str] = []
    roots: list[str] = []
    problems: list[str] = []
    for text in inputs:
        if text == STDIN:
            paths.append(text)
        elif os.path.isdir(text):
            found = list(_below(text, problems))
            paths += found
            roots.append(text)
            if not found:
                problems.append(f"{_printable(text)}: no audio files in this folder")
        elif not os.path.lexists(text) and glob.has_magic(text):
            found = sorted(path for path in glob.glob(text, recursive=True) if _is_audio(path))
            paths += found
            roots += [os.path.dirname(path) for path in found]
            if not found:
                problems.append(f"{_printable(text)}: no audio file matches")
        else:
            paths.append(text)
            roots.append(os.path.dirname(text))
    unique: dict[str, str] = {}
    for path in paths:
        unique.setdefault(path if path == STDIN else os.path.abspath(path), path)
    root = os.path.commonpath([os.path.abspath(root) for root in roots]) if roots else ""
    return Found(
        [
            Recording(path, "stdin" if path == STDIN else os.path.relpath(os.path.abspath(path), root))
            for path in unique.values()
        ],
        problems,
        root,
    )


def flat_names(recordings: Iterable[Recording]) -> dict[str, str]:
    """Path -> a file name for each recording: its own, or one with the folders in it if two have the same.

    Names that differ in upper and lower case alone count as the same: some file systems keep one file of both.
    """
    recordings = list(recordings)
    count = Counter(os.path.basename(recording.name).casefold() for recording in recordings)
    taken = {name for name, times in count.items() if times == 1}
    names: dict[str, str] = {}
    for recording in recordings:
        name = os.path.basename(recording.name)
        if count[name.casefold()] > 1:
            flat = recording.name.replace(os.sep, "_")
            numbered = (f"{number}_{flat}" for number in itertools.count(2))
            name = next(name for name in itertools.chain([flat], numbered) if name.casefold() not in taken)
            taken.add(name.casefold())
        names[recording.path] = name
    return names


def safe_name(text: str) -> str:
    """`text` as a part of a file name on every system: letters, digits, "." and "-"; the rest is "_".

    What is too long loses its start: the ends of paths tell more.
    """
    kept = _REPEATED.sub("_", "".join(char if char.isalnum() or char in ".-" else "_" for char in text))
    return kept.encode()[-_LONGEST_PART:].decode(errors="ignore").strip("._-") or "_"


def unique_names(names: Iterable[str]) -> Iterator[str]:
    """The names, with a number behind those that came before, in upper or lower case."""
    taken: set[str] = set()
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        free = next(one for one in itertools.chain([name], numbered) if one.casefold() not in taken)
        taken.add(free.casefold())
        yield free


def _below(folder: str, problems: list[str]) -> Iterator[str]:
    visited = set()

    def complain(error: OSError) -> None:
        problems.append(f"{_printable(str(error.filename))}: cannot be read: {error.strerror}")

    for root, folders, files in os.walk(folder, onerror=complain, followlinks=True):
        visited.add(os.path.realpath(root))
        folders[:] = sorted(
            name for name in folders if name[0] != "." and os.path.realpath(os.path.join(root, name)) not in visited
        )
        paths = (os.path.join(root, name) for name in sorted(files) if name[0] != "." and _has_suffix(name))
        # a link to nowhere is a recording that is missing; a pipe or device would be waited for
        yield from (path for path in paths if os.path.isfile(path) or not os.path.exists(path))


def _is_audio(path: str) -> bool:
    return _has_suffix(path) and os.path.isfile(path)


def _has_suffix(path: str) -> bool:
    return Path(path).suffix.lower() in AUDIO_SUFFIXES


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()
