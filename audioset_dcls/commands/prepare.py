"""dcls-prepare."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audioset_dcls.commands.parser import create_parser, extra
from preprocessing.terminal import printable, show


def main() -> None:
    """Sounds and their labels as HDF5 files."""
    parser = create_parser(
        "dcls-prepare",
        "Sounds and their labels as one HDF5 file, to train and evaluate on. Run again after a stop, it goes on where "
        "it was.",
        epilog="exit status: 0 done, 1 failed, 2 usage, 130 interrupted",
    )
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    _add_audioset(kinds)
    _add_folder(kinds)
    _add_open_sounds(kinds)
    arguments = vars(parser.parse_args())
    workers = arguments.get("workers")
    if workers is not None and workers < 1:
        parser.error("--workers must be at least 1")
    with extra("dcls-prepare", "train"):
        from preprocessing.clips.layout import ClipFileError
        from preprocessing.corpora.open_sounds.lists import OpenSoundsError

    make = arguments.pop("make")
    try:
        make(**arguments)
    except (ClipFileError, OpenSoundsError) as error:
        raise SystemExit(printable(f"dcls-prepare: {error}")) from None
    except OSError as error:  # no permission, or a disk that filled before anything was begun
        message = f"dcls-prepare: {error.filename or arguments['output']}: {error.strerror or error}"
        raise SystemExit(printable(message)) from None
    except KeyboardInterrupt:
        show(f"dcls-prepare: stopped; what is done of {arguments['output']} is kept: run the same to go on", sys.stderr)
        raise SystemExit(130) from None


def _add_audioset(kinds: Any) -> None:
    audioset = _kind(
        kinds,
        "audioset",
        "a split of AudioSet, from its segment list and the audio",
        "Clips that are missing, unreadable or double are left out and listed in FILE.left_out.csv.",
    )
    audioset.add_argument(
        "audio",
        nargs="+",
        type=Path,
        metavar="FOLDER|TAR|PARQUET",
        help="where the audio lies: folders are searched; files are named by video id, with or without PANNs' Y",
    )
    audioset.add_argument(
        "--segments", type=Path, metavar="CSV", help="the split's segment list; Parquet files can do without"
    )
    _add_output(audioset, _prepare_audioset)


def _add_folder(kinds: Any) -> None:
    folder = _kind(
        kinds,
        "folder",
        "your own sounds with your own classes, to fine-tune on",
        "Files of over 10 s are cut into clips of 10 s.",
    )
    folder.add_argument(
        "path",
        type=Path,
        metavar="FOLDER|CSV",
        help="sub-folders named by class, or a CSV file,labels: paths relative to it, labels split by ;",
    )
    folder.add_argument(
        "--labels-from", type=Path, metavar="FILE.h5", help="take its classes, e.g. the train file's for its test file"
    )
    _add_output(folder, _prepare_folder)


def _add_output(kind: argparse.ArgumentParser, make: Callable[..., None]) -> None:
    kind.add_argument("-o", "--output", required=True, type=Path, metavar="FILE.h5", help="the HDF5 file to make")
    kind.add_argument("-j", "--workers", type=int, metavar="N", help="processes that decode (default: one a core)")
    kind.add_argument("--compress", action="store_true", help="lossless gzip: a third of the size, slower to read")
    kind.set_defaults(make=make)


def _add_open_sounds(kinds: Any) -> None:
    open_sounds = _kind(
        kinds,
        "open-sounds",
        "real sounds with free licences, which the embedded tagger is trained on",
        "Recordings in Debian packages and in public git repositories, split by source into train, validation and test "
        "files; unlabelled recordings; synthetic sounds if fluidsynth, espeak-ng and flite are installed. The lists "
        "are in a checkout, not in the wheel.",
    )
    open_sounds.add_argument("output", type=Path, metavar="FOLDER", help="where the HDF5 files go")
    open_sounds.add_argument(
        "--packages",
        type=Path,
        metavar="FOLDER",
        help="take packages from here (.deb files or unpacked), the others from apt",
    )
    open_sounds.add_argument(
        "--tars",
        type=Path,
        metavar="FOLDER",
        help="take the repositories' recordings from the tars in this folder, not by git",
    )
    open_sounds.add_argument(
        "--repositories",
        default="https://github.com",
        metavar="URL",
        help="git fetches from URL/OWNER/NAME (default: https://github.com)",
    )
    open_sounds.add_argument("--core", action="store_true", help="packages of 2.3 GB in place of all 9.1")
    open_sounds.set_defaults(make=_prepare_open_sounds)


def _prepare_audioset(audio: list[Path], segments: Path | None, **options: Any) -> None:
    from preprocessing.corpora.audioset import audioset_collection

    _prepare(audioset_collection(audio, segments), **options)


def _prepare_folder(path: Path, labels_from: Path | None, **options: Any) -> None:
    from preprocessing.clips.reader import ClipFile
    from preprocessing.corpora.folder import folder_collection

    _prepare(folder_collection(path, ClipFile(labels_from).labels if labels_from else None), **options)


def _prepare(collection: Any, output: Path, workers: int | None, compress: bool) -> None:
    from preprocessing.corpora.prepare import prepare

    for warning in collection.warnings:
        show(f"dcls-prepare: {warning}", sys.stderr)
    made = prepare(collection, output, workers=workers, compression="gzip" if compress else None)
    lines, warnings = made.lines()
    for line in lines:
        show(line)
    for warning in warnings:
        show(f"dcls-prepare: {warning}", sys.stderr)


def _prepare_open_sounds(output: Path, packages: Path | None, tars: Path | None, repositories: str, core: bool) -> None:
    from preprocessing.corpora.open_sounds import prepare_open_sounds

    made = prepare_open_sounds(output, packages, tars, core=core, repositories_url=repositories)
    for name, count in made.clips.items():
        show(f"{output / name}.h5: {count} clips")
    for line in made.left_out:
        show(f"left out: {line}")


def _kind(kinds: Any, name: str, summary: str, more: str = "") -> argparse.ArgumentParser:
    description = f"{summary[0].upper()}{summary[1:]}. {more}".strip()
    parser: argparse.ArgumentParser = kinds.add_parser(name, help=summary, description=description)
    return parser
