"""Whole models, DCLS against 7 x 7: the training step, and inference folded and unfolded.

    python benchmarks/step.py [--trunks convnext_tiny ...] [--frames 1001] [--batch 8] [--repeats 2] [--threads 2]
        [--position-std 1 2] [--profile]

A trunk is a file of configs/model, beside its `_dcls` one. Training: forward, binary cross-entropy, backward and AdamW
on (batch, 1, 128, frames) float32. Inference: one clip; FastViT has its branches merged on both sides; `dcls` is the
same DCLS model with the reference's layers (dcls 0.1.1), which build their kernels in every forward pass, its output
compared with ours. Folded kernels are cropped, as by default; how far depends on where training leaves the elements:
--position-std draws them anew from N(0, std) cells (in the study's trained models: 0.5 to 1.1; up to 2.1 if they start
at 2). Every model is given the better of its two memory formats. The two sides take turns, and times are the fastest of
`--repeats` runs after one to warm up (at least five for inference; `dcls`: one run, without warm-up). --profile prints
where the DCLS step's time goes.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from audioset_dcls.dcls import Dcls2d, Folded, dcls_layers, fold
from audioset_dcls.folders import data_folder
from audioset_dcls.models import AudioTagger, create_model, reparameterize

TRUNKS = ("convnext_tiny", "convformer_s18", "fastvit_sa24")
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}

STUDY = Path(__file__).parents[1] / "studies" / "open_sounds" / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunks", nargs="+", default=TRUNKS)
    parser.add_argument("--frames", type=int, default=1001)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--position-std", nargs="+", type=float, default=[1.0, 2.0], metavar="STD")
    parser.add_argument("--parts", nargs="+", choices=("training", "inference"), default=("training", "inference"))
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"python {' '.join(sys.argv)}")
    print(f"{processor()}, {options.threads} threads, torch {torch.__version__}, float32; seconds\n")
    if "training" in options.parts:
        print(f"training step, batch {options.batch}       7 x 7                 DCLS                  ratio")
        for trunk in options.trunks:
            training(trunk, options.frames, options.batch, options.repeats, options.profile)
    if "inference" in options.parts:
        print("\ninference, batch 1            7 x 7                 DCLS folded           ratio", end="")
        print("     dcls    ratio   difference   kernels")
        for trunk in options.trunks:
            for std in options.position_std:
                inference(trunk, std, options.frames, options.repeats)


def create(trunk: str, dcls: bool) -> AudioTagger:
    paths = [configs / f"model/{trunk}.yaml" for configs in (data_folder("configs"), STUDY)]
    settings: Any = OmegaConf.to_container(OmegaConf.load(next(path for path in paths if path.is_file())))
    del settings["_target_"], settings["drop_path_rate"]
    return create_model(**settings | {"dcls": dcls})


def training(trunk: str, frames: int, batch: int, repeats: int, profile: bool) -> None:
    log_mel, target = torch.randn(batch, 1, 128, frames), torch.rand(batch, 527).round()
    steps = {}
    for dcls in (False, True):
        for name, memory_format in FORMATS.items():
            torch.manual_seed(0)
            model = create(trunk, dcls).to(memory_format=memory_format).train()
            steps[dcls, name] = training_step(model, log_mel, target)
    times = fastest(steps, repeats)
    plain, ours = best(times, False), best(times, True)
    print(
        f"{trunk:<29} {plain[0]:7.3f} {plain[1]:<13} {ours[0]:7.3f} {ours[1]:<13} {ours[0] / plain[0]:5.2f}", flush=True
    )
    if profile:
        with torch.profiler.profile() as profiler:
            steps[True, ours[1]]()
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=50))


def training_step(model: AudioTagger, log_mel: Tensor, target: Tensor) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(log_mel), target).backward()
        optimizer.step()

    return step


def inference(trunk: str, std: float, frames: int, repeats: int) -> None:
    torch.manual_seed(0)
    log_mel = torch.randn(1, 1, 128, frames)
    plain, ours = create(trunk, False).eval(), create(trunk, True).eval()
    for layer in dcls_layers(ours):
        nn.init.normal_(layer.positions, 0, std)
        layer.clamp_positions()
    reference = with_reference_layers(ours)
    layers: list[Folded] = []
    reparameterize(plain), reparameterize(fold(ours, report=layers.append))
    sizes = sorted({layer.cropped_size for layer in layers})
    runs = {}
    for dcls, model in ((False, plain), (True, ours)):
        for name, memory_format in FORMATS.items():
            twin = copy.deepcopy(model).to(memory_format=memory_format)
            runs[dcls, name] = lambda twin=twin: twin(log_mel)
    with torch.inference_mode():
        times = fastest(runs, max(repeats, 5))
        start = time.perf_counter()
        expected = reference(log_mel)
        slow = time.perf_counter() - start
        difference = float((ours(log_mel) - expected).abs().max() / expected.abs().max())
    (a, a_format), (b, b_format) = best(times, False), best(times, True)
    print(f"{trunk + f', std {std:g}':<29} {a:7.4f} {a_format:<13} {b:7.4f} {b_format:<13} {b / a:5.2f}", end="")
    cropped = " to ".join(" x ".join(map(str, size)) for size in (sizes[0], sizes[-1]))
    print(f"  {slow:7.2f} {slow / b:8.1f}   {difference:.0e}   {cropped}", flush=True)


def with_reference_layers(model: AudioTagger) -> AudioTagger:
    """A copy whose DCLS layers are those of `dcls`, with the same elements."""
    logging.disable(logging.WARNING)  # what `dcls` says about CUDA when imported
    from DCLS.construct.modules import Dcls2d as ReferenceDcls2d

    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Dcls2d):
            twin = ReferenceDcls2d(
                layer.in_channels,
                layer.out_channels,
                kernel_count=layer.kernel_count,
                dilated_kernel_size=layer.dilated_kernel_size,
                padding=layer.padding,
                groups=layer.groups,
                bias=layer.bias is not None,
                version="gauss",
            )
            assert layer.deviations is not None
            twin.weight, twin.bias = layer.weight, layer.bias
            # its row 0 moves along the last axis
            twin.P, twin.SIG = nn.Parameter(layer.positions.flip(0)), nn.Parameter(layer.deviations.flip(0))
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, twin)
    return model


def fastest(runs: dict[tuple[bool, str], Callable[[], object]], repeats: int) -> dict[tuple[bool, str], float]:
    """Seconds of each, taking turns so that a slower minute of the machine meets all alike."""
    for run in runs.values():
        run()
    times: dict[tuple[bool, str], list[float]] = {key: [] for key in runs}
    for _ in range(repeats):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            times[key].append(time.perf_counter() - start)
    return {key: min(values) for key, values in times.items()}


def best(times: dict[tuple[bool, str], float], dcls: bool) -> tuple[float, str]:
    return min((seconds, memory_format) for (side, memory_format), seconds in times.items() if side == dcls)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(": ")[1] for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    )
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
