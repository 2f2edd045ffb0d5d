"""One's own sounds: folders named by class, or a CSV list."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from preprocessing.clips.layout import ClipFileError
from preprocessing.constants import AUDIO_SUFFIXES
from preprocessing.corpora.archives import LONGEST_NAME, shortened
from preprocessing.corpora.collection import FORMAT, Clip, Collection, LeftOut, csv_rows, walk
from preprocessing.corpora.excerpts import (
    ALL,
)
from preprocessing.terminal import printable

# own classes ---------------------------------------------------------------------------------------------------------


def folder_collection(path: str | Path, labels: Sequence[str] | None = None) -> Collection:
    """One's own sounds: a folder whose sub-folders are named by class, or a CSV `file,labels`.

    The CSV's paths are relative to its folder. A file's labels are separated by `;`, or, if no line has one, by `,` (in
    quotes). A clip's name is its path as written. `labels` gives the classes and their order, e.g. those of the train
    file for its test file; by default they are the names that occur, sorted. Long files are cut into clips of 10 s.

    Raises ClipFileError for a path without classes and for a label that is not among `labels`.
    """
    path = Path(path)
    named, warnings = (_listed_files(path), []) if path.is_file() else _files_by_folder(path)
    root = path.parent if path.is_file() else path
    occurring = sorted({label for _, file_labels in named for label in file_labels})
    classes = {label: index for index, label in enumerate(labels if labels is not None else occurring)}
    if unknown := [label for label in occurring if label not in classes]:
        raise ClipFileError(f"{path}: the label {unknown[0]!r} is none of the {len(classes)} that were given")
    signature = hashlib.sha256(json.dumps([FORMAT, named, list(classes)]).encode())

    def clips() -> Iterator[Clip | LeftOut]:
        for name, file_labels in named:
            if len(name) > LONGEST_NAME or printable(name) != name:
                yield LeftOut(shortened(name), "unreadable", shortened(name), "its name is too long or has line breaks")
            elif (root / name).exists():
                path = str(root / name)
                yield Clip(name, [classes[label] for label in file_labels], path, path, ALL)
            else:
                yield LeftOut(name, "missing", str(root / name))

    return Collection(clips, (), len(named), tuple(classes), signature.hexdigest(), tuple(warnings))


def _files_by_folder(root: Path) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """(path below the root, [class]) of each sound, and lines about folders that may not be what was meant."""
    if not root.is_dir():
        raise ClipFileError(f"{root}: no such folder or CSV")
    named, warnings, nested = [], [], []
    suffixes: Counter[str] = Counter()
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        found = [Path(file) for file in walk(folder)]
        files = [file for file in found if file.suffix.lower() in AUDIO_SUFFIXES]
        suffixes.update(file.suffix or file.name for file in found if file.suffix.lower() not in AUDIO_SUFFIXES)
        named += [(file.relative_to(root).as_posix(), [folder.name]) for file in files]
        if not files:
            warnings.append(f"{folder}: holds no audio; there will be no class {folder.name!r}")
        elif all(file.parent != folder for file in files):
            nested.append((folder, files[0].relative_to(folder).parts[0]))
    if not named:
        raise ClipFileError(f"{root}: has no sub-folders with audio; name one after each class")
    if suffixes:
        listed = ", ".join(f"{count} x {name}" for name, count in suffixes.most_common(5))
        warnings.append(f"{root}: {suffixes.total()} files without the name of a sound file are left alone ({listed})")
    if nested and len(nested) == len({label for _, (label,) in named}):
        folder, inner = nested[0]
        warnings.append(
            f"{root}: looks one level too high: its folders hold no audio, only folders such as {inner!r}; "
            f"if those are the classes, give {folder}"
        )
    return named, warnings


def _listed_files(path: Path) -> list[tuple[str, list[str]]]:
    rows = csv_rows(path)
    _, header = next(rows, (0, []))
    columns = [cell.strip().lower() for cell in header]
    if "file" not in columns or "labels" not in columns:
        raise ClipFileError(f"{path}: its first line must name the columns file,labels")
    file_column, label_column = columns.index("file"), columns.index("labels")
    listed = []
    for number, row in rows:
        if len(row) != len(columns):
            raise ClipFileError(f"{path}:{number}: {len(row)} columns for {len(columns)}; quote what has commas")
        listed.append((row[file_column].strip(), row[label_column]))
    separator = ";" if any(";" in text for _, text in listed) else ","
    named = [(file, [label.strip() for label in text.split(separator) if label.strip()]) for file, text in listed]
    for file, file_labels in named:
        if not file_labels:
            raise ClipFileError(f"{path}: {file} has no label")
    if not named:
        raise ClipFileError(f"{path}: lists no file")
    return named
