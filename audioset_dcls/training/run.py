"""One training run in its folder: put together from a config, recorded so that it can be repeated, resumable."""

from __future__ import annotations

import csv
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import distributions
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from audioset_dcls.evaluation.runs import CHECKPOINT
from audioset_dcls.models import AudioTagger, load_checkpoint
from audioset_dcls.models.trunks import replace_kernels
from audioset_dcls.training.callbacks.average import WeightAverage
from audioset_dcls.training.callbacks.checkpoints import CheckpointFile, Checkpoints, EpochLog
from audioset_dcls.training.callbacks.positions import PositionStatistics
from audioset_dcls.training.callbacks.teacher import Teacher
from audioset_dcls.training.losses import Distillation
from audioset_dcls.training.module import TaggingModule
from audioset_dcls.training.optimizer import Schedule
from preprocessing import checks
from preprocessing.audio import SAMPLE_RATE
from preprocessing.clips.layout import hash_ids
from preprocessing.files import atomic_write, lock

RECORDED_PACKAGES = ("audioset-dcls", "torch", "torchaudio", "timm", "lightning", "numpy", "h5py", "hydra-core")
MAY_DIFFER = ("trainer", "run")  # between a run and its resumption: other machines, not other results
LEAST = {
    "seed": 0,
    "epochs": 1,
    "batch_size": 1,
    "data.batch_size": 1,
    "data.num_workers": 0,
    "log_every_n_steps": 1,
    "save_every_n_steps": 0,
}
MAY_NOT_DIFFER = ("trainer.gradient_clip", "trainer.limit_train_batches")
_log = logging.getLogger(__name__)


def launch(config: DictConfig) -> float:
    """`train` in Hydra's folder for this job, on as many processes of this machine as `config.trainer` asks for.

    Lightning starts the other processes with this one's command line, which in a sweep would start the sweep again, and
    leaves their variables behind, which would make the sweep's next job believe that somebody else starts them.
    """
    job = HydraConfig.get()
    flags = [part for pair in pairwise([*sys.argv[1:], ""]) for part in config_flag(*pair)]
    environment, arguments = dict(os.environ), sys.argv
    sys.argv = [sys.argv[0], *flags, *job.overrides.task]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it says at each checkpoint what it says once
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # Lightning 2.6 under torch 2.11
    try:
        return train(config, Path(job.runtime.output_dir))
    finally:
        sys.argv = arguments
        for name in set(os.environ) - set(environment):
            del os.environ[name]


def config_flag(argument: str, following: str) -> tuple[str, ...]:
    """`--config-dir=DIR`, or `--config-dir` and DIR; nothing for other arguments."""
    if not argument.startswith("--config"):
        return ()
    return (argument,) if "=" in argument else (argument, following)


def train(config: DictConfig, folder: Path) -> float:
    """Train as `config` says in `folder`, going on from its `last.ckpt` if there is one; returns the best mAP.

    The folder gets config.yaml, run.json (git revision, versions, data hashes), csv/metrics.csv, tensorboard/,
    last.ckpt and best.ckpt. A start that fails before the first row or checkpoint leaves nothing in it.

    Raises ValueError if the folder holds a run with other settings or a damaged last.ckpt, if another process trains
    in it, or if the effective batch cannot be made from the devices' batches; FloatingPointError if the loss is no
    longer finite.
    """
    with run_folder(folder) if is_first_process() else nullcontext():
        try:
            return _train(config, folder)
        except MisconfigurationException as error:  # e.g. trainer.accelerator=gpu without a GPU
            raise ValueError(" ".join(str(error).split())) from error


