"""Every candidate for the depthwise convolution on a GPU, and the whole training step of the six cases.

    python benchmarks/gpu.py [--parts check operators kernel step] [--minutes 30] [--output FOLDER] [--tiny]

check: every candidate against float64 on the card, each shape and dtype in a process of its own: they compile Triton's
kernels at the same time, and the later parts find what they compiled. operators: forward and backward for each shape,
batch and dtype, beside torch's own at 7 x 7 and the floor, the larger of bytes over the bandwidth and multiply-adds
over the rate, both measured first. kernel: 26 Gauss elements to the dense kernel, and a whole layer. step: clips/s,
peak memory and DCLS over 7 x 7 of the experiments' own step (log-mel, augmentation, mixup, forward, backward,
optimiser, clamp) in bfloat16: as it is, channels-last, as a CUDA graph, compiled; DCLS with the operators chosen by
timing; and DCLS' folded inference from the waveform. One that fails is reported, and the rest goes on. `--minutes`
leaves out what does not fit.

FOLDER ($OUT, or build/gpu) gets gpu.md, the tables, and check.csv, operators.csv, kernel.csv, step.csv. --tiny
rehearses it all but compilation on the CPU in some minutes, with TRITON_INTERPRET=1 Triton's kernels too; its times
mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from audioset_dcls.dcls import Dcls2d, construct_kernel, dcls_layers, set_benchmark
from audioset_dcls.dcls.candidates import Candidate, candidates, has_triton
from audioset_dcls.dcls.depthwise import crop_to_reach
from audioset_dcls.dcls.spectral import Axis
from audioset_dcls.folders import data_folder
from audioset_dcls.models.waveform import WaveformTagger
from audioset_dcls.training.module import TaggingModule
from audioset_dcls.training.optimizer import Schedule
from audioset_dcls.training.run import build
from preprocessing.augment import smooth_labels
from preprocessing.clips.layout import INT16_SCALE

ROOT = Path(__file__).parents[1]
SHAPES = [(96, 64, 62), (192, 32, 31), (384, 16, 15), (768, 8, 7)]
TINY = [(2, 9, 8), (3, 5, 4)]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
CASES = ("convnext_tiny", "convformer_s18", "fastvit_sa24")
VARIANTS = ("as it is", "channels-last", "CUDA graph", "compiled")
PARTS = ("check", "operators", "kernel", "step")
# of the largest value: 8 bits of an output; TF32's 10 bits of a factor; bf16x3
ERRORS = {"bfloat16": 1e-2, "float32": 3e-3}


class Clock:
    """What is left of the time, and a device's own time for a run."""

    def __init__(self, device: torch.device, minutes: float, repeats: int) -> None:
        self.device, self.end, self.repeats = device, time.monotonic() + 60 * minutes, repeats

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.end

    def milliseconds(self, run: Callable[[], object]) -> float:
        """The median of some runs, after two that warm up."""
        for _ in range(2):
            run()
        times = []
        for _ in range(self.repeats):
            if self.device.type == "cuda":
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                run()
                stop.record()
                stop.synchronize()
                times.append(start.elapsed_time(stop))
            else:
                began = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - began))
        return sorted(times)[len(times) // 2]

    def megabytes(self, run: Callable[[], object]) -> float:
        """The peak above what was there before."""
        if self.device.type != "cuda":
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6


class Table:
    """Rows that are printed, and written at once: a run that is stopped leaves what it has."""

    def __init__(self, folder: Path, name: str, title: str, columns: Sequence[str]) -> None:
        self.path, self.title, self.columns, self.rows = folder / f"{name}.csv", title, columns, list[list[str]]()
        print(f"\n{title}\n" + "  ".join(columns), flush=True)

    def add(self, *values: object) -> None:
        row = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        self.rows.append(row)
        print("  ".join(row), flush=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.columns, *self.rows])

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return f"## {self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> int:
    options = parse()
    folder = Path(options.output or os.environ.get("OUT") or ROOT / "build" / "gpu")
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        print("no GPU is to be had; --tiny rehearses this on the CPU", file=sys.stderr)
        return 1
    torch.set_float32_matmul_precision("high")
    if options.only:
        return check_one(options, device)
    clock = Clock(device, options.minutes, 3 if options.tiny else 10)
    heading = (
        f"# {torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU (a rehearsal)'}, torch {torch.__version__}"
    )
    print(heading)
    tables: list[Table] = []
    parts: dict[str, Callable[[], int | None]] = {
        "check": lambda: check(options, folder, tables),
        "operators": lambda: operators(options, clock, folder, tables),
        "kernel": lambda: kernels(options, clock, folder, tables),
        "step": lambda: steps(options, clock, folder, tables),
    }
    wrong = 0
    for part in options.parts:
        wrong += parts[part]() or 0
        (folder / "gpu.md").write_text("\n".join([heading + "\n", *(table.markdown() for table in tables)]))
    return int(wrong > 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--output", help="(default: $OUT, or build/gpu)")
    parser.add_argument("--tiny", action="store_true", help="sizes for a rehearsal on the CPU")
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--kernel", type=int)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)  # a shape's number and a dtype, to check
    options = parser.parse_args()
    options.shapes = TINY if options.tiny else SHAPES
    options.batches = options.batches or ([2] if options.tiny else [64, 256])
    options.kernel = options.kernel or (5 if options.tiny else 23)
    return options


def problem(shape: tuple[int, int, int], batch: int, dtype: torch.dtype, kernel: int, device: torch.device) -> Any:
    """Input, cropped float32 kernel, its padding, and the gradient of the output."""
    torch.manual_seed(0)
    channels, height, width = shape
    x = torch.randn(batch, channels, height, width, device=device).to(dtype)
    whole = torch.randn(channels, 1, kernel, kernel, device=device).to(dtype).float()
    weight, padding = crop_to_reach(whole, (kernel // 2, kernel // 2), (height, width))
    return x, weight.contiguous(), padding, torch.randn_like(x)


# ---- are they right?


def check(options: argparse.Namespace, folder: Path, tables: list[Table]) -> int:
    """A process for each shape and dtype; returns how many candidates are wrong."""
    columns = ("shape", "dtype", "candidate", "output", "input gradient", "weight gradient", "verdict")
    tables.append(table := Table(folder, "check", "Largest errors against float64, of the largest value", columns))
    command = [sys.executable, __file__, "--output", str(folder), *(["--tiny"] if options.tiny else [])]
    cases = [[str(number), dtype] for number in range(len(options.shapes)) for dtype in DTYPES]

    def started(case: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, "--only", *case], stdout=subprocess.PIPE, text=True)

    wrong = 0
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        for done in pool.map(started, cases):
            for line in done.stdout.splitlines():
                if line.startswith("("):
                    table.add(*line.split("\t"))
            wrong += done.returncode != 0
    return wrong


def check_one(options: argparse.Namespace, device: torch.device) -> int:
    """Prints a line for each candidate; 1 if one is wrong."""
    shape, dtype = options.shapes[int(options.only[0])], options.only[1]
    x, weight, padding, grad = problem(shape, 2, DTYPES[dtype], options.kernel, device)
    exact = [tensor.double().requires_grad_() for tensor in (x, weight)]
    y = F.conv2d(*exact, padding=padding, groups=shape[0])
    expected = (y.detach(), *torch.autograd.grad(y, exact, grad.double()))
    wrong = 0
    for candidate in candidates(x, weight):
        try:
            actual = (candidate.forward(x, weight, padding), *candidate.backward(grad, x, weight, padding))
            errors = [
                float((a.double() - e).abs().max() / e.abs().max()) for a, e in zip(actual, expected, strict=True)
            ]
            verdict = "right" if max(errors) < ERRORS[dtype] else "WRONG"
        except Exception as error:  # a candidate that a card cannot run is none there
            errors, verdict = [float("nan")] * 3, f"fails: {type(error).__name__}: {str(error).splitlines()[0][:80]}"
        wrong += verdict == "WRONG"
        print(shape, dtype, candidate.name, *(f"{error:.1e}" for error in errors), verdict, sep="\t", flush=True)
    return int(wrong > 0)


# ---- operators


def operators(options: argparse.Namespace, clock: Clock, folder: Path, tables: list[Table]) -> None:
    bandwidth, rates = speed(clock, options.tiny)
    columns = ("batch", "shape", "dtype", "candidate", "forward ms", "torch /", "backward ms", "torch /")
    columns += ("forward floor ms", "backward floor ms", "forward MB", "backward MB")
    title = f"{options.kernel} x {options.kernel} depthwise; {bandwidth:.0f} GB/s, " + ", ".join(
        f"{rate:.1f} TFLOP/s in {name}" for name, rate in rates.items()
    )
    tables.append(table := Table(folder, "operators", title, columns))
    for batch in options.batches:
        for dtype in DTYPES:
            for shape in options.shapes:
                if clock.is_over:
                    print(f"left out: batch {batch}, {dtype}, {shape}", flush=True)
                    continue
                one_shape(options, clock, table, batch, dtype, shape, bandwidth, rates[dtype])


def one_shape(
    options: argparse.Namespace,
    clock: Clock,
    table: Table,
    batch: int,
    dtype: str,
    shape: tuple[int, int, int],
    bandwidth: float,
    rate: float,
) -> None:
    x, weight, padding, grad = problem(shape, batch, DTYPES[dtype], options.kernel, clock.device)
    taps = 1
    for n, k, p in zip(x.shape[2:], weight.shape[2:], padding, strict=True):
        taps *= Axis(n, k, p).taps
    operations = 2 * taps * batch * shape[0]
    transfer = x.numel() * x.element_size() / (1e6 * bandwidth)  # ms
    floors = max(2 * transfer, operations / (1e9 * rate)), max(3 * transfer, 2 * operations / (1e9 * rate))
    small = problem(shape, batch, DTYPES[dtype], 7, clock.device)
    timed = [("torch 7 x 7", candidates(small[0], small[1])[0], small)]
    timed += [(candidate.name, candidate, (x, weight, padding, grad)) for candidate in candidates(x, weight)]
    reference: tuple[float, float] | None = None
    for name, candidate, tensors in timed:
        forward, backward = runs(candidate, *tensors)
        try:
            times = clock.milliseconds(forward), clock.milliseconds(backward)
            memory = clock.megabytes(forward), clock.megabytes(backward)
        except Exception as error:  # e.g. too little memory
            table.add(
                batch, shape, dtype, name, *["-"] * 7, f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
            )
            continue
        reference = times if name == "torch" else reference
        ratios = [r / t for r, t in zip(reference, times, strict=True)] if reference else ["-", "-"]
        table.add(
            batch, shape, dtype, name, times[0], ratios[0], times[1], ratios[1], *floors, memory[0], memory[1]
        )  # fmt: skip


def runs(
    candidate: Candidate, x: Tensor, weight: Tensor, padding: tuple[int, int], grad: Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    return (
        lambda: candidate.forward(x, weight, padding),
        lambda: candidate.backward(grad, x, weight, padding),
    )


def speed(clock: Clock, tiny: bool) -> tuple[float, dict[str, float]]:
    """GB/s of a copy, TFLOP/s of a matrix product in each dtype (float32: TF32)."""
    source = torch.zeros(1 << (20 if tiny else 29), device=clock.device)
    target = torch.empty_like(source)
    bandwidth = 2 * 4 * source.numel() / (1e6 * clock.milliseconds(lambda: target.copy_(source)))
    side = 128 if tiny else 8192
    rates = {}
    for name, dtype in DTYPES.items():
        a = torch.randn(side, side, device=clock.device).to(dtype)
        rates[name] = 2 * side**3 / (1e9 * clock.milliseconds(lambda a=a: a @ a))  # type: ignore[misc]
    return bandwidth, rates


# ---- kernels and layers


def kernels(options: argparse.Namespace, clock: Clock, folder: Path, tables: list[Table]) -> None:
    columns = ("channels", "what", "by torch ms", "in Triton ms", "ratio")
    tables.append(table := Table(folder, "kernel", "26 Gauss elements, forward and backward", columns))
    if not has_triton(clock.device):
        print("no Triton here; with TRITON_INTERPRET=1 its interpreter runs the kernels")
        return
    from audioset_dcls.dcls.triton_kernel import construct_gauss, gauss_depthwise_conv2d

    size, count = (options.kernel, options.kernel), 3 if options.tiny else 26
    pad = (options.kernel // 2, options.kernel // 2)
    for channels, height, width in options.shapes:
        layer = Dcls2d(
            channels, channels, count, dilated_kernel_size=size, padding=options.kernel // 2, groups=channels
        ).to(clock.device)
        elements: Any = (layer.weight, layer.positions, layer.deviations)
        x = torch.randn(options.batches[0], channels, height, width, device=clock.device)
        x = x.to(torch.bfloat16).requires_grad_()

        def both(run: Callable[[], Tensor], layer: Dcls2d = layer, x: Tensor = x) -> Callable[[], object]:
            def step() -> None:
                output = run()
                output.backward(torch.ones_like(output))
                layer.zero_grad()
                x.grad = None

            return step

        compared: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
            "kernel": (
                lambda elements=elements: construct_kernel(*elements, size),
                lambda elements=elements: construct_gauss(*elements, *size),
            ),
            "layer, bfloat16": (
                lambda layer=layer, x=x: layer(x),
                lambda elements=elements, x=x: gauss_depthwise_conv2d(x, *elements, size, pad),
            ),
        }
        for what, pair in compared.items():
            times = [attempt(lambda run=run: clock.milliseconds(both(run))) for run in pair]  # type: ignore[misc]
            ratio = times[0] / times[1] if all(isinstance(value, float) for value in times) else "-"
            table.add(channels, what, *times, ratio)


def attempt(measure: Callable[[], Any]) -> Any:
    """What is measured, or why it cannot be."""
    try:
        return measure()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"


# ---- whole steps


def steps(options: argparse.Namespace, clock: Clock, folder: Path, tables: list[Table]) -> None:
    columns = ("case", "batch", "variant", "7 x 7 clips/s", "DCLS clips/s", "DCLS / 7 x 7", "7 x 7 MB", "DCLS MB")
    columns += ("DCLS folded, inference clips/s",)
    title = "The whole training step in bfloat16, 10 s clips" + (" (tiny)" if options.tiny else "")
    tables.append(table := Table(folder, "step", title, columns))
    batch = options.batches[0]
    for variant in VARIANTS[:3] if options.tiny else VARIANTS:
        for case in CASES[:1] if options.tiny else CASES:
            if clock.is_over:
                print(f"left out: {case}, {variant}", flush=True)
                continue
            sides = []
            for name in (case, f"{case}_dcls"):
                sides.append(attempt(partial(step_speed, name, batch, variant, clock, options.tiny)))
            if all(isinstance(side, tuple) for side in sides):
                (plain, plain_memory, _), (dcls, dcls_memory, inference) = sides
                table.add(case, batch, variant, plain, dcls, plain / dcls, plain_memory, dcls_memory, inference)
            else:
                reasons = [side if isinstance(side, str) else f"{side[0]:.1f}" for side in sides]
                table.add(case, batch, variant, *reasons, *["-"] * 4)


def step_speed(case: str, batch: int, variant: str, clock: Clock, tiny: bool) -> tuple[float, float, float]:
    """Clips/s of training, MB at its peak, clips/s of inference."""
    set_benchmark(True)
    module = create_module(case, variant, tiny).to(clock.device).train()
    if variant == "channels-last":
        module.model.to(memory_format=torch.channels_last)
    optimizer = module.configure_optimizers()["optimizer"]
    generator = torch.Generator().manual_seed(0)
    samples = 32_000 if tiny else 320_000
    waveform = torch.randint(-20_000, 20_000, (batch, samples), dtype=torch.int16, device=clock.device)
    target = torch.rand(batch, len(module.labels), device=clock.device) < 0.005
    amp = autocast(clock.device, cache=variant != "CUDA graph")
    network: Any = module.model
    if variant == "CUDA graph":
        if clock.device.type != "cuda":
            raise RuntimeError("CUDA graphs need a GPU")
        example, _ = module.augment(waveform.float() / INT16_SCALE, module.log_mel, generator)
        with amp:
            network = torch.cuda.make_graphed_callables(module.model, (example,))

    def step() -> None:
        log_mel, mixture = module.augment(waveform.float() / INT16_SCALE, module.log_mel, generator)
        mixed = mixture(smooth_labels(target, module.augment.label_smoothing))
        with amp:
            logits = network(log_mel)
        module.loss(logits.float(), mixed).backward()
        optimizer.step()
        optimizer.zero_grad()
        for layer in dcls_layers(module.model):
            layer.clamp_positions()

    training = 1e3 * batch / clock.milliseconds(step)
    memory = clock.megabytes(step)
    if variant == "CUDA graph":
        return training, memory, 0.0  # it was recorded for training
    tagger = WaveformTagger(module.model.eval()).to(clock.device)

    @torch.inference_mode()
    def score() -> None:
        with amp:
            tagger(waveform)

    return training, memory, 1e3 * batch / clock.milliseconds(score)


def create_module(case: str, variant: str, tiny: bool) -> TaggingModule:
    with initialize_config_dir(str(data_folder("configs")), version_base="1.3"):
        overrides = [f"experiment={case}", f"name={case}", *(["model=convnext_atto"] if tiny else [])]
        if tiny:
            overrides += [
                "+model={depths:[1,1,1,1],dims:[16,32,64,128]}",
                f"model.dcls={str(case.endswith('dcls')).lower()}",
            ]
            overrides += ["++model.dilated_kernel_size=5", "++model.kernel_count=3"]
        settings: Any = OmegaConf.to_container(compose("train", overrides), resolve=True)
    torch.manual_seed(0)
    model = build(settings["model"], num_classes=527)
    compiled = variant == "compiled"
    labels = [str(index) for index in range(527)]
    return TaggingModule(
        model, labels, settings["optimizer"], Schedule(1000), build(settings["augment"]), compile=compiled
    )


def autocast(device: torch.device, cache: bool) -> Any:
    return torch.autocast("cuda", torch.bfloat16, cache_enabled=cache) if device.type == "cuda" else nullcontext()


if __name__ == "__main__":
    sys.exit(main())
