"""The corpus that `scripts/gpu_day.sh` trains on, small enough to carry to a machine without network.

    python scripts/gpu_day_corpus.py pack data/open_sounds build/gpu_day/corpus [--megabytes 44] [--bitrate 16000]
    python scripts/gpu_day_corpus.py unpack build/gpu_day/corpus FOLDER

`pack` takes recordings of `dcls-prepare open-sounds`, rarer classes first, until their sound at that bit rate makes up
the size, and writes Opus at 24 kHz, some minutes a file, beside their names, labels and stored teacher scores (8 bits
each). `unpack` decodes them on all cores to FOLDER/train.h5 and FOLDER/validation.h5, as `configs/data/scenes.yaml`
takes them. Opus cuts everything above 12 kHz off: the tagger that is trained has not heard it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parents[1]))

from preprocessing.clips.layout import INT16_SCALE, to_int16
from preprocessing.clips.reader import ClipFile
from preprocessing.clips.writer import ClipWriter
from preprocessing.constants import SAMPLE_RATE
from preprocessing.files import atomic_write
from preprocessing.scenes import drawing_weights

FILES = {
    "train": ["train.h5", "repositories_train.h5", "unlabelled.h5"],
    "validation": ["validation.h5", "repositories_validation.h5"],
}
SHARE = {"train": 0.94, "validation": 0.06}  # of the sound
RATE = 24_000  # Opus knows no 32 kHz
PAUSE = RATE // 50  # of silence between two recordings: a frame of Opus
SHARD_SECONDS = 300
SCORE_STEPS = 255


def pack(source: Path, target: Path, megabytes: float, bitrate: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    seconds = 8e6 * megabytes / bitrate
    for split, names in FILES.items():
        pack_split([ClipFile(source / name) for name in names], target, split, SHARE[split] * seconds, bitrate)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1e6:.1f} MB")


def pack_split(files: list[ClipFile], target: Path, split: str, seconds: float, bitrate: int) -> None:
    lengths = [file.clip_lengths() for file in files]
    where = [(number, clip) for number, file in enumerate(files) for clip in range(len(file))]
    labels = np.concatenate([file.read("target", np.arange(len(file))).astype(bool) for file in files])
    scores = np.concatenate([file.read("teacher", np.arange(len(file))) for file in files])
    # the exponential trick: an order in which each comes as early as its weight asks for
    rng = np.random.default_rng(0)
    order = np.argsort(rng.exponential(size=len(where)) / drawing_weights(labels, scores))
    samples = np.concatenate(lengths)[order] * RATE // SAMPLE_RATE + PAUSE
    chosen = order[: int(np.searchsorted(samples.cumsum(), seconds * RATE))]
    columns: dict[str, Any] = {"name": [], "length": [], "shard": [], "offset": []}
    shard, offset, parts = 0, 0, list[npt.NDArray[np.float32]]()
    for row in chosen.tolist():
        number, clip = where[row]
        length = int(lengths[number][clip])
        waveform = files[number].waveform(clip)[:length].astype(np.float32) / INT16_SCALE
        part = soxr.resample(waveform, SAMPLE_RATE, RATE)
        for column, value in (
            ("name", files[number].audio_names()[clip]),
            ("length", length),
            ("shard", shard),
            ("offset", offset),
        ):
            columns[column].append(value)
        parts += [part, np.zeros(PAUSE, np.float32)]
        offset += len(part) + PAUSE
        if offset > SHARD_SECONDS * RATE or row == chosen[-1]:
            encode(target / f"{split}-{shard:03}.opus", np.concatenate(parts), bitrate)
            shard, offset, parts = shard + 1, 0, []
    with atomic_write(target / f"{split}.npz") as unfinished, unfinished.open("wb") as stream:
        np.savez_compressed(
            stream,
            labels=np.array(json.dumps(list(files[0].labels))),
            target=np.packbits(labels[chosen], axis=1),
            teacher=np.rint(scores[chosen].astype(np.float32) * SCORE_STEPS).astype(np.uint8),
            **{name: np.array(values) for name, values in columns.items()},
        )
    print(f"{split}: {len(chosen)} recordings, {sum(columns['length']) / SAMPLE_RATE / 3600:.2f} h")


def encode(path: Path, waveform: npt.NDArray[np.float32], bitrate: int) -> None:
    level = (256_000 - bitrate) / 250_000  # libsndfile's scale: 0 is 256 kbit/s, 1 is 6
    with soundfile.SoundFile(path, "w", RATE, 1, format="OGG", subtype="OPUS", compression_level=level) as file:
        for first in range(0, len(waveform), RATE):  # libsndfile overruns its stack on minutes at a time
            file.write(np.clip(waveform[first : first + RATE], -1, 1))


def unpack(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for split in FILES:
        table = np.load(source / f"{split}.npz", allow_pickle=False)
        labels = json.loads(str(table["labels"]))
        shards = sorted(set(table["shard"].tolist()))
        tasks = []
        for shard in shards:
            rows = np.flatnonzero(table["shard"] == shard)
            spans = list(zip(table["offset"][rows].tolist(), table["length"][rows].tolist(), strict=True))
            tasks.append((source / f"{split}-{shard:03}.opus", spans))
        longest = int(table["length"].max())
        targets = np.unpackbits(table["target"], axis=1, count=len(labels)).astype(bool)
        scores = table["teacher"].astype(np.float32) / SCORE_STEPS
        lengths: list[int] = []
        with (
            ProcessPoolExecutor(os.cpu_count()) as pool,
            ClipWriter(target / f"{split}.h5", labels, samples=longest, teacher=True) as writer,
        ):
            for shard, waveforms in zip(shards, pool.map(decode, tasks), strict=True):
                rows = np.flatnonzero(table["shard"] == shard)
                padded = np.zeros((len(rows), longest), np.int16)
                for row, waveform in zip(padded, waveforms, strict=True):
                    row[: len(waveform)] = waveform
                    lengths.append(len(waveform))
                names = [f"{row}-{table['name'][row]}" for row in rows.tolist()]
                writer.append(names, padded, targets[rows], teacher=scores[rows])
            written = writer.finish({"samples": np.array(lengths, np.int32)})
        print(f"{written.path}: {written.clip_count} clips", flush=True)


def decode(task: tuple[Path, list[tuple[int, int]]]) -> list[npt.NDArray[np.int16]]:
    """The recordings of a shard at 32 kHz: (offset in it, length at 32 kHz) each."""
    path, spans = task
    whole, rate = soundfile.read(path, dtype="float32")
    if rate != RATE:
        raise ValueError(f"{path}: {rate} Hz, not {RATE}; pack the corpus again")
    found = []
    for offset, length in spans:
        part = soxr.resample(whole[offset : offset + -(-length * RATE // SAMPLE_RATE)], RATE, SAMPLE_RATE)
        found.append(to_int16(np.pad(part, (0, max(0, length - len(part))))[:length]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--megabytes", type=float, default=44.0)
    parser.add_argument("--bitrate", type=int, default=16_000)
    options = parser.parse_args()
    if options.action == "pack":
        pack(options.source, options.target, options.megabytes, options.bitrate)
    else:
        unpack(options.source, options.target)


if __name__ == "__main__":
    main()
