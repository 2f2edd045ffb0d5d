"""Open sounds: a labelled corpus out of Debian packages -> HDF5 files that anyone can make again.

`data/open_sounds/` lists 3,534 recordings in 125 packages of Debian's main archive with AudioSet labels, a teacher's
scores and a split by package, and recipes for a synthetic part: General MIDI soundfonts played by fluidsynth, sentences
spoken by espeak-ng and flite. Its README.md tells where all that comes from. This module gets the packages (apt, or a
folder), checks them, takes out the audio, decodes it and writes

| file                        | clips                                                                         |
| --------------------------- | ----------------------------------------------------------------------------- |
| `train.h5`, `validation.h5` | recordings, the package as group; no package is in two files                   |
| `test.h5`                   | recordings; two packages or more of nearly every class that has four           |
| `synthetic.h5`              | the synthetic part, for training                                               |
| `test_scenes.h5`            | 1,000 scenes of 10 s made of the test recordings (`preprocessing.scenes`)      |
| `copyright/`                | what each package says about the authors and licences of its sounds            |

in `hdf5`'s layout, with teacher's scores and the clips' true lengths before zero-padding (attribute `samples`).

A package is downloaded, decoded and thrown away before the next, so a run needs little more disk than its result, and
one that was killed goes on with the package it was at.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import lzma
import shutil
import struct
import subprocess
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from preprocessing.audio import SAMPLE_RATE, AudioError, iter_audio
from preprocessing.hdf5 import CLIP_SAMPLES, ClipWriter, to_int16
from preprocessing.labels import labels as audioset_labels
from preprocessing.scenes import Scenes, load_recordings
from preprocessing.synthetic import MISSING_TOOLS, missing_tools, synthesize

DATA = Path(__file__).parent / "data" / "open_sounds"
SPLITS = ("train", "validation", "test")
SCENES, SCENE_SEED = 1_000, 20_260_601
_BATCH = 32  # clips decoded and written at once: 20 MB
_CLIP_BYTES = 2 * CLIP_SAMPLES

_log = logging.getLogger(__name__)


class OpenSoundsError(ValueError):
    """The corpus cannot be made here; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """A Debian package: what apt knows of it, its split ("synthetic" for soundfonts), and whether it is in the core."""

    name: str
    version: str
    architecture: str
    size: int
    sha256: str
    split: str
    core: bool


@dataclass(frozen=True)
class Recording:
    """A clip to be: `path` inside its package (`OUTER!INNER` inside a container), `start` to `end` in seconds."""

    package: str
    path: str
    start: float
    end: float
    group: str
    labels: tuple[str, ...]
    teacher: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.package}/{self.path}" + (f"@{self.start:g}" if self.start else "")


@dataclass(frozen=True)
class Summary:
    """What a run made: clips in each file, and what was left out, a line each."""

    clips: dict[str, int]
    left_out: list[str]


def load_packages(data: Path = DATA) -> tuple[Package, ...]:
    """The packages, the small ones first, split by split."""
    with (data / "packages.tsv").open(encoding="utf-8", newline="") as file:
        packages = [
            Package(
                row["package"],
                row["version"],
                row["architecture"],
                int(row["bytes"]),
                row["sha256"],
                row["split"],
                row["core"] == "1",
            )
            for row in csv.DictReader(file, delimiter="\t")
        ]
    return tuple(sorted(packages, key=lambda package: (package.split, package.size)))


def load_recording_list(data: Path = DATA) -> tuple[Recording, ...]:
    """The recordings with their labels and teacher's scores."""
    with np.load(data / "teacher_scores.npz", allow_pickle=False) as arrays:
        teacher = arrays["recordings"]
    with (data / "recordings.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            Recording(
                row["package"],
                row["path"],
                float(row["start"]),
                float(row["end"]),
                row["group"],
                tuple(row["labels"].split(";")),
                scores,
            )
            for row, scores in zip(csv.DictReader(file), teacher, strict=True)
        )


