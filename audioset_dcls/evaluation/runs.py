"""Training runs as they lie on the disk: what each scored, and on which clips.

A run is a folder `<experiment>/seed_<n>` with what `dcls-train` leaves there and the folders `best-on-<data>` that
`dcls-eval` makes. Its numbers are those of the evaluation, if there is one, beside those of `metrics.json` (any
numbers, e.g. hours or clips/s) and the best mAP in the training's log, `csv/metrics.csv`.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audioset_dcls.evaluation.predictions import FULL
from audioset_dcls.evaluation.summary import RESAMPLED
from preprocessing import checks
from preprocessing.files import sha256_of
from preprocessing.npz import read_npz

CHECKPOINT = "best.ckpt"
EVALUATIONS = "best-on-*"
_MOST_RESAMPLES = 1_000_000


@dataclass(frozen=True)
class Run:
    """One training run: its numbers, the clips they were taken from, and bootstrap samples of some of the numbers.

    Attributes:
        clips, clip_hash: None if only the training's own validation is known and says nothing of them.
        task: hash of the clips and targets in their order.
        resampled: by metric, (resamples,).
        curve: (epoch, validation mAP) pairs.
    """

    experiment: str
    seed: int
    metrics: Mapping[str, float]
    clips: int | None = None
    clip_hash: str | None = None
    task: str | None = None
    resampled: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    curve: Sequence[tuple[float, float]] = ()


def evaluation_folder(model_path: Path, data_path: Path) -> Path:
    """Where an evaluation goes: `<model>-on-<data>` beside the model, in the working directory for a published one."""
    beside = model_path.parent if model_path.is_file() else Path()
    return beside / f"{model_path.stem}-on-{data_path.stem}"


def find_runs(folder: Path) -> list[Path]:
    """The folders `seed_<n>` below `folder`, by experiment and seed. Raises ValueError if there is none."""
    runs = [path for path in folder.rglob("seed_*") if path.is_dir() and re.fullmatch(r"seed_\d+", path.name)]
    if not runs:
        raise ValueError(f"{folder}: no runs; expected <experiment>/seed_<n>/ as dcls-train makes them")
    return sorted(runs, key=lambda run: (run.parent, _seed(run)))


def read_run(folder: Path, experiment: str, evaluation: str | None = None) -> Run:
    """The run in `folder` with the evaluation of that name.

    Raises ValueError if it is unfinished, has no mAP, or a file of it is damaged, OSError if one cannot be read.
    """
    curve = read_curve(folder / "csv" / "metrics.csv")
    _check_finished(folder, curve)
    own = _read_json(folder / "metrics.json") if (folder / "metrics.json").exists() else {}
    numbers = ({"mAP": max(score for _, score in curve)} if curve else {}) | _numbers(own)
    resampled: dict[str, NDArray[np.float64]] = {}
    if evaluation is not None:
        path = folder / evaluation / "metrics.json"
        own = _read_json(path)
        with _reading(path):
            numbers |= evaluated_numbers(own)
            checksum = own["model_sha256"]
        if (folder / CHECKPOINT).exists() and checksum != sha256_of(folder / CHECKPOINT):
            raise ValueError(f"{evaluation} is of an older {CHECKPOINT}; add --data to evaluate it again")
        stored = [name for name in RESAMPLED if name in evaluated_numbers(own)]
        resampled = read_resampled(folder / evaluation / "predictions.npz", stored)
    if "mAP" not in numbers:
        raise ValueError("no mAP: neither an evaluation nor a validation")
    clips, clip_hash, task = (own.get(name) for name in ("clips", "clip_hash", "target_hash"))
    if not isinstance(clips, int | None) or not all(isinstance(text, str | None) for text in (clip_hash, task)):
        raise ValueError("metrics.json is damaged (clips, clip_hash or target_hash)")
    return Run(experiment, _seed(folder), numbers, clips, clip_hash, task, resampled, curve)


def evaluated_numbers(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation's metrics.json by name: "mAP" of whole clips, "mAP 5 s" of cut ones."""
    numbers = {}
    for length, values in evaluation["metrics"].items():
        suffix = "" if length == FULL else f" {length}"
        for name, value in _numbers(values).items():
            numbers[name + suffix] = value
    return numbers | _numbers({"parameters": evaluation.get("parameters")})


def read_curve(path: Path) -> list[tuple[float, float]]:
    """(epochs trained, validation mAP) from the training's log; empty if there is none."""
    if not path.exists():
        return []
    with _reading(path), path.open(encoding="utf-8", newline="") as file:
        return [(float(row["epoch"]) + 1, float(row["val/map"])) for row in csv.DictReader(file) if row.get("val/map")]


def read_resampled(path: Path, metrics: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Bootstrap samples of these metrics, (resamples,), in an evaluation's predictions.npz; none without the file."""
    if not path.exists():
        return {}
    samples = {}
    with _reading(path):
        for name in metrics:
            samples[name] = read_npz(path, f"resampled_{name}", "f", 1, _MOST_RESAMPLES * 8).astype(np.float64)
            # NaN is a resample without a label
            if np.isinf(samples[name]).any() or np.isnan(samples[name]).all():
                raise ValueError(f"resampled_{name} is not finite")
    return samples


def _check_finished(folder: Path, curve: Sequence[tuple[float, float]]) -> None:
    """Raises ValueError if the run's own settings say that it has epochs to go."""
    config = folder / "config.yaml"
    if not config.exists():
        return
    with _reading(config):
        # no OmegaConf: it would resolve what the file asks for, environment variables for example
        epochs = checks.integer(checks.read_yaml(config).get("epochs") or 0, "epochs", 0, 10**9)
    done = max((epoch for epoch, _ in curve), default=0)
    if done < epochs:
        raise ValueError(f"unfinished, {done:.0f} of {epochs} epochs")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises ValueError, one line that names the file, for whatever its content makes its reader raise."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{path.parent.name}/{path.name} is damaged ({reason[:200]})") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"no {path.parent.name}/{path.name}; add --data to evaluate it")
    with _reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("no JSON object")
    return content


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value) and type(value) is not bool
        if name not in ("clips", "classes")
    }


def _seed(run: Path) -> int:
    return int(run.name.removeprefix("seed_"))