def _train(config: DictConfig, folder: Path) -> float:
    check_numbers(config)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    torch.set_float32_matmul_precision("high")
    L.seed_everything(config.seed, verbose=False)
    last = folder / "last.ckpt"
    finished_steps = steps_in(last) if last.exists() else None
    check_files(settings["data"])
    data = build(settings["data"])
    data.setup("fit")
    hashes = data_hashes(data)

    csv_logger = CSVLogger(folder, name="", version="csv")
    trainer = build(
        settings["trainer"],
        logger=[csv_logger, *other_loggers(settings["logger"], folder)],
        callbacks=callbacks(config, folder),
        plugins=[CheckpointFile()],
        max_epochs=config.epochs,
        log_every_n_steps=1,  # of what Lightning logs, which is nothing: see TaggingModule.log_row
        use_distributed_sampler=False,  # the data module's samplers know the processes
        num_sanity_val_steps=0,
        enable_checkpointing=False,  # Checkpoints does that
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )
    trainer.accumulate_grad_batches = accumulation(config.batch_size, config.data.batch_size, trainer.world_size)
    steps = len(data.train_dataloader()) // (config.batch_size // config.data.batch_size)  # an epoch's full ones
    if not steps:
        raise ValueError(f"the training clips are fewer than one batch of {config.batch_size}; lower batch_size")
    steps = limited(steps, trainer.limit_train_batches, trainer.accumulate_grad_batches)
    trainer.limit_train_batches = steps * trainer.accumulate_grad_batches
    schedule = Schedule(config.epochs * steps, round(config.warmup_epochs * steps), **settings["scheduler"])
    if config.decay_epochs is not None:
        schedule = replace(schedule, decay_start=max(0.0, 1 - config.decay_epochs / config.epochs))
    model = build(settings["model"], num_classes=len(data.labels))
    if config.prior_bias:
        start_from_priors(model, data.class_priors())
    if isinstance(trainer.accelerator, CPUAccelerator):
        model = model.to(memory_format=torch.channels_last)  # a step of the study's models: 0.69 to 0.96 of the time
    teacher = next((callback for callback in trainer.callbacks if isinstance(callback, Teacher)), None)
    coverage = data.class_coverage()
    module = TaggingModule(
        model,
        data.labels,
        settings["optimizer"],
        schedule,
        build(settings["augment"]),
        Distillation(**settings["distill"]),
        embedding_size=(teacher or data.dataset("train")).embedding_size,
        **settings["loss"],
        freeze_batch_norm=config.freeze_batch_norm,
        compile=config.compile,
        seed=config.seed,
        log_every_n_steps=config.log_every_n_steps,
        metadata={
            "experiment": config.name,
            "seed": config.seed,
            **(inherited(model.metadata) if model.labels == tuple(data.labels) else {}),
            "data": hashes,
            "clip_seconds": data.clip_seconds or data.dataset("train").samples / SAMPLE_RATE,
            "train_label_counts": sum(file.label_counts() for file in data.dataset("train").files).tolist(),
            "train_class_clips": coverage.clips.tolist(),
            "train_class_sources": coverage.sources.tolist(),
        },
    )
    if trainer.is_global_zero:
        record(folder, settings, hashes, None if finished_steps is None else finished_steps / steps)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        size = f"{parameters:,} parameters, epochs: {config.epochs}, steps of each: {steps:,}"
        _log.info("%s: %s", folder, size)
        if finished_steps is not None:
            restore_rows(csv_logger, folder / ".metrics.csv", finished_steps)
            _log.info("%s: goes on after step %s", folder, f"{finished_steps:,}")
    try:
        trainer.fit(module, datamodule=data, ckpt_path=None if finished_steps is None else last, weights_only=True)
    except BaseException:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)  # the other processes would wait for this one
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()  # Lightning leaves it to the sweep's next run, whose processes are others
    best = next(callback.best for callback in trainer.callbacks if isinstance(callback, Checkpoints))
    if trainer.is_global_zero:
        _log.info("%s: best mAP %.2f %%", folder / CHECKPOINT, 100 * best)
    return best


def build(settings: dict[str, Any], **more: Any) -> Any:
    """What `_target_` names, called with the other settings. Hydra's `instantiate` would hide its errors in its own."""
    arguments = {**settings, **more}
    return get_object(arguments.pop("_target_"))(**arguments)


def other_loggers(settings: dict[str, Any], folder: Path) -> list[Any]:
    """The logger of the group `logger`, writing in the run's folder. Raises ValueError if its library is missing."""
    if not settings:
        return []
    try:
        return [build(settings, save_dir=str(folder))]
    except ModuleNotFoundError as error:
        raise ValueError(f"logger={settings['_target_'].rpartition('.')[2]}: {error}") from error


def callbacks(config: DictConfig, folder: Path) -> list[L.Callback]:
    """In the order they must act in: checkpoints hold what the others did before."""
    chosen: list[L.Callback] = [PositionStatistics(config.save_every_n_steps)]
    if config.teacher:
        chosen.append(Teacher(config.teacher))
    if config.average:
        chosen.append(WeightAverage(**config.average))
    if config.save_every_n_steps % config.log_every_n_steps:
        raise ValueError("save_every_n_steps must be a multiple of log_every_n_steps")
    return [*chosen, Checkpoints(folder, config.save_every_n_steps), EpochLog()]


def check_numbers(config: DictConfig) -> None:
    """Raises ValueError for a number of epochs, clips, steps or processes that is none."""
    for name, least in LEAST.items():
        value = OmegaConf.select(config, name)
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={value}: must be a whole number, {least} or more")


def check_files(data: Mapping[str, Any]) -> None:
    """Raises ValueError for a train or validation file that is not there."""
    for split in ("train", "val"):
        paths = data.get(split) or []
        for path in [paths] if isinstance(paths, str) else paths:
            if not Path(path).exists():
                folder = os.environ.get("DCLS_DATA", "data (DCLS_DATA is not set)")
                raise ValueError(
                    f"{path}: no such file; make it with dcls-prepare, set DCLS_DATA to the folder that holds it (now "
                    f"{folder}), or name others with data.{split}"
                )