def prepare_open_sounds(
    output: str | Path,
    packages_folder: str | Path | None = None,
    *,
    core: bool = False,
    say: Callable[[str], None] = print,
    data: Path = DATA,
) -> Summary:
    """Make the corpus in the folder `output`; what is already there is kept, what is begun goes on.

    packages_folder: holds `PACKAGE_*.deb` files or unpacked packages `PACKAGE/usr/...`; what it lacks comes from apt.
    core: only 102 packages that bring most for their size: 2.3 GB instead of 9.1 GB to download.
    say: is told, before anything is done, what it takes, and then what happens.

    Raises OpenSoundsError where the disk is too small or packages cannot be had, when all the others are done.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    packages = [package for package in load_packages(data) if package.core or not core]
    recordings = load_recording_list(data)
    source = _source(data, packages)
    unfinished = [split for split in (*SPLITS, "synthetic") if not _is_finished(output / f"{split}.h5", source)]
    tools = missing_tools()
    if tools and "synthetic" in unfinished:
        unfinished.remove("synthetic")
        say(MISSING_TOOLS.format(tools=", ".join(tools)))
    todo = [package for package in packages if package.split in unfinished]
    given = Path(packages_folder) if packages_folder else None
    _say_needs(output, todo, recordings, given, say)

    missing: list[str] = []
    clips: dict[str, int] = {}
    left_out: list[str] = []
    fetch = _Packages(output / ".packages", output / "copyright", given, say)
    with _progress(sum(package.size for package in todo)) as advance:
        for split in unfinished:
            members = [package for package in packages if package.split == split]
            jobs = _synthetic_jobs(members, data) if split == "synthetic" else _recording_jobs(members, recordings)
            clips_made, lost, lacking = _write_split(output / f"{split}.h5", jobs, source, fetch, advance)
            left_out += lost
            missing += lacking
            if not lacking:
                clips[split] = clips_made
    fetch.clear()
    if missing:
        raise OpenSoundsError(
            f"{len(missing)} packages could not be had ({', '.join(missing)}); the rest is kept in {output}. Run the "
            "same again, or put their .deb files into a folder and give it with --packages"
        )
    if not _is_finished(output / "test_scenes.h5", source):
        clips["test_scenes"] = _write_scenes(output, source)
    return Summary(clips, left_out)


# what there is to do ------------------------------------------------------------------------------------------------

Sound = tuple[str, str, Sequence[str], np.ndarray, Callable[[Path], np.ndarray]]
"""Name, group, labels, teacher's scores, and what makes the waveform out of the folder of the unpacked package."""


@dataclass(frozen=True)
class Job:
    """A package, the files wanted of it, and the sounds made from them. Without a package: nothing to get."""

    package: Package | None
    files: frozenset[str]
    sounds: list[Sound]

    @property
    def name(self) -> str:
        return self.package.name if self.package else "speech"


def _recording_jobs(packages: Sequence[Package], recordings: Iterable[Recording]) -> list[Job]:
    of_package: dict[str, list[Recording]] = {package.name: [] for package in packages}
    for recording in recordings:
        if recording.package in of_package:
            of_package[recording.package].append(recording)
    jobs = []
    for package in packages:
        rows = of_package[package.name]
        files = frozenset(row.path.partition("!")[0] for row in rows)
        sounds: list[Sound] = [(row.name, row.group, row.labels, row.teacher, partial(decode, row)) for row in rows]
        jobs.append(Job(package, files, sounds))
    return jobs


