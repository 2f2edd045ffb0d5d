"""Step 1 of the lists: decode the recordings of the Debian packages and candidates for the unlabelled part.

    python scripts/open_sounds/walk_packages.py DEBS WORK

DEBS holds the .deb files. For each package WORK/debian/PACKAGE.npy (int16, all pieces one after another, 32 kHz) and
PACKAGE.json (path, start, end, samples, listed, of each piece) are written; what is there is kept. Candidates are taken
from train packages alone: at most SERIES files whose names differ only by digits, PIECES pieces of a file, and
CANDIDATES files of a package, MUSIC of which are called music.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from preprocessing.audio import SAMPLE_RATE, AudioError, iter_audio
from preprocessing.clips.layout import to_int16
from preprocessing.corpora.open_sounds.containers import rcc_members, read_member, split_path
from preprocessing.corpora.open_sounds.lists import load_packages, load_recordings

AUDIO = (".ogg", ".oga", ".wav", ".mp3", ".flac", ".opus", ".aif", ".aiff", ".au", ".snd", ".voc", ".wve", ".m4a")
CONTAINERS = (".zip", ".pk3", ".wz", ".rcc", ".pat", ".jar")
SERIES, PIECES, CANDIDATES, MUSIC = 12, 3, 300, 24
LONGEST = 120  # seconds of a file that are looked at


def members(container: Path) -> list[str]:
    """The audio files inside a container, as `read_member` names them."""
    match container.suffix.lower():
        case ".rcc":
            names = list(rcc_members(container.read_bytes()))
        case ".pat":
            return [f"{number:02d}" for number in range(container.read_bytes()[198])]
        case _:
            names = zipfile.ZipFile(container).namelist()
    return sorted(name for name in names if name.lower().endswith(AUDIO))


def audio_paths(root: Path) -> list[str]:
    """All audio paths of an unpacked package, `OUTER!INNER` inside containers."""
    found = []
    for file in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
        name = str(file.relative_to(root))
        if name.lower().endswith(AUDIO):
            found.append(name)
        elif name.lower().endswith(CONTAINERS):
            try:
                found += [f"{name}!{member}" for member in members(file)]
            except (ValueError, zipfile.BadZipFile, IndexError) as error:
                print(f"{name}: {error}", file=sys.stderr)
    return found


def is_music(path: str) -> bool:
    return bool(re.search(r"music|/bgm|soundtrack|/songs?/|/moh/|jukebox", path.lower()))


def choose(package: str, paths: list[str]) -> list[str]:
    """At most CANDIDATES of the paths in an order drawn by hash, each series and music capped."""
    paths = sorted(paths, key=lambda path: hashlib.sha256(f"{package}/{path}".encode()).digest())
    series: Counter[str] = Counter()
    music = 0
    chosen = []
    for path in paths:
        key = re.sub(r"\d+", "#", path)
        if series[key] >= SERIES or (is_music(path) and music >= MUSIC):
            continue
        series[key] += 1
        music += is_music(path)
        chosen.append(path)
    return chosen[:CANDIDATES]


def open_piece(root: Path, path: str):
    outer, inner = split_path(path)
    return read_member(root / outer, inner) if inner else root / outer


def decode_start(root: Path, path: str, seconds: float) -> np.ndarray:
    blocks, length = [], 0
    for block in iter_audio(open_piece(root, path), 10.0):
        blocks.append(block)
        length += len(block)
        if length >= seconds * SAMPLE_RATE:
            break
    return np.concatenate(blocks)[: round(seconds * SAMPLE_RATE)]


def cut(samples: int) -> list[tuple[float, float]]:
    """Start and end in seconds of at most PIECES pieces of 10 s at most, evenly spread."""
    seconds = samples / SAMPLE_RATE
    count = min(PIECES, int(seconds // 10) + (seconds % 10 >= 5 or seconds < 10))
    starts = [0.0] if count == 1 else [round(index * seconds / count, 1) for index in range(count)]
    return [(start, round(min(start + 10, seconds), 3)) for start in starts]


def walk(package: str, archive: Path, listed: dict[str, list[tuple[float, float]]], take: bool, work: Path) -> None:
    pieces: list[np.ndarray] = []
    notes = []
    with tempfile.TemporaryDirectory(dir=work) as folder:
        root = Path(folder)
        wildcards = [f"*{suffix}" for suffix in (*AUDIO, *CONTAINERS)]
        command = f"dpkg-deb --fsys-tarfile '{archive}' | tar -x -C '{root}' --wildcards --ignore-case " + " ".join(
            f"'{card}'" for card in wildcards
        )
        subprocess.run(command, shell=True, stderr=subprocess.DEVNULL, check=False)
        chosen = choose(package, [path for path in audio_paths(root) if path not in listed]) if take else []
        for path in [*listed, *chosen]:
            spans = listed.get(path)
            try:
                waveform = decode_start(root, path, max(end for _, end in spans) if spans else LONGEST)
            except (AudioError, OSError, ValueError, KeyError, zipfile.BadZipFile, RuntimeError) as error:
                print(f"{package}/{path}: {error}", file=sys.stderr)
                continue
            for start, end in spans or cut(len(waveform)):
                piece = to_int16(waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)])
                if spans is None and (len(piece) < 0.1 * SAMPLE_RATE or np.abs(piece.astype(np.int32)).max() < 33):
                    continue
                pieces.append(piece)
                notes.append(
                    {"path": path, "start": start, "end": end, "samples": len(piece), "listed": spans is not None}
                )
    np.save(work / "debian" / f"{package}.npy.tmp.npy", np.concatenate([np.zeros(0, np.int16), *pieces]))
    shutil.move(work / "debian" / f"{package}.npy.tmp.npy", work / "debian" / f"{package}.npy")
    (work / "debian" / f"{package}.json").write_text(json.dumps(notes))
    print(package, len(notes), sum(note["listed"] for note in notes), flush=True)


def main(debs: Path, work: Path) -> None:
    (work / "debian").mkdir(parents=True, exist_ok=True)
    listed: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for recording in load_recordings():
        spans = listed.setdefault(recording.origin, {}).setdefault(recording.path, [])
        spans.append((recording.start, recording.end))
    for package in sorted(load_packages(), key=lambda package: package.size):
        if package.split != "synthetic" and not (work / "debian" / f"{package.name}.json").exists():
            (archive,) = debs.glob(f"{package.name}_*.deb")
            walk(package.name, archive, listed.get(package.name, {}), package.split == "train", work)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
