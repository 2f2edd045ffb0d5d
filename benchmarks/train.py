"""The whole training step of the paper's six cases: clips/s, and what share of the time goes where.

    python benchmarks/train.py [--cases convnext_tiny_dcls ...] [--batch 8] [--steps 3] [--seconds 10] [--threads 2]

Clips come from an HDF5 file through the data module, as in training; augmentation, log-mel, mixup, loss, optimiser are
the experiment's. On a GPU in bfloat16, once as it is and once compiled. `data` is what the step waits for the loader;
`loader` what the loader alone delivers, so that the step waits for nothing as long as it is the larger number.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.folders import data_folder
from audioset_dcls.training.module import TaggingModule
from audioset_dcls.training.optimizer import Schedule
from audioset_dcls.training.run import build
from preprocessing.augment import smooth_labels
from preprocessing.clips.layout import INT16_SCALE
from preprocessing.clips.writer import ClipWriter
from preprocessing.loading.datamodule import AudioSetDataModule

CASES = [f"{trunk}{kind}" for trunk in ("convnext_tiny", "convformer_s18", "fastvit_sa24") for kind in ("", "_dcls")]
PARTS = ("data", "log-mel", "forward", "backward", "optimizer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="timed, after one to warm up")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    machine = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {options.threads} threads"
    print(f"torch {torch.__version__}, {machine}, batch {options.batch} of {options.seconds:g} s", end=", ")
    print("bfloat16" if cuda else "float32")
    with tempfile.TemporaryDirectory() as folder:
        data = AudioSetDataModule(
            write_noise(Path(folder) / "noise.h5", options),
            batch_size=options.batch,
            num_workers=options.workers,
            clip_seconds=options.seconds,
        )
        print(f"loader {loader_rate(data, options.steps + 1):.0f} clips/s")
        print(f"{'case':>20} {'compiled':>8} {'clips/s':>8} " + " ".join(f"{part:>10}" for part in PARTS))
        for case in options.cases:
            for compiled in (False, True) if cuda else (False,):
                seconds = step_seconds(case, data, options.steps, device, compiled)
                total = sum(seconds.values())
                shares = " ".join(f"{seconds[part] / total:>10.1%}" for part in PARTS)
                print(f"{case:>20} {'yes' if compiled else 'no':>8} {options.batch / total:>8.2f} {shares}", flush=True)


def write_noise(path: Path, options: Any) -> Path:
    """Clips for all steps; what is in them costs nothing more or less."""
    rng = np.random.default_rng(0)
    samples = round(options.seconds * 32_000)
    with ClipWriter(path, samples=samples) as writer:
        for number in range(options.steps + 1):
            clips = rng.integers(-20_000, 20_000, (options.batch, samples), dtype=np.int16)
            names = [f"{number}-{clip}" for clip in range(options.batch)]
            writer.append(names, clips, rng.random((options.batch, 527)) < 0.005)
        writer.finish()
    return path


def loader_rate(data: AudioSetDataModule, batches: int) -> float:
    start = time.perf_counter()
    clips = sum(len(batch["clip"]) for batch in islice(data.train_dataloader(), batches))
    return clips / (time.perf_counter() - start)


def step_seconds(
    case: str, data: AudioSetDataModule, steps: int, device: torch.device, compiled: bool
) -> dict[str, float]:
    """Mean seconds of each part of a step."""
    with initialize_config_dir(str(data_folder("configs")), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose("train", [f"experiment={case}", f"name={case}"]), resolve=True)
    torch.manual_seed(0)
    model = build(settings["model"], num_classes=527)
    augment = build(settings["augment"])
    optimizer_settings = settings["optimizer"]
    module = TaggingModule(model, data.labels, optimizer_settings, Schedule(steps + 1), augment, compile=compiled)
    module.to(device).train()
    scheduled = module.configure_optimizers()
    optimizer, schedule = scheduled["optimizer"], scheduled["lr_scheduler"]["scheduler"]
    generator = torch.Generator().manual_seed(0)
    amp = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
    spent = dict.fromkeys(PARTS, 0.0)
    clock = 0.0

    def lap(part: str, count: bool) -> None:
        nonlocal clock
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        spent[part] += count * (now - clock)
        clock = now

    batches: Iterator[dict[str, Tensor]] = iter(data.train_dataloader())
    clock = time.perf_counter()
    for number in range(steps + 1):
        count = number > 0
        batch = {name: value.to(device, non_blocking=True) for name, value in next(batches).items()}
        lap("data", count)
        log_mel, mixture = module.augment(batch["waveform"].float() / INT16_SCALE, module.log_mel, generator)
        target = mixture(smooth_labels(batch["target"], module.augment.label_smoothing))
        lap("log-mel", count)
        with amp:
            logits = module.model(log_mel)
        loss = module.loss(logits.float(), target)
        lap("forward", count)
        loss.backward()
        lap("backward", count)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        for layer in dcls_layers(module.model):
            layer.clamp_positions()
        lap("optimizer", count)
    return {part: seconds / steps for part, seconds in spent.items()}


if __name__ == "__main__":
    main()
