"""A run's folder between starts: locked by one process, gone on with under the same settings from its last step."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audioset_dcls.evaluation.runs import CHECKPOINT
from preprocessing import checks
from preprocessing.files import lock

if TYPE_CHECKING:
    from lightning.pytorch.loggers import CSVLogger

MAY_DIFFER = ("trainer", "logger")  # between a run and its resumption: other machines, not other results
MAY_NOT_DIFFER = ("trainer.gradient_clip", "trainer.limit_train_batches")


@contextmanager
def open_run_dir(folder: Path) -> Iterator[None]:
    """Lock `folder`; take away what a start has written that failed before its first row or checkpoint."""
    with lock_run_dir(folder):
        before = {path.name for path in folder.iterdir()} - {".lock", "train.log"}  # Hydra has opened this one
        try:
            yield
        except BaseException:
            if "config.yaml" not in before and not any(path.exists() for path in progress_files(folder)):
                for path in folder.iterdir():
                    if path.name not in before:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                remove_empty(folder)
            raise


@contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Keep other processes from training in `folder`. Raises ValueError if one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        if not lock(file):
            raise ValueError(f"{folder}: another process is training this run; wait for it, or choose another name=...")
        yield


def progress_files(folder: Path) -> list[Path]:
    """What a run has once it has got anywhere."""
    return [folder / "last.ckpt", folder / CHECKPOINT, folder / "csv" / "metrics.csv"]


def remove_empty(folder: Path) -> None:
    """Remove a folder if it is empty, and those above it up to the working directory."""
    here, folder = Path.cwd(), folder.absolute()
    while folder != here and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
        if here not in folder.parents:
            return


def steps_in(checkpoint: Path) -> int:
    """The optimiser steps that a checkpoint was saved after. Raises ValueError if it cannot be read."""
    import torch

    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except OSError:
        raise
    except Exception as error:  # torch raises a dozen types on bytes that are not its own
        best = checkpoint.with_name(CHECKPOINT)
        go_on = f"copy {best.name} over it to go on from there, or " if best.exists() else ""
        raise ValueError(f"{checkpoint}: damaged or truncated; {go_on}remove the run's folder to begin anew") from error


def restore_rows(logger: CSVLogger, kept: Path, step: int) -> None:
    """Keep the rows up to `step`: Lightning's CSV logger starts anew. A kill meanwhile leaves them in `kept`."""
    path = Path(logger.log_dir) / "metrics.csv"
    if path.exists() and not kept.exists():
        path.replace(kept)
    if not kept.exists():
        return
    path.unlink(missing_ok=True)
    with kept.open(newline="") as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    logger.experiment.metrics = [row for row in rows if int(row["step"]) <= step]
    logger.save()
    kept.unlink()


def check_settings(folder: Path, settings: Any, finished_epochs: float | None) -> None:
    """Raises ValueError if the folder holds a run with other settings.

    Args:
        finished_epochs: of the checkpoint to go on from, None if there is none. `epochs` and `decay_epochs` may differ
            as long as the learning rate has not begun to decay.
    """
    stored = folder / "config.yaml"
    if not stored.exists():
        return
    try:
        old = checks.read_yaml(stored)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}; remove the folder to begin anew") from None
    if finished_epochs is not None and all(is_constant(each, finished_epochs) for each in (old, settings)):
        old = old | {name: settings[name] for name in ("epochs", "decay_epochs")}
    changed = differences(old, settings)
    changed = [
        line
        for line in changed
        if line.startswith(MAY_NOT_DIFFER) or not (line.startswith(MAY_DIFFER) or "num_workers" in line)
    ]
    if changed:
        raise ValueError(f"{folder} holds a run with other settings ({'; '.join(changed)}): choose another name=...")


def is_constant(settings: Any, finished_epochs: float) -> bool:
    """Whether the learning rate has not begun to decay after so many epochs, under these settings."""
    decay = settings.get("decay_epochs")
    return decay is not None and finished_epochs <= settings["epochs"] - decay


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ, as `key: old -> new`."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [f"{path}: {old} -> {new}"]
    keys = dict.fromkeys([*old, *new])
    return [line for key in keys for line in differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
