"""A small multi-label set of real sounds, composed configs, and what runs wrote."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from audioset_dcls.folders import data_folder
from preprocessing.audio import read_audio
from preprocessing.clips.layout import to_int16
from preprocessing.clips.writer import ClipWriter

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
NAMES = ("dog_bark.ogg", "cow.ogg", "bird_song.ogg", "car_horn.wav", "helicopter.ogg", "guitar.ogg")
SECONDS = 1.0


def write_clips(path: Path, count: int, seed: int) -> Path:
    """`count` clips of a second, each one or two of the recordings at random places and levels over a little noise."""
    rng = np.random.default_rng(seed)
    samples = round(SECONDS * 32_000)
    waveforms = [read_audio(RECORDINGS / name) for name in NAMES]
    clips, targets = [], np.zeros((count, len(NAMES)), bool)
    for clip in range(count):
        mixed = 1e-3 * rng.standard_normal(samples)
        for index in rng.permutation(len(NAMES))[: rng.integers(1, 3)]:
            waveform = waveforms[index] / np.abs(waveforms[index]).max()
            part = waveform[rng.integers(max(1, len(waveform) - samples)) :][:samples]
            start = rng.integers(samples - len(part) + 1)
            mixed[start : start + len(part)] += 0.4 * rng.uniform(0.5, 1) * part
            targets[clip, index] = True
        clips.append(to_int16(mixed.clip(-1, 1)))
    with ClipWriter(path, [Path(name).stem for name in NAMES], samples=samples) as writer:
        writer.append([f"{path.stem}-{clip:03d}" for clip in range(count)], clips, targets)
        writer.finish()
    return path


def composed(overrides: list[str], name: str = "train") -> DictConfig:
    """What Hydra makes of the overrides, also known to `${hydra:...}`."""
    with initialize_config_dir(str(data_folder("configs")), version_base="1.3"):
        config = compose(name, overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])


def curve(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, empty cells left out."""
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