def _synthetic_jobs(packages: Sequence[Package], data: Path) -> list[Job]:
    with np.load(data / "teacher_scores.npz", allow_pickle=False) as arrays:
        teacher = {"soundfonts": arrays["soundfonts"], "speech": arrays["speech"]}

    def rows(name: str) -> Iterator[tuple[dict[str, str], np.ndarray]]:
        with (data / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            yield from zip(csv.DictReader(file), teacher[name], strict=True)

    jobs = [
        Job(
            package,
            frozenset(row["path"] for row, _ in rows("soundfonts") if row["package"] == package.name),
            [
                (row["name"], row["group"], row["labels"].split(";"), scores, partial(synthesize, row))
                for row, scores in rows("soundfonts")
                if row["package"] == package.name
            ],
        )
        for package in packages
    ]
    speech: list[Sound] = [
        (row["name"], row["group"], row["labels"].split(";"), scores, partial(synthesize, row))
        for row, scores in rows("speech")
    ]
    return [*jobs, Job(None, frozenset(), speech)]


def _source(data: Path, packages: Iterable[Package]) -> str:
    """What tells this corpus from another one: the lists and the packages chosen."""
    digest = hashlib.sha256()
    for name in ("recordings.csv", "soundfonts.csv", "speech.csv", "teacher_scores.npz"):
        digest.update((data / name).read_bytes())
    for package in packages:
        digest.update(f"{package.name} {package.version} {package.split}\n".encode())
    return f"open-sounds {digest.hexdigest()}"


def _is_finished(path: Path, source: str) -> bool:
    if not path.exists():
        return False
    with h5py.File(path, "r") as file:
        if file.attrs.get("source") != source:
            raise OpenSoundsError(f"{path}: made from other lists or packages; remove it or choose another folder")
    return True


def _say_needs(
    output: Path,
    todo: Sequence[Package],
    recordings: Iterable[Recording],
    folder: Path | None,
    say: Callable[[str], None],
) -> None:
    names = {package.name for package in todo if package.split != "synthetic"}
    clips = sum(recording.package in names for recording in recordings)
    minutes = "10 to 20 minutes of two cores"
    if any(package.split == "synthetic" for package in todo):
        clips += 1_035
        minutes += ", and 30 for the synthetic part,"  # 32 renderings a minute, measured
    download = sum(package.size for package in todo if not (folder and _find_package(folder, package.name)))
    # a package lies there packed and unpacked until its clips are written
    disk = clips * _CLIP_BYTES + SCENES * _CLIP_BYTES + 2 * max((package.size for package in todo), default=0)
    begun = sum(file.stat().st_size for part in output.glob("*.part") for file in part.iterdir())
    free = shutil.disk_usage(output).free
    if not todo:
        return
    say(
        f"open sounds: {clips} clips from {len(todo)} packages; {download / 1e9:.1f} GB to download, "
        f"{disk / 1e9:.1f} GB of disk ({free / 1e9:.0f} GB free), and {minutes} besides"
    )
    if free + begun < disk:
        raise OpenSoundsError(f"{output}: {free / 1e9:.1f} GB are free, {disk / 1e9:.1f} GB are needed; try --core")


# writing ------------------------------------------------------------------------------------------------------------


def _write_split(
    path: Path, jobs: Sequence[Job], source: str, packages: _Packages, advance: Callable[[str, int], None]
) -> tuple[int, list[str], list[str]]:
    """Write the sounds of the jobs; finished unless a package is missing.

    Returns the number of clips, a line for each sound that could not be read, and the packages that are missing.
    """
    index = {label.display_name: label.index for label in audioset_labels()}
    missing: list[str] = []
    with ClipWriter(path, teacher=True, group=True, source=source) as writer, ThreadPoolExecutor() as pool:
        samples = [length for note in writer.notes for length in note["samples"]]
        left_out = [line for note in writer.notes for line in note["left_out"]]
        done = {note["done"] for note in writer.notes}
        for job in jobs:
            if job.name not in done:
                advance(job.name, 0)
                try:
                    root = packages.get(job.package, job.files) if job.package else Path()
                except OpenSoundsError as error:
                    _log.warning("%s", error)
                    missing.append(job.name)
                    continue
                todo = [sound for sound in job.sounds if sound[0] not in writer]
                for first in range(0, max(len(todo), 1), _BATCH):
                    batch = todo[first : first + _BATCH]
                    read: list[np.ndarray | str] = list(pool.map(partial(_make, root), batch))
                    kept = [(sound, made) for sound, made in zip(batch, read, strict=True) if not isinstance(made, str)]
                    lost = [made for made in read if isinstance(made, str)]
                    target = np.zeros((len(kept), len(index)), bool)
                    for row, (sound, _) in enumerate(kept):
                        target[row, [index[label] for label in sound[2]]] = True
                    is_last = first + _BATCH >= len(todo)
                    lengths = [len(made) for _, made in kept]
                    writer.append(
                        [sound[0] for sound, _ in kept],
                        [np.pad(made, (0, CLIP_SAMPLES - len(made))) for _, made in kept],
                        target,
                        groups=[sound[1] for sound, _ in kept],
                        teacher=np.array([sound[3] for sound, _ in kept], np.float16).reshape(len(kept), len(index)),
                        note={"samples": lengths, "left_out": lost, "done": job.name if is_last else None},
                    )
                    samples += lengths
                    left_out += lost
                if job.package:
                    packages.drop(job.package)
            if job.package:
                advance(job.name, job.package.size)
        if not missing:
            writer.finish({"samples": np.array(samples, np.int32), "left_out": np.int64(len(left_out))})
        return len(samples), left_out, missing


def _make(root: Path, sound: Sound) -> np.ndarray | str:
    """int16 of at most 10 s, or one line that says why not."""
    try:
        waveform = sound[4](root)[:CLIP_SAMPLES]
    except (AudioError, OSError, ValueError, KeyError, struct.error, zlib.error, zipfile.BadZipFile) as error:
        return f"{sound[0]}: {error}"
    return to_int16(waveform) if len(waveform) else f"{sound[0]}: no samples"


def _write_scenes(output: Path, source: str) -> int:
    """The fixed scenes of the test recordings."""
    scenes = Scenes(load_recordings([output / "test.h5"]), SCENES, seconds=10.0, seed=SCENE_SEED)
    with ClipWriter(output / "test_scenes.h5", teacher=True, source=source) as writer:
        for first in range(len(writer), SCENES, _BATCH):
            batch = [scenes[index] for index in range(first, min(first + _BATCH, SCENES))]
            writer.append(
                [f"scene_{scene['clip']:04d}" for scene in batch],
                np.stack([scene["waveform"] for scene in batch]),
                np.stack([scene["target"] for scene in batch]),
                teacher=np.stack([scene["teacher"] for scene in batch]),
            )
        return writer.finish().clip_count


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda package, size: progress.update(task, description=package, advance=size)


# packages -----------------------------------------------------------------------------------------------------------


@dataclass
class _Packages:
    """Gets packages, one at a time, into a working folder."""

    work: Path
    copyright: Path
    given: Path | None
    say: Callable[[str], None]

    def get(self, package: Package, files: frozenset[str]) -> Path:
        """The folder in which `files` of the package lie. Raises OpenSoundsError where it cannot be had."""
        found = _find_package(self.given, package.name) if self.given else None
        if found is not None and found.is_dir():
            self._keep_copyright(package, found)
            return found
        root = self.work / package.name
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        archive = found or download(package, root, self.say)
        if found and _sha256(found) != package.sha256:
            self.say(f"{found}: not the build that the list was made from; its clips may differ")
        try:
            unpack(archive, root, files)
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
            raise OpenSoundsError(f"{archive}: is not a Debian package that can be unpacked ({error})") from None
        if not found:
            archive.unlink()
        self._keep_copyright(package, root)
        return root

    def _keep_copyright(self, package: Package, root: Path) -> None:
        self.copyright.mkdir(parents=True, exist_ok=True)
        for file in sorted(root.glob("usr/share/doc/*/copyright")):
            shutil.copyfile(file, self.copyright / package.name)

    def drop(self, package: Package) -> None:
        _open_zip.cache_clear()
        _rcc_members.cache_clear()
        shutil.rmtree(self.work / package.name, ignore_errors=True)

    def clear(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)


def _find_package(folder: Path, name: str) -> Path | None:
    """`folder/NAME/` or `folder/NAME_*.deb`."""
    if (folder / name).is_dir():
        return folder / name
    return next(iter(sorted(folder.glob(f"{name}_*.deb"))), None)


def download(package: Package, folder: Path, say: Callable[[str], None] = print) -> Path:
    """Have apt put the package's .deb into `folder`, in the listed version, or else the one that apt knows.

    Raises OpenSoundsError without apt, where apt fails, and where the listed version has another SHA-256.
    """
    if shutil.which("apt-get") is None:
        raise OpenSoundsError(
            f"{package.name}: there is no apt-get here; run on Debian bookworm (a container will do), or give a folder "
            "with the .deb files by --packages"
        )
    command = ["apt-get", "download", "-q=2"]
    exact = subprocess.run([*command, f"{package.name}={package.version}"], cwd=folder, capture_output=True, text=True)
    if exact.returncode:
        newest = subprocess.run([*command, package.name], cwd=folder, capture_output=True, text=True)
        if newest.returncode:
            reason = (newest.stderr or exact.stderr).strip().splitlines()
            raise OpenSoundsError(f"{package.name}: apt cannot get it ({reason[-1] if reason else 'no reason given'})")
        say(f"{package.name}: version {package.version} is gone, taking apt's; its clips may differ")
    archive = next(folder.glob("*.deb"))
    if not exact.returncode and _sha256(archive) != package.sha256:
        raise OpenSoundsError(f"{package.name}: SHA-256 is not {package.sha256}; run the same again")
    return archive


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, folder: Path, files: frozenset[str]) -> None:
    """Take `files` and the copyright notice out of a .deb: an ar archive with a data.tar.* in it."""
    with ExitStack() as stack:
        stream = stack.enter_context(archive.open("rb"))
        if stream.read(8) != b"!<arch>\n":
            raise OSError("no ar archive")
        while header := stream.read(60):
            if len(header) < 60:
                raise EOFError("cut short")
            name, size = header[:16].decode("ascii", "replace").strip(" /"), int(header[48:58])
            if name.startswith("data.tar"):
                break
            stream.seek(size + size % 2, io.SEEK_CUR)
        else:
            raise OSError("no data.tar inside")
        tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r|*"))
        for member in tar:
            path = member.name.removeprefix("./")
            if member.isreg() and (
                path in files or (path.startswith("usr/share/doc/") and path.endswith("/copyright"))
            ):
                tar.extract(member, folder, filter="data")


