"""Comparison of training runs over seeds: mean ± deviation, paired differences with intervals, tables and plots."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from audioset_dcls.evaluation.bootstrap import interval
from audioset_dcls.evaluation.runs import EVALUATIONS, Run, find_runs, read_run
from audioset_dcls.evaluation.summary import METRICS

LEVEL = 0.95
COMPARED = ("mAP", "specific_top_3")  # what differences are taken of


@dataclass(frozen=True)
class Difference:
    """Difference in a metric of two experiments over the seeds that both have.

    Attributes:
        std, seed_interval: sample standard deviation and interval over seeds; None with a single seed.
        source_interval: None without an evaluation of every run.
    """

    first: str
    second: str
    metric: str
    seeds: tuple[int, ...]
    mean: float
    std: float | None
    seed_interval: tuple[float, float] | None
    source_interval: tuple[float, float] | None


def compare(folder: Path, data: str | None = None, baselines: Sequence[str] = ()) -> tuple[Comparison, dict[Path, str]]:
    """The comparison of the runs in `folder`, and a line for each left out as unfinished, unevaluated or unreadable.

    Args:
        data: stem of the file they were evaluated on, needed only if they were evaluated on several.
        baselines: experiments that the others are compared with, see `Comparison.base`; without any, each two.

    Raises ValueError if there is nothing to compare, or the runs' numbers are of different clips.
    """
    evaluations = {path.name for run in find_runs(folder) for path in run.glob(EVALUATIONS) if path.is_dir()}
    if data is not None:
        evaluations = {f"best-on-{data}"}
    elif len(evaluations) > 1:
        raise ValueError(
            f"{folder}: runs were evaluated on several files ({', '.join(sorted(evaluations))}); add --data"
        )
    runs, left_out = [], {}
    for path in find_runs(folder):
        try:
            runs.append(read_run(path, str(path.parent.relative_to(folder)), next(iter(evaluations), None)))
        except (OSError, ValueError) as error:
            left_out[path] = f"{path}: left out: {error}"
    if not runs:
        raise ValueError(f"{folder}: no run to compare\n" + "\n".join(left_out.values()))
    tasks = {(run.task, run.clip_hash) for run in runs}
    if len(tasks) > 1:
        listed = "\n".join(
            f"  {run.experiment}/seed_{run.seed}: {run.clips} clips, hash {str(run.clip_hash)[:8]}" for run in runs
        )
        raise ValueError(f"{folder}: the runs' numbers are of different clips or labels; add --data eval.h5\n{listed}")
    comparison = Comparison(folder, runs, baselines)
    for name in baselines:
        if name not in comparison.experiments:
            raise ValueError(f"{folder}: no experiment {name!r} to compare with; there are {comparison.experiments}")
    return comparison, left_out


@dataclass(frozen=True)
class Comparison:
    """Runs of several experiments and seeds, all evaluated on the same clips.

    Attributes:
        baselines: experiments that the differences are taken from, see `base`; without any, each two are compared.
    """

    folder: Path
    runs: Sequence[Run]
    baselines: Sequence[str] = ()

    @property
    def experiments(self) -> list[str]:
        """The best mean mAP first."""
        names = dict.fromkeys(run.experiment for run in self.runs)
        return sorted(names, key=lambda name: -float(np.mean(self.values(name, "mAP"))))

    @property
    def metrics(self) -> list[str]:
        """Names of all numbers that some run has: the metrics of whole clips, of cut ones, then the others."""
        names = list(dict.fromkeys(name for run in self.runs for name in run.metrics))
        order = {name: index for index, name in enumerate(METRICS)}

        def sort_key(name: str) -> tuple[int, float, int]:
            cut = re.fullmatch(r"(\w+) ([\d.]+) s", name)
            metric = cut[1] if cut else name
            if metric not in order:
                return 2, 0, names.index(name)
            return (1, -float(cut[2]), order[metric]) if cut else (0, 0, order[metric])

        return sorted(names, key=sort_key)

    @property
    def main_metrics(self) -> list[str]:
        """Those for a table that fits a page: all metrics of whole clips, the mAP of cut ones, other numbers."""
        return [name for name in self.metrics if name.split(" ")[0] not in METRICS[1:] or name in METRICS]

    @property
    def counted(self) -> str:
        """What the numbers were taken from, in words."""
        run = self.runs[0]
        if run.clip_hash is None:
            return "best validation mAP during training (which picks the epoch by the same clips: an optimistic number)"
        return f"{run.clips:,} clips (hash {run.clip_hash[:16]})"

    def of(self, experiment: str) -> list[Run]:
        return [run for run in self.runs if run.experiment == experiment]

    def values(self, experiment: str, metric: str) -> list[float]:
        return [run.metrics[metric] for run in self.of(experiment) if metric in run.metrics]

    def base(self, experiment: str) -> str | None:
        """The baseline whose name is the longest prefix of the experiment's: x_dcls_large -> x_dcls, x_dcls -> x.

        Else the first baseline; None for a baseline that no other is a prefix of.
        """
        begun = [name for name in self.baselines if experiment.startswith(name) and name != experiment]
        return max(begun, key=len) if begun else None if experiment in self.baselines else self.baselines[0]

    def differences(self) -> list[Difference]:
        """Of each two experiments, the better one first, or of each and its `base`, in each of `COMPARED`."""
        pairs: Iterable[tuple[str, str]] = combinations(self.experiments, 2)
        if self.baselines:
            pairs = [(name, base) for name in self.experiments if (base := self.base(name)) is not None]
        found = [
            paired_difference(self.of(first), self.of(second), metric) for first, second in pairs for metric in COMPARED
        ]
        return [difference for difference in found if difference is not None]


def sample_std(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1 in the denominator); None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_difference(first: Sequence[Run], second: Sequence[Run], metric: str = "mAP") -> Difference | None:
    """Difference in a metric over the seeds for which both have it, or None if there is no such seed.

    Over seeds: Student's t with n - 1 degrees of freedom, for what other seeds would give on these clips. Over sources:
    a bootstrap that draws the same sources for both and all seeds, for what clips of other sources would give with
    these seeds.
    """
    ones, others = ({run.seed: run for run in runs if metric in run.metrics} for runs in (first, second))
    seeds = tuple(sorted(ones.keys() & others.keys()))
    if not seeds:
        return None
    values = [ones[seed].metrics[metric] - others[seed].metrics[metric] for seed in seeds]
    std = sample_std(values)
    mean = float(np.mean(values))
    seed_interval = None
    if std is not None:
        from scipy.stats import t

        half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * std / math.sqrt(len(values))
        seed_interval = (mean - half, mean + half)
    pairs = [(ones[seed].resampled.get(metric), others[seed].resampled.get(metric)) for seed in seeds]
    samples = [one - other for one, other in pairs if one is not None and other is not None and one.size == other.size]
    source_interval = interval(np.mean(samples, axis=0), mean, LEVEL) if len(samples) == len(seeds) else None
    names = first[0].experiment, second[0].experiment
    return Difference(*names, metric, seeds, mean, std, seed_interval, source_interval)
