"""The lists of open sounds -> HDF5 files that anyone can make again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from preprocessing.audio import SAMPLE_RATE, iter_audio
from preprocessing.clips.layout import CLIP_SAMPLES
from preprocessing.corpora.open_sounds import lists
from preprocessing.corpora.open_sounds.containers import read_member, split_path
from preprocessing.corpora.open_sounds.debian import Packages
from preprocessing.corpora.open_sounds.git import GITHUB, Repositories
from preprocessing.corpora.open_sounds.lists import DATA, SPLITS, OpenSoundsError, Package, Recording, Repository
from preprocessing.corpora.open_sounds.synthetic import MISSING_TOOLS, missing_tools, synthesize
from preprocessing.corpora.open_sounds.tars import Tars
from preprocessing.corpora.open_sounds.writing import Job, Report, Sound, write_files
from preprocessing.files import sha256_of
from preprocessing.progress import progress_bar

SYNTHETIC = "synthetic"
UNLABELLED = "unlabelled"
_CLIP_BYTES = 2 * CLIP_SAMPLES


@dataclass(frozen=True)
class Stage:
    """HDF5 files that are made together, the string that identifies each file's contents, and what they take."""

    files: dict[str, str]
    jobs: list[Job]

    def without(self, finished: set[str]) -> Stage:
        """The same without the finished files, and without the jobs that have nothing for the others."""
        files = {name: source for name, source in self.files.items() if name not in finished}
        jobs = [
            replace(job, sounds={name: sounds for name, sounds in job.sounds.items() if name in files})
            for job in self.jobs
        ]
        return Stage(files, [job for job in jobs if job.sounds])


def prepare_open_sounds(
    output: str | Path,
    packages: str | Path | None = None,
    tars: str | Path | None = None,
    *,
    core: bool = False,
    repositories_url: str = GITHUB,
    say: Callable[[str], None] = print,
    data: Path = DATA,
) -> Report:
    """Make the corpus in the folder `output`; what is already there is kept, what is begun goes on.

    Args:
        packages: folder of `PACKAGE_*.deb` files or unpacked packages `PACKAGE/usr/...`; what it lacks comes from apt.
        tars: folder of tars with the recordings of the repositories, in place of the repositories.
        core: only 102 packages that bring most for their size: 2.3 GB instead of 9.1 GB to download.
        repositories_url: git fetches from `repositories_url/OWNER/NAME`.
        say: is told, before anything is done, what it takes, and then what happens.

    Raises OpenSoundsError if the disk is too small or the lists are missing and, when all the rest is done, if packages
    or repositories could not be had. Repositories that are gone for good are left out, and the report says so.
    """
    output = Path(output)
    work = output / ".fetched"
    debian = Packages(work, output / "copyright", Path(packages) if packages else None, say)
    stages = [*package_stages(data, debian, core), synthetic_stage(data, debian)]
    stages.append(repository_stage(data, Repositories(work, repositories_url), Path(tars) if tars else None))
    output.mkdir(parents=True, exist_ok=True)
    stages = [_unfinished(stage, output) for stage in stages]
    _check_git(stages, tars)
    stages = _without_missing_tools(stages, say)
    _say_needs(stages, output, debian, say)
    report = Report()
    with _progress(sum(job.size for stage in stages for job in stage.jobs)) as advance:
        for stage in stages:
            paths = {name: output / f"{name}.h5" for name in stage.files}
            report += write_files(paths, stage.files, stage.jobs, advance)
    shutil.rmtree(work, ignore_errors=True)
    if report.missing:
        raise OpenSoundsError(
            f"{len(report.missing)} packages or repositories could not be had ({', '.join(report.missing)}); the rest "
            f"is kept in {output}. Run the same again, or put .deb files into a folder and give it with --packages"
        )
    return report


# what there is to do ------------------------------------------------------------------------------------------------