# decoding -----------------------------------------------------------------------------------------------------------


def decode(recording: Recording, root: Path) -> np.ndarray:
    """float32 (samples,) at 32 kHz of a recording in the unpacked package at `root`."""
    outer, _, inner = recording.path.partition("!")
    source: Any = read_member(root / outer, inner) if inner else root / outer
    start, end = round(recording.start * SAMPLE_RATE), round(recording.end * SAMPLE_RATE)
    blocks, length = [], 0
    for block in iter_audio(source, 10.0):  # of an hour of music only what comes before `end` is decoded
        blocks.append(block)
        length += len(block)
        if length >= end:
            break
    return np.concatenate(blocks)[start:end]


def read_member(container: Path, name: str) -> bytes:
    """An audio file inside a zip (.zip, .pk3, .wz), a Qt resource file (.rcc) or a GUS patch (.pat, by number).

    Raises KeyError where it has no such member.
    """
    match container.suffix.lower():
        case ".rcc":
            return _rcc_members(container)[name]()
        case ".pat":
            return gus_waveform(container.read_bytes(), int(name))
        case _:
            return _open_zip(container).read(name)


@lru_cache(maxsize=2)
def _open_zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@lru_cache(maxsize=2)
def _rcc_members(path: Path) -> dict[str, Callable[[], bytes]]:
    return rcc_members(path.read_bytes())


