"""One training run in its folder: put together from a config, recorded so that it can be repeated, resumable."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from audioset_dcls.dcls import set_benchmark
from audioset_dcls.evaluation.runs import CHECKPOINT
from audioset_dcls.models import AudioTagger
from audioset_dcls.models.fine_tune import start_from_priors
from audioset_dcls.training.callbacks.checkpoints import CheckpointFile, Checkpoints, EpochLog
from audioset_dcls.training.callbacks.positions import PositionStatistics
from audioset_dcls.training.callbacks.sigterm import EndOnSigterm
from audioset_dcls.training.callbacks.teacher import Teacher
from audioset_dcls.training.losses import Distillation
from audioset_dcls.training.module import TaggingModule
from audioset_dcls.training.optimizer import Schedule
from audioset_dcls.training.record import data_hashes, record
from audioset_dcls.training.resume import check_settings, open_run_dir, restore_rows, steps_in
from audioset_dcls.training.settings import check_config
from preprocessing.audio import SAMPLE_RATE

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
    with open_run_dir(folder) if is_first_process() else nullcontext():
        try:
            return _train(config, folder)
        except MisconfigurationException as error:  # e.g. trainer.accelerator=gpu without a GPU
            raise ValueError(" ".join(str(error).split())) from error


def _train(config: DictConfig, folder: Path) -> float:
    settings: Any = OmegaConf.to_container(config, resolve=True)
    check_config(settings)
    torch.set_float32_matmul_precision("high")
    L.seed_everything(config.seed, verbose=False)
    set_benchmark(config.benchmark)
    last = folder / "last.ckpt"
    finished_steps = steps_in(last) if last.exists() else None
    data = build(settings["data"])
    data.setup("fit")
    hashes = data_hashes(data)
    csv_logger = CSVLogger(folder, name="", version="csv")
    trainer = create_trainer(settings, folder, csv_logger)
    steps = limit_epoch(trainer, len(data.train_dataloader()), config.batch_size, config.data.batch_size)
    model = build(settings["model"], num_classes=len(data.labels))
    if config.prior_bias:
        start_from_priors(model, data.class_priors())
    if isinstance(trainer.accelerator, CPUAccelerator):
        model = model.to(memory_format=torch.channels_last)  # a step of the study's models: 0.69 to 0.96 of the time
    module = create_module(settings, model, data, trainer, create_schedule(settings, steps), hashes)
    if trainer.is_global_zero:
        check_settings(folder, settings, None if finished_steps is None else finished_steps / steps)
        record(folder, settings, hashes)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        size = f"{parameters:,} parameters, epochs: {config.epochs}, steps of each: {steps:,}"
        _log.info("%s: %s", folder, size)
        if finished_steps is not None:
            restore_rows(csv_logger, folder / ".metrics.csv", finished_steps)
            _log.info("%s: goes on after step %s", folder, f"{finished_steps:,}")
    fit(trainer, module, data, None if finished_steps is None else last)
    best = next(callback.best for callback in trainer.callbacks if isinstance(callback, Checkpoints))
    if trainer.is_global_zero:
        _log.info("%s: best mAP %.2f %%", folder / CHECKPOINT, 100 * best)
    return best


def create_trainer(settings: dict[str, Any], folder: Path, csv_logger: CSVLogger) -> Any:
    """Lightning's trainer with our checkpoints, logs and gradient accumulation."""
    trainer: Any = build(
        settings["trainer"],
        logger=[csv_logger, *other_loggers(settings["logger"], folder)],
        callbacks=create_callbacks(settings, folder),
        plugins=[CheckpointFile()],
        max_epochs=settings["epochs"],
        log_every_n_steps=1,  # of what Lightning logs, which is nothing: see TaggingModule.log_row
        use_distributed_sampler=False,  # the data module's samplers know the processes
        num_sanity_val_steps=0,
        enable_checkpointing=False,  # Checkpoints does that
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )
    trainer.accumulate_grad_batches = accumulation(
        settings["batch_size"], settings["data"]["batch_size"], trainer.world_size
    )
    return trainer