def package_stages(data: Path, debian: Packages, core: bool) -> list[Stage]:
    """train.h5 and unlabelled.h5 out of the train packages, validation.h5, test.h5."""
    packages = [package for package in lists.load_packages(data) if package.core or not core]
    chosen = [f"{package.name} {package.version} {package.split}" for package in packages]
    labelled = "open-sounds " + lists.digest(data, ("recordings.csv", "teacher_scores.npz"), *chosen)
    unlabelled = "open-sounds " + lists.digest(data, ("unlabelled.csv", "unlabelled_scores.npz"), *chosen)
    recordings = dict.fromkeys(SPLITS, _by_origin(lists.load_recordings(data)))
    recordings[UNLABELLED] = _by_origin(lists.load_unlabelled(data))
    stages = []
    for split in SPLITS:
        files = {split: labelled} | ({UNLABELLED: unlabelled} if split == "train" else {})
        members = [package for package in packages if package.split == split]
        of_files = {name: recordings[name] for name in files}
        stages.append(Stage(files, [_package_job(package, debian, of_files) for package in members]))
    return stages


def _by_origin(recordings: Iterable[Recording]) -> dict[str, list[Recording]]:
    found: dict[str, list[Recording]] = {}
    for recording in recordings:
        found.setdefault(recording.origin, []).append(recording)
    return found


def _package_job(package: Package, debian: Packages, recordings: dict[str, dict[str, list[Recording]]]) -> Job:
    rows = {name: of_package.get(package.name, []) for name, of_package in recordings.items()}
    files = frozenset(split_path(row.path)[0] for some in rows.values() for row in some)
    sounds = {name: [_sound(row, partial(decode, row)) for row in some] for name, some in rows.items() if some}
    return Job(package.name, partial(debian.open, package, files), sounds, package.size)


def _sound(recording: Recording, make: Callable[[Path], np.ndarray]) -> Sound:
    return Sound(recording.name, recording.group, recording.labels, recording.teacher, make)


def synthetic_stage(data: Path, debian: Packages) -> Stage:
    """synthetic.h5: recipes played with the soundfonts of packages, and sentences spoken."""
    soundfonts, speech = _recipes(data, "soundfonts"), _recipes(data, "speech")
    packages = [package for package in lists.load_packages(data) if package.split == SYNTHETIC]
    jobs = []
    for package in packages:
        rows = [(row, scores) for row, scores in soundfonts if row["package"] == package.name]
        files = frozenset(row["path"] for row, _ in rows)
        sounds = {SYNTHETIC: [_recipe_sound(row, scores) for row, scores in rows]}
        jobs.append(Job(package.name, partial(debian.open, package, files), sounds, package.size))
    jobs.append(Job("speech", _nothing_to_fetch, {SYNTHETIC: [_recipe_sound(*pair) for pair in speech]}))
    versions = [f"{package.name} {package.version}" for package in packages]
    source = lists.digest(data, ("soundfonts.csv", "speech.csv", "teacher_scores.npz"), *versions)
    return Stage({SYNTHETIC: f"open-sounds {source}"}, jobs)


@contextmanager
def _nothing_to_fetch() -> Iterator[Path]:
    yield Path()


def _recipes(data: Path, name: str) -> list[tuple[dict[str, str], np.ndarray]]:
    return list(zip(lists.rows(data, f"{name}.csv"), lists.teacher_scores(data, name), strict=True))


def _recipe_sound(row: dict[str, str], scores: np.ndarray) -> Sound:
    return Sound(row["name"], row["group"], row["labels"].split(";"), scores, partial(synthesize, row))


def repository_stage(data: Path, repositories: Repositories, tars: Path | None) -> Stage:
    """repositories_train.h5, repositories_validation.h5 and repositories_test.h5, from git or from tars."""
    names = ("repositories.tsv", "repository_recordings.csv", "repository_scores.npz")
    source = f"open-sounds {lists.digest(data, names, 'tars' if tars else 'git')}"
    archive = Tars(tars) if tars else None
    rows = _by_origin(lists.load_repository_recordings(data))
    jobs = [
        _repository_job(repository, rows.get(repository.name, []), repositories, archive)
        for repository in lists.load_repositories(data)
    ]
    return Stage({f"repositories_{split}": source for split in SPLITS}, jobs)


def _repository_job(
    repository: Repository, rows: list[Recording], repositories: Repositories, tars: Tars | None
) -> Job:
    name = f"repositories_{repository.split}"
    if tars:
        sounds = [_sound(row, partial(tars.decode, row)) for row in rows]
        return Job(repository.name, _nothing_to_fetch, {name: sounds})
    files = frozenset(row.path for row in rows)
    sounds = [_sound(row, partial(decode, row)) for row in rows]
    return Job(repository.name, partial(repositories.open, repository, files), {name: sounds})