def rcc_members(data: bytes) -> dict[str, Callable[[], bytes]]:
    """Path -> reader of each file in a Qt binary resource file (formats 1 to 3)."""
    if data[:4] != b"qres":
        raise ValueError("not a Qt resource file")
    version, tree, contents, names = struct.unpack(">IIII", data[4:20])
    node_size = 22 if version >= 2 else 14  # later formats append a time stamp
    members: dict[str, Callable[[], bytes]] = {}

    def read(offset: int, flags: int) -> bytes:
        (size,) = struct.unpack_from(">I", data, offset)
        stored = data[offset + 4 : offset + 4 + size]
        if flags & 4:
            raise ValueError("compressed by zstd, which is not supported")
        return zlib.decompress(stored[4:]) if flags & 1 else stored

    def walk(node: int, folder: str) -> None:
        at = tree + node * node_size
        name_offset, flags = struct.unpack_from(">IH", data, at)
        name = ""
        if node:  # the root has none
            (length,) = struct.unpack_from(">H", data, names + name_offset)
            name = data[names + name_offset + 6 :][: 2 * length].decode("utf-16-be")
        if flags & 2:
            count, first = struct.unpack_from(">II", data, at + 6)
            for child in range(first, first + count):
                walk(child, f"{folder}{name}/" if node else "")
        else:
            (offset,) = struct.unpack_from(">I", data, at + 10)
            members[folder + name] = lambda: read(contents + offset, flags)

    walk(0, "")
    return members


def gus_waveform(patch: bytes, number: int) -> bytes:
    """Waveform `number` of a Gravis Ultrasound patch as the bytes of a WAV file."""
    if not patch.startswith((b"GF1PATCH110\0", b"GF1PATCH100\0")):
        raise ValueError("not a GUS patch")
    at = 239  # behind the headers of file, instrument and layer
    for _ in range(number):
        at += 96 + struct.unpack_from("<I", patch, at + 8)[0]
    (size,), (rate,) = struct.unpack_from("<I", patch, at + 8), struct.unpack_from("<H", patch, at + 20)
    modes = patch[at + 55]
    stored = patch[at + 96 : at + 96 + size]
    is_16_bit, is_unsigned = modes & 1, modes & 2
    if is_16_bit:
        samples = np.frombuffer(stored[: size // 2 * 2], "<u2" if is_unsigned else "<i2").astype(np.int32)
    else:
        samples = np.frombuffer(stored, np.uint8 if is_unsigned else np.int8).astype(np.int32) * 256
    if is_unsigned:
        samples -= 32_768
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()