def accumulation(batch_size: int, per_process: int, processes: int) -> int:
    """Batches that each process adds up for one step, so that a step sees `batch_size` clips on any machine."""
    steps, rest = divmod(batch_size, per_process * processes)
    if rest or not steps:
        raise ValueError(
            f"batch_size={batch_size} is not a multiple of data.batch_size={per_process} x {processes} processes; "
            f"change data.batch_size"
        )
    return steps


def limited(steps: int, limit: int | float, accumulated: int) -> int:
    """An epoch's steps of `accumulated` batches under `trainer.limit_train_batches`, a number of batches or a share."""
    allowed = steps * limit if isinstance(limit, float) else limit // accumulated
    if allowed < 1:
        raise ValueError(f"trainer.limit_train_batches={limit} leaves no step of {accumulated} batches; raise it")
    return min(steps, int(allowed))


def fine_tune(checkpoint: str | None, num_classes: int, dcls: bool = False) -> AudioTagger:
    """A trained model with a new classifier; the old one stays where the number of classes is the same.

    dcls: DCLS elements take the places of the model's depthwise kernels, fitted to them; see `replace_kernels`.
    Raises ValueError without a checkpoint, and with dcls if the model has no such kernels (any more).
    """
    if not checkpoint:
        raise ValueError("checkpoint is not set: add checkpoint=FILE, a published name or a URL to start from")
    model = load_checkpoint(checkpoint).train()
    if model.config["num_classes"] != num_classes:
        model.reset_classifier(num_classes)
        model.metadata = {}
    else:
        model.metadata = {"starts_from": Path(checkpoint).name, "masked": model.metadata.get("masked", [])}
    if dcls:
        if not replace_kernels(model.trunk, model.config, warm_start=True):
            raise ValueError(f"{checkpoint}: no depthwise kernels for DCLS to replace; leave out model.dcls")
        model.config["dcls"] = True
    return model


def inherited(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the tagger that its training began with: its name, and the classes it cannot know."""
    return {key: metadata[key] for key in ("starts_from", "masked") if key in metadata}


def start_from_priors(model: AudioTagger, priors: np.ndarray) -> None:
    """Let the classifier say at first how often each class comes: else the first thousands of steps learn only that."""
    with torch.no_grad():
        model.classifier.bias.copy_(torch.logit(torch.from_numpy(priors.clip(1e-4, 0.9))))


# ---- the run's folder


def is_first_process() -> bool:
    """Whether this is the process that writes, before a trainer exists to tell."""
    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Lock `folder`; take away what a start has written that failed before its first row or checkpoint."""
    with held(folder):
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
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except OSError:
        raise
    except Exception as error:  # torch raises a dozen types on bytes that are not its own
        best = checkpoint.with_name(CHECKPOINT)
        go_on = f"copy {best.name} over it to go on from there, or " if best.exists() else ""
        raise ValueError(f"{checkpoint}: damaged or truncated; {go_on}remove the run's folder to begin anew") from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from training in `folder`. Raises ValueError where one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        if not lock(file):
            raise ValueError(f"{folder}: another process is training this run; wait for it, or choose another name=...")
        yield


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


def record(folder: Path, settings: Any, hashes: Any, finished_epochs: float | None) -> None:
    """Write config.yaml and run.json.

    finished_epochs: of the checkpoint to go on from, None if there is none.

    Raises ValueError if the folder's run had other settings. `epochs` and `decay_epochs` may differ as long as the
    learning rate has not begun to decay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / "config.yaml"
    if stored.exists():
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
            raise ValueError(
                f"{folder} holds a run with other settings ({'; '.join(changed)}): choose another name=..."
            )
    write(stored, OmegaConf.to_yaml(OmegaConf.create(settings)))
    facts = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "git": git("rev-parse", "HEAD"),
        "git_changes": git("status", "--porcelain"),
        "python": platform.python_version(),
        "packages": {package.name: package.version for package in distributions() if package.name in RECORDED_PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "data": hashes,
    }
    starts = json.loads((folder / "run.json").read_text()) if (folder / "run.json").exists() else []
    write(folder / "run.json", json.dumps([*starts, facts], indent=1))  # one entry a start: resumed runs have several


def is_constant(settings: Any, finished_epochs: float) -> bool:
    """Whether the learning rate has not begun to decay after so many epochs, under these settings."""
    decay = settings.get("decay_epochs")
    return decay is not None and finished_epochs <= settings["epochs"] - decay


def data_hashes(data: Any) -> dict[str, dict[str, Any]]:
    """Number of clips and hash of their sorted ids, for training and validation."""
    names = {split: data.dataset(split).audio_names() for split in ("train", "val")}
    return {split: {"clips": len(ids), "clip_ids_sha256": hash_ids(ids)} for split, ids in names.items()}


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ, as `key: old -> new`."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [f"{path}: {old} -> {new}"]
    keys = dict.fromkeys([*old, *new])
    return [line for key in keys for line in differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]


def git(*arguments: str) -> str | None:
    """What git says about the checkout that this file lies in; None in an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write(path: Path, text: str) -> None:
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
