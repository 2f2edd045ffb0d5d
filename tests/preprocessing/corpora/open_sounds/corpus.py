"""A small corpus for tests: lists, .debs, git repositories and tars."""

from __future__ import annotations

import csv
import hashlib
import io
import lzma
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 32_000


def tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def wav(hertz: float, seconds: float = 0.5, rate: int = RATE) -> bytes:
    return encoded(tone(hertz, seconds, rate), rate, "WAV", "PCM_16")


def encoded(waveform: np.ndarray, rate: int, format: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def frequency(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * RATE / len(waveform))


def deb(files: dict[str, bytes], compress: Callable[[bytes], bytes] = lzma.compress, suffix: str = "xz") -> bytes:
    """A .deb as dpkg-deb makes it: an ar archive of debian-binary, control.tar and data.tar."""
    archive = b"!<arch>\n"
    data = compress(tar({f"./{name}": content for name, content in files.items()}))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{suffix}": data}
    for name, content in parts.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        archive += header.encode() + content + b"\n" * (len(content) % 2)
    return archive


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def rcc(files: dict[str, tuple[bytes, int]]) -> bytes:
    """A Qt resource file of format 2 with a folder `sounds` that holds `files`: {name: (data, compressed)}."""
    names, contents, nodes = b"", b"", []

    def name(text: str) -> int:
        nonlocal names
        offset = len(names)
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
        return offset

    nodes.append(struct.pack(">IHII", 0, 2, 1, 1) + bytes(8))
    nodes.append(struct.pack(">IHII", name("sounds"), 2, len(files), 2) + bytes(8))
    for text, (data, compressed) in files.items():
        stored = struct.pack(">I", len(data)) + zlib.compress(data) if compressed else data
        nodes.append(struct.pack(">IHHHI", name(text), compressed, 0, 0, len(contents)) + bytes(8))
        contents += struct.pack(">I", len(stored)) + stored
    head, tree = 20, b"".join(nodes)
    offsets = struct.pack(">IIII", 2, head, head + len(tree), head + len(tree) + len(contents))
    return b"qres" + offsets + tree + contents + names


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def git_repository(folder: Path, files: dict[str, bytes]) -> str:
    """A repository that serves partial clones as GitHub does, with a later commit without files; the first's id."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    git(folder, "config", "uploadpack.allowFilter", "true")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "sounds")
    commit = git(folder, "rev-parse", "HEAD")
    git(folder, "rm", "-q", "-r", ".")
    git(folder, "commit", "-q", "-m", "all gone")
    return commit


PACKAGES = {
    "alpha": ("train", {"usr/bell.wav": wav(500), "usr/dog.wav": wav(700, 0.8), "usr/other.wav": wav(600, 0.4)}),
    "beta": ("validation", {"usr/b.wav": wav(900)}),
    "gamma": ("test", {"usr/g.wav": wav(1_100), "usr/damaged.wav": b"RIFF but nothing more"}),
    "delta": (
        "train",
        {"usr/d.pk3": zipped({"in/cat.wav": wav(1_300)}), "usr/d.rcc": rcc({"d.wav": (wav(1_500), 1)})},
    ),
}
RECORDINGS = [
    ["alpha", "usr/bell.wav", 0, 0.5, "alpha:bell", "Bell", "other", 1],
    ["alpha", "usr/dog.wav", 0.2, 0.8, "alpha:dog", "Animal;Dog", "other", 1],
    ["beta", "usr/b.wav", 0, 0.5, "beta:b", "Bell", "other", 1],
    ["gamma", "usr/g.wav", 0, 0.5, "gamma:g", "Music", "other", 1],
    ["gamma", "usr/damaged.wav", 0, 0.5, "gamma:d", "Music", "other", 1],
    ["delta", "usr/d.pk3!in/cat.wav", 0, 0.5, "delta:c", "Cat", "other", 1],
    ["delta", "usr/d.rcc!sounds/d.wav", 0, 0.5, "delta:d", "Cat", "other", 1],
]
UNLABELLED = [["alpha", "usr/other.wav", 0, 0.4]]
REPOSITORIES = {
    "owner/one": (
        "train",
        {
            "a/ring.wav": wav(2_000),
            "a/odd! [1] name#?!.wav": wav(2_200),
            "a/quiet.wav": wav(2_300),
            "big.bin": b"x" * 9999,
        },
    ),
    "owner/two": ("validation", {"v.wav": wav(2_400)}),
    "other/three": ("test", {"t.wav": wav(2_600), "changed.wav": wav(2_800)}),
}
REPOSITORY_RECORDINGS = [  # repository, path, start, end, labels, kind, confirmed, member
    ["other/three", "t.wav", 0, 0.5, "Music", "other", 1, "000000.opus"],
    ["other/three", "changed.wav", 0, 0.5, "Music", "other", 1, "000001.opus"],
    ["other/three", "never.wav", 0, 0.5, "Music", "other", 1, "000002.opus"],
    ["owner/one", "a/ring.wav", 0, 0.5, "Bell", "other", 1, "000003.opus"],
    ["owner/one", "a/odd! [1] name#?!.wav", 0.1, 0.5, "Animal;Dog", "other", 0, "000004.opus"],
    ["owner/one", "a/quiet.wav", 0, 0.5, "", "other", "", "000005.opus"],
    ["owner/two", "v.wav", 0, 0.5, "Cat", "other", 1, "000006.opus"],
]


@dataclass
class Corpus:
    """Where the lists, the .debs, the git repositories and the tars of a corpus lie."""

    data: Path
    debs: Path
    repositories: Path
    tars: Path

    @property
    def url(self) -> str:
        return f"file://{self.repositories}"

    def sources(self) -> dict[str, object]:
        """The arguments of `prepare_open_sounds` that say where the sounds are, all of them local."""
        return {"packages": self.debs, "repositories_url": self.url, "data": self.data}


def make_corpus(folder: Path) -> Corpus:
    corpus = Corpus(folder / "lists", folder / "debs", folder / "git", folder / "tars")
    for path in (corpus.data, corpus.debs, corpus.tars):
        path.mkdir()
    _make_packages(corpus)
    _make_repositories(corpus)
    (corpus.data / "soundfonts.csv").write_text("name,package,path,labels,group\n")
    speech = [["s0", "flite", "slt", 0, "Good morning.", "Speech", "tts:slt"]]
    _write(corpus.data / "speech.csv", "name engine voice rate text labels group", speech)
    np.savez(
        corpus.data / "teacher_scores.npz",
        recordings=_scores(len(RECORDINGS)),
        soundfonts=np.zeros((0, 527)),
        speech=np.full((1, 527), 0.5),
    )
    return corpus


def _make_packages(corpus: Corpus) -> None:
    rows = []
    for name, (split, files) in PACKAGES.items():
        content = deb(files | {f"usr/share/doc/{name}/copyright": f"licence of {name}".encode()})
        (corpus.debs / f"{name}_1.0_all.deb").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        rows.append([name, "1.0", "all", len(content), 10, digest, split, int(name != "delta")])
    _write(corpus.data / "packages.tsv", "package version architecture bytes installed_kib sha256 split core", rows)
    _write(corpus.data / "recordings.csv", "package path start end group labels kind confirmed", RECORDINGS)
    _write(corpus.data / "unlabelled.csv", "package path start end", UNLABELLED)
    np.savez(corpus.data / "unlabelled_scores.npz", unlabelled=np.full((1, 527), 128, np.uint8))


def _make_repositories(corpus: Corpus) -> None:
    rows, members = [], []
    for name, (split, files) in REPOSITORIES.items():
        commit = git_repository(corpus.repositories / name, files)
        rows.append([name, commit, split, "CC0-1.0", "README"])
    _write(corpus.data / "repositories.tsv", "repository commit split licence evidence", rows)
    opus = {row[-1]: _opus(*row[:4]) for row in REPOSITORY_RECORDINGS}
    (corpus.tars / "shard_00.tar").write_bytes(tar(dict(list(opus.items())[:4])))
    (corpus.tars / "shard_01.tar").write_bytes(tar(dict(list(opus.items())[4:])))
    for row in REPOSITORY_RECORDINGS:
        source = REPOSITORIES[row[0]][1].get(row[1], b"")
        digest = hashlib.sha256(b"other" if row[1] == "changed.wav" else source).hexdigest()
        if row[1] == "a/quiet.wav":
            digest = ""
        members.append([*row, hashlib.sha256(opus[row[-1]]).hexdigest(), digest])
    columns = "repository path start end labels kind confirmed member member_sha256 sha256"
    _write(corpus.data / "repository_recordings.csv", columns, members)
    stored = np.repeat(np.arange(len(members), dtype=np.uint8)[:, None], 527, 1)
    np.savez(corpus.data / "repository_scores.npz", repositories=stored)


def _opus(repository: str, path: str, start: float, end: float) -> bytes:
    source = REPOSITORIES[repository][1].get(path, wav(3_000))
    waveform = soundfile.read(io.BytesIO(source))[0][round(start * RATE) : round(end * RATE)]
    return encoded(np.repeat(waveform, 3)[::2], 48_000, "OGG", "OPUS")  # 48 kHz


def _scores(rows: int) -> np.ndarray:
    return np.tile(np.arange(rows)[:, None] / 16, (1, 527)).astype(np.float16)


def _write(path: Path, columns: str, rows: Iterable[list[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(columns.split())
        writer.writerows(rows)