def _unfinished(stage: Stage, output: Path) -> Stage:
    return stage.without({name for name, source in stage.files.items() if is_finished(output / f"{name}.h5", source)})


def is_finished(path: Path, source: str) -> bool:
    """If the file is there. Raises OpenSoundsError if it was made from something else than `source`."""
    if not path.exists():
        return False
    with h5py.File(path, "r") as file:
        if file.attrs.get("source") != source:
            raise OpenSoundsError(f"{path}: made from other lists or packages; remove it or choose another folder")
    return True


def _check_git(stages: Sequence[Stage], tars: object) -> None:
    if (
        tars
        or shutil.which("git")
        or not any(name.startswith("repositories") for stage in stages for name in stage.files)
    ):
        return
    raise OpenSoundsError("git is not installed; install it, or give a folder with the repositories' tars by --tars")


def _without_missing_tools(stages: Sequence[Stage], say: Callable[[str], None]) -> list[Stage]:
    tools = missing_tools()
    if tools and any(SYNTHETIC in stage.files for stage in stages):
        say(MISSING_TOOLS.format(tools=", ".join(tools)))
        return [stage.without({SYNTHETIC}) for stage in stages]
    return list(stages)


def _say_needs(stages: Sequence[Stage], output: Path, debian: Packages, say: Callable[[str], None]) -> None:
    """Say what will be downloaded and written. Raises OpenSoundsError if the disk is too small."""
    jobs = [job for stage in stages for job in stage.jobs]
    synthetic = any(SYNTHETIC in stage.files for stage in stages)
    if not jobs:
        return
    clips = sum(len(sounds) for job in jobs for sounds in job.sounds.values())
    download = sum(job.size for job in jobs if job.size and debian.find(job.name) is None)
    # a package lies there packed and unpacked until its clips are written
    disk = clips * _CLIP_BYTES + 2 * max(job.size for job in jobs)
    begun = sum(file.stat().st_size for part in output.glob("*.part") for file in part.iterdir())
    free = shutil.disk_usage(output).free
    minutes = sum(job.size for job in jobs) / 0.6e9 + clips / 1_500 + (30 if synthetic else 0)  # measured on two cores
    say(
        f"open sounds: {clips} clips from {len(jobs)} packages and repositories; {download / 1e9:.1f} GB of packages "
        f"to download, {disk / 1e9:.1f} GB of disk ({free / 1e9:.0f} GB free), about {minutes:.0f} minutes of two cores"
    )
    if free + begun < disk:
        raise OpenSoundsError(f"{output}: {free / 1e9:.3g} GB are free, {disk / 1e9:.3g} GB are needed; try --core")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int], None]]:
    from rich.progress import DownloadColumn

    with progress_bar(DownloadColumn()) as progress:
        task = progress.add_task("", total=total)
        yield lambda job, size: progress.update(task, description=job, advance=size)


# decoding -----------------------------------------------------------------------------------------------------------


def decode(recording: Recording, root: Path) -> np.ndarray:
    """float32 (samples,) at 32 kHz of a recording below `root`.

    Raises AudioError if it cannot be decoded, one of `containers.ERRORS` if its container cannot be read,
    FileNotFoundError without the file, ValueError if it is not the listed one.
    """
    outer, inner = split_path(recording.path)
    if not (root / outer).exists():
        raise FileNotFoundError(f"{outer} is gone from the package or commit")
    if recording.sha256 and sha256_of(root / outer) != recording.sha256:
        raise ValueError(f"the SHA-256 of {outer} is not {recording.sha256}; the file has changed")
    source: Any = read_member(root / outer, inner) if inner else root / outer
    start, end = round(recording.start * SAMPLE_RATE), round(recording.end * SAMPLE_RATE)
    blocks, length = [], 0
    for block in iter_audio(source, 10.0):  # of an hour of music only what comes before `end` is decoded
        blocks.append(block)
        length += len(block)
        if length >= end:
            break
    return np.concatenate(blocks)[start:end]
