"""`dcls-eval`: score a file of clips with one checkpoint, or with those of many runs, and report on the scores."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from audioset_dcls.evaluation.compare import Comparison, compare
from audioset_dcls.evaluation.compare_report import print_comparison, write_comparison
from audioset_dcls.evaluation.predictions import hash_targets
from audioset_dcls.evaluation.report import Report, print_summary
from audioset_dcls.evaluation.report_files import write_report
from audioset_dcls.evaluation.report_sounds import mistake_sounds
from audioset_dcls.evaluation.runs import CHECKPOINT, evaluation_folder, find_runs
from audioset_dcls.evaluation.summary import summarize
from audioset_dcls.inference.predict import Scorer, load_scorer, predict_lengths, progress
from preprocessing.clips.reader import ClipFile
from preprocessing.files import sha256_of
from preprocessing.terminal import printable, show

RECORDED_PACKAGES = ("audioset-dcls", "torch", "timm", "onnxruntime", "numpy", "h5py")


def evaluate(
    model_path: str | Path,
    data_path: Path,
    output: Path | None = None,
    train_data: Sequence[Path] = (),
    batch_size: int = 32,
    device: str | None = None,
    num_workers: int = 2,
) -> tuple[Report, Path] | None:
    """Evaluate one tagger at full length and cut to 5, 2 and 1 s; returns the report and the folder it was written to.

    Args:
        model_path: an `.onnx` tagger or whatever `load_checkpoint` takes.
        output: by default beside the model, `<model>-on-<data>`.
        train_data: HDF5 files it was trained on, to set the AP against the number of training clips; by default the
            counts are taken from the checkpoint, if it has them.

    Started by torchrun, the processes share the clips, and all but the first return None.

    Raises ValueError and OSError as `predict` does, and ValueError if no class has a positive.
    """
    with _processes():
        scorer = load_scorer(model_path, device)
        counts = train_counts(scorer, train_data)
        predictions = predict_lengths(scorer, data_path, batch_size=batch_size, num_workers=num_workers)
        if dist.is_initialized() and dist.get_rank():
            return None
    with progress("bootstrap", int(predictions.targets.any(axis=0).sum())) as advance:
        summary = summarize(predictions, advance=advance)
    about = {
        "model": str(model_path),
        "model_sha256": sha256_of(Path(model_path)) if Path(model_path).is_file() else None,
        "parameters": scorer.parameters,
        "data": str(data_path),
        "trained_on": [str(path) for path in train_data] or None,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {name: version(name) for name in RECORDED_PACKAGES},
    }
    report = Report(
        summary,
        {name: value for name, value in about.items() if value is not None},
        None if counts is None else [counts.get(label, 0) for label in predictions.labels],
        mistake_sounds(summary, ClipFile(data_path)),
    )
    folder = output or evaluation_folder(Path(model_path), data_path)
    write_report(report, folder)
    return report, folder


def evaluate_runs(
    folder: Path,
    data_path: Path | None = None,
    output: Path | None = None,
    batch_size: int = 32,
    device: str | None = None,
    num_workers: int = 2,
    baseline: Sequence[str] = (),
) -> tuple[Comparison, Path, list[str]] | None:
    """Compare the runs <experiment>/seed_<n> in `folder`; with `data_path`, evaluate their best.ckpt on it first.

    A run whose weights were evaluated on these clips already is not evaluated again: an interrupted comparison goes on
    where it stopped. Returns the comparison, the folder it was written to (by default `<folder>/comparison`) and a line
    for each run that had to be left out; None in all processes of torchrun but the first. baseline: see `compare`.

    Raises ValueError if there is nothing to compare, or runs were evaluated on different clips.
    """
    problems: dict[Path, str] = {}
    with _processes():
        if data_path is not None:
            task = _task(data_path)
            for run in find_runs(folder):
                checkpoint, written = run / CHECKPOINT, run / evaluation_folder(Path(CHECKPOINT), data_path)
                if not checkpoint.is_file() or is_evaluated(written / "metrics.json", checkpoint, task):
                    continue
                try:
                    evaluate(checkpoint, data_path, written, (), batch_size, device, num_workers)
                except (OSError, ValueError) as error:  # the other runs go on
                    problems[run] = f"{run}: left out: {error}"
        if dist.is_initialized() and dist.get_rank():
            return None
    comparison, left_out = compare(folder, None if data_path is None else data_path.stem, baseline)
    target = output or folder / "comparison"
    write_comparison(comparison, target)
    return comparison, target, [*problems.values(), *(line for run, line in left_out.items() if run not in problems)]


def command(
    checkpoint: str | None,
    data: Path | None,
    runs: Path | None,
    baseline: Sequence[str],
    train_data: Sequence[Path],
    output: Path | None,
    batch_size: int,
    workers: int,
    device: str | None,
) -> int:
    """`dcls-eval`: evaluate or compare, print what came out, and return the exit status; problems go to stderr."""
    from rich.console import Console

    console = Console()
    problems: Sequence[str] = []
    try:
        if runs is not None:
            if (compared := evaluate_runs(runs, data, output, batch_size, device, workers, baseline)) is None:
                return 0
            comparison, folder, problems = compared
            print_comparison(comparison, console)
            console.print(printable(f"tables and plots: {folder}"), highlight=False, markup=False, soft_wrap=True)
        elif checkpoint is not None and data is not None:
            evaluated = evaluate(checkpoint, data, output, train_data, batch_size, device, workers)
            if evaluated is None:
                return 0
            report, folder = evaluated
            print_summary(report, console)
            console.print(printable(f"report: {folder / 'report.html'}"), highlight=False, markup=False, soft_wrap=True)
    except (OSError, ValueError) as error:
        problems = [str(error)]
    except KeyboardInterrupt:
        show("dcls-eval: stopped; with --runs the same command goes on", sys.stderr)
        return 130
    for problem in problems:
        show(f"dcls-eval: {problem}", sys.stderr)
    return int(bool(problems))


def is_evaluated(metrics: Path, checkpoint: Path, task: str) -> bool:
    """Whether that file has the results of these weights on these clips and targets."""
    try:
        stored = json.loads(metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(stored, dict):
        return False
    return stored.get("target_hash") == task and stored.get("model_sha256") == sha256_of(checkpoint)


def train_counts(scorer: Scorer, train_data: Sequence[Path]) -> dict[str, int] | None:
    """Training clips of each label, from the files or else from what the checkpoint tells; None if neither does."""
    counts: dict[str, int] = {}
    for path in train_data:
        data = ClipFile(path)
        for label, count in zip(data.labels, data.label_counts().tolist(), strict=True):
            counts[label] = counts.get(label, 0) + count
    stored = scorer.metadata.get("train_label_counts")
    if not counts and isinstance(stored, list) and len(stored) == len(scorer.labels):
        counts = dict(zip(scorer.labels, stored, strict=True))
    return counts or None


def _task(data_path: Path) -> str:
    data = ClipFile(data_path)
    targets = data.read("target", np.arange(len(data))).astype(np.bool_)
    return hash_targets(data.audio_names(), data.labels, targets, data.sources())


@contextmanager
def _processes() -> Iterator[None]:
    """Join the processes that torchrun started, if it did; leave them afterwards."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