def limit_epoch(trainer: L.Trainer, batches: int, batch_size: int, per_process: int) -> int:
    """Let an epoch of `batches` end with its last full step; returns its number of steps.

    Raises ValueError if it has none.
    """
    steps = batches // (batch_size // per_process)
    if not steps:
        raise ValueError(f"the training clips are fewer than one batch of {batch_size}; lower batch_size")
    steps = limited(steps, trainer.limit_train_batches, trainer.accumulate_grad_batches)
    trainer.limit_train_batches = steps * trainer.accumulate_grad_batches
    return steps


def create_schedule(settings: dict[str, Any], steps: int) -> Schedule:
    """The learning rate's schedule for epochs of `steps` steps."""
    epochs, decay_epochs = settings["epochs"], settings["decay_epochs"]
    schedule = Schedule(epochs * steps, round(settings["warmup_epochs"] * steps), **settings["scheduler"])
    if decay_epochs is None:
        return schedule
    return replace(schedule, decay_start=max(0.0, 1 - decay_epochs / epochs))


def create_module(
    settings: dict[str, Any], model: AudioTagger, data: Any, trainer: Any, schedule: Schedule, hashes: Any
) -> TaggingModule:
    """What trains `model`, with what its checkpoints tell of the data."""
    teacher = next((callback for callback in trainer.callbacks if isinstance(callback, Teacher)), None)
    coverage = data.class_coverage()
    return TaggingModule(
        model,
        data.labels,
        settings["optimizer"],
        schedule,
        build(settings["augment"]),
        Distillation(**settings["distill"]),
        embedding_size=(teacher or data.dataset("train")).embedding_size,
        **settings["loss"],
        freeze_batch_norm=settings["freeze_batch_norm"],
        compile=settings["compile"],
        seed=settings["seed"],
        log_every_n_steps=settings["log_every_n_steps"],
        metadata={
            "experiment": settings["name"],
            "seed": settings["seed"],
            **(inherited(model.metadata) if model.labels == tuple(data.labels) else {}),
            "data": hashes,
            "clip_seconds": data.clip_seconds or data.dataset("train").samples / SAMPLE_RATE,
            "train_label_counts": sum(file.label_counts() for file in data.dataset("train").files).tolist(),
            "train_class_clips": coverage.clips.tolist(),
            "train_class_sources": coverage.sources.tolist(),
        },
    )


def fit(trainer: L.Trainer, module: TaggingModule, data: Any, checkpoint: Path | None) -> None:
    """Lightning's `fit`, whose other processes end with this one."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except BaseException:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)  # the other processes would wait for this one
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()  # Lightning leaves it to the sweep's next run, whose processes are others


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


def create_callbacks(settings: dict[str, Any], folder: Path) -> list[L.Callback]:
    """In the order they must act in: checkpoints hold what the others did before."""
    if settings["save_every_n_steps"] % settings["log_every_n_steps"]:
        raise ValueError("save_every_n_steps must be a multiple of log_every_n_steps")
    chosen: list[L.Callback] = [PositionStatistics(settings["save_every_n_steps"])]
    if settings["teacher"]:
        chosen.append(Teacher(settings["teacher"]))
    chosen += [build(callback) for callback in settings["callbacks"].values() if callback]
    return [*chosen, Checkpoints(folder, settings["save_every_n_steps"]), EpochLog(), EndOnSigterm()]


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


def inherited(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the tagger that its training began with: its name, and the classes it cannot know."""
    return {key: metadata[key] for key in ("starts_from", "masked") if key in metadata}


def is_first_process() -> bool:
    """Whether this is the process that writes, before a trainer exists to tell."""
    return getattr(rank_zero_only, "rank", 0) == 0
