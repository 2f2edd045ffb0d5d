"""Comparison of training runs over seeds: mean ± deviation, paired differences with intervals, tables and plots."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audioset_dcls.evaluation.metrics import interval
from audioset_dcls.evaluation.report import NAMES, csv_text, shown, unitless, write_file
from audioset_dcls.evaluation.runs import EVALUATIONS, Run, find_runs, read_run
from audioset_dcls.evaluation.summary import METRICS
from preprocessing.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

LEVEL = 0.95
COMPARED = ("mAP", "specific_top_3")  # what differences are taken of


@dataclass(frozen=True)
class Difference:
    """Difference in a metric of two experiments over the seeds that both have.

    deviation, seed_interval: None with a single seed. source_interval: None without an evaluation of every run.
    """

    first: str
    second: str
    metric: str
    seeds: tuple[int, ...]
    mean: float
    deviation: float | None
    seed_interval: tuple[float, float] | None
    source_interval: tuple[float, float] | None


def compare(folder: Path, data: str | None = None, against: Sequence[str] = ()) -> tuple[Comparison, list[str]]:
    """The comparison of the runs in `folder`, and a line for each left out as unfinished, unevaluated or unreadable.

    data: stem of the file they were evaluated on, needed only where they were evaluated on several.
    against: experiments that the others are compared with, see `Comparison.base`; none: each two.

    Raises ValueError where there is nothing to compare, or the runs' numbers are of different clips.
    """
    evaluations = {path.name for run in find_runs(folder) for path in run.glob(EVALUATIONS) if path.is_dir()}
    if data is not None:
        evaluations = {f"best-on-{data}"}
    elif len(evaluations) > 1:
        raise ValueError(
            f"{folder}: runs were evaluated on several files ({', '.join(sorted(evaluations))}); add --data"
        )
    runs, left_out = [], []
    for path in find_runs(folder):
        try:
            runs.append(read_run(path, str(path.parent.relative_to(folder)), next(iter(evaluations), None)))
        except (OSError, ValueError) as error:
            left_out.append(f"{path}: left out: {error}")
    if not runs:
        raise ValueError(f"{folder}: no run to compare\n" + "\n".join(left_out))
    tasks = {(run.task, run.clip_hash) for run in runs}
    if len(tasks) > 1:
        listed = "\n".join(
            f"  {run.experiment}/seed_{run.seed}: {run.clips} clips, hash {str(run.clip_hash)[:8]}" for run in runs
        )
        raise ValueError(f"{folder}: the runs' numbers are of different clips or labels; add --data eval.h5\n{listed}")
    comparison = Comparison(folder, runs, against)
    for name in against:
        if name not in comparison.experiments:
            raise ValueError(f"{folder}: no experiment {name!r} to compare with; there are {comparison.experiments}")
    return comparison, left_out


@dataclass(frozen=True)
class Comparison:
    """Runs of several experiments and seeds, all evaluated on the same clips.

    against: experiments that the others' differences are taken from, see `base`; none: each two.
    """

    folder: Path
    runs: Sequence[Run]
    against: Sequence[str] = ()

    @property
    def experiments(self) -> list[str]:
        """The best mean mAP first."""
        names = dict.fromkeys(run.experiment for run in self.runs)
        return sorted(names, key=lambda name: -float(np.mean(self.values(name, "mAP"))))

    @property
    def metrics(self) -> list[str]:
        """Names of all numbers that some run has: the metrics of whole clips, of cut ones, then the others."""
        names = list(dict.fromkeys(name for run in self.runs for name in run.metrics))
        order = {name: place for place, name in enumerate(METRICS)}

        def place(name: str) -> tuple[int, float, int]:
            cut = re.fullmatch(r"(\w+) ([\d.]+) s", name)
            metric = cut[1] if cut else name
            if metric not in order:
                return 2, 0, names.index(name)
            return (1, -float(cut[2]), order[metric]) if cut else (0, 0, order[metric])

        return sorted(names, key=place)

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
        """The longest of `against` that the name begins with, so that x_dcls_large goes with x_dcls, that one with x.

        Else the first; None for one of `against` that begins with no other.
        """
        begun = [name for name in self.against if experiment.startswith(name) and name != experiment]
        return max(begun, key=len) if begun else None if experiment in self.against else self.against[0]

    def differences(self) -> list[Difference]:
        """Of each two experiments, the better one first, or of each and its `base`, in each of `COMPARED`."""
        pairs: Iterable[tuple[str, str]] = combinations(self.experiments, 2)
        if self.against:
            pairs = [(name, base) for name in self.experiments if (base := self.base(name)) is not None]
        found = [
            paired_difference(self.of(first), self.of(second), metric) for first, second in pairs for metric in COMPARED
        ]
        return [difference for difference in found if difference is not None]

    def write(self, folder: Path) -> None:
        """Write comparison.md, runs.csv, experiments.csv, differences.csv and the plots, each whole or not at all."""
        from audioset_dcls.evaluation import comparison_plots as plots

        folder.mkdir(parents=True, exist_ok=True)
        differences = self.differences()
        tables: dict[str, list[dict[str, Any]]] = {
            "runs": [
                {"experiment": run.experiment, "seed": run.seed}
                | {name: run.metrics.get(name) for name in self.metrics}
                | {"clips": run.clips, "clip_hash": run.clip_hash}
                for run in self.runs
            ],
            "experiments": [
                {
                    "experiment": name,
                    "metric": metric,
                    "seeds": len(values),
                    "mean": float(np.mean(values)),
                    "sample_deviation": deviation(values),
                    "clips": self.runs[0].clips,
                    "clip_hash": self.runs[0].clip_hash,
                }
                for name in self.experiments
                for metric in self.metrics
                if (values := self.values(name, metric))
            ],
            "differences": [
                {
                    "first": one.first,
                    "second": one.second,
                    "metric": one.metric,
                    "seeds": " ".join(map(str, one.seeds)),
                    "mean_difference": one.mean,
                    "sample_deviation": one.deviation,
                    "seeds_low": one.seed_interval and one.seed_interval[0],
                    "seeds_high": one.seed_interval and one.seed_interval[1],
                    "sources_low": one.source_interval and one.source_interval[0],
                    "sources_high": one.source_interval and one.source_interval[1],
                }
                for one in differences
            ],
        }
        for name, rows in tables.items():
            if rows:
                write_file(folder / f"{name}.csv", csv_text(rows))
        figures = {"experiments": plots.plot_experiments(self)}
        if differences:
            figures["differences"] = plots.plot_differences(differences)
        if any(run.curve for run in self.runs):
            figures["curves"] = plots.plot_curves(self)
        for name, figure in figures.items():
            image = io.BytesIO()
            figure.savefig(image, format="png", dpi=150)
            write_file(folder / f"{name}.png", image.getvalue())
        write_file(folder / "comparison.md", markdown(self, differences, list(figures)))


def deviation(values: Sequence[float]) -> float | None:
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
    spread = deviation(values)
    mean = float(np.mean(values))
    seed_interval = None
    if spread is not None:
        from scipy.stats import t

        half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
        seed_interval = (mean - half, mean + half)
    pairs = [(ones[seed].resampled.get(metric), others[seed].resampled.get(metric)) for seed in seeds]
    samples = [one - other for one, other in pairs if one is not None and other is not None and one.size == other.size]
    source_interval = interval(np.mean(samples, axis=0), mean, LEVEL) if len(samples) == len(seeds) else None
    names = first[0].experiment, second[0].experiment
    return Difference(*names, metric, seeds, mean, spread, seed_interval, source_interval)


def markdown(comparison: Comparison, differences: Sequence[Difference], figures: Sequence[str]) -> str:
    """The tables of a comparison for a document."""
    metrics = comparison.main_metrics
    header = ["Experiment", "Seeds", *(_title(name) for name in metrics), "Clips", "Clip hash"]
    rows = []
    for name in comparison.experiments:
        runs = comparison.of(name)
        numbers = [mean_and_deviation(metric, comparison.values(name, metric)) for metric in metrics]
        clips = [str(runs[0].clips or "n/a"), (runs[0].clip_hash or "n/a")[:8]]
        rows.append([name, " ".join(str(run.seed) for run in runs), *numbers, *clips])
    parts = [
        "# Comparison of runs",
        f"Evaluated on: {comparison.counted}.",
        "Mean ± sample standard deviation (n - 1) over seeds; AP, lwlrap and top hits in percent.",
        _markdown_table(header, rows),
    ]
    if differences:
        parts += [
            "## Paired differences",
            "In percentage points, over the seeds that both have. The interval over seeds is Student's t: what other "
            "seeds would give on these clips. The interval over sources is a paired bootstrap: what clips of other "
            "sources would give with these seeds; a clip without a known source is one of its own. Neither interval "
            "holds the other's part of the doubt.",
            _markdown_table(
                ["Difference", "Metric", "Seeds", "Mean", "95 % over seeds", "95 % over sources"],
                [
                    [
                        f"{one.first} - {one.second}",
                        unitless(one.metric),
                        str(len(one.seeds)),
                        f"{100 * one.mean:+.2f}" + ("" if one.deviation is None else f" ± {100 * one.deviation:.2f}"),
                        _bounds(one.seed_interval) or "n/a (one seed)",
                        _bounds(one.source_interval) or "n/a (not evaluated)",
                    ]
                    for one in differences
                ],
            ),
        ]
    parts += [f"![{name}]({name}.png)" for name in figures]
    return "\n\n".join(parts) + "\n"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The main tables in the terminal, with as many of the metrics as fit its width."""
    from rich.table import Table
    from rich.text import Text

    metrics = [name for name in comparison.main_metrics if name.split(" ")[0] in METRICS]
    columns = {
        "experiment": list(map(printable, comparison.experiments)),
        "seeds": [" ".join(str(run.seed) for run in comparison.of(name)) for name in comparison.experiments],
    } | {
        _title(metric): [mean_and_deviation(metric, comparison.values(name, metric)) for name in comparison.experiments]
        for metric in metrics
    }
    widths = accumulate((max(map(len, [title, *cells])) + 3 for title, cells in columns.items()), initial=1)
    fitting = sum(width <= console.width for width in widths) - 1
    table = Table(title=Text(printable(comparison.counted)), title_justify="left")
    for title in list(columns)[: max(fitting, 3)]:
        table.add_column(Text(title), no_wrap=True, overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, cells[: len(table.columns)]))
    console.print(table)
    for one in comparison.differences():
        intervals = {"seeds": _bounds(one.seed_interval), "sources": _bounds(one.source_interval)}
        bounds = "; ".join(f"{text} over {what}" for what, text in intervals.items() if text) or "no interval: one seed"
        line = f"{one.first} - {one.second}: {100 * one.mean:+.2f} {unitless(one.metric)} (95 %: {bounds})"
        console.print(printable(line), highlight=False, markup=False)


def mean_and_deviation(metric: str, values: Sequence[float]) -> str:
    """ "45.52 ± 0.05" of one metric's values over seeds; one value where all are the same; "n/a" for none."""
    if not values:
        return "n/a"
    spread = deviation(values)
    base = metric.split(" ")[0]
    if base not in METRICS:
        mean = float(np.mean(values))
        return f"{mean:,.4g}" + (f" ± {spread:.2g}" if spread else "") if abs(mean) < 1e4 else f"{mean:,.0f}"
    return shown(base, float(np.mean(values))) + ("" if spread is None else f" ± {shown(base, spread)}")


def _title(metric: str) -> str:
    base, _, length = metric.partition(" ")
    return printable(NAMES.get(base, base.replace("_", " ")) + (f", {length}" if length else ""))


def _bounds(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{100 * bounds[0]:+.2f} to {100 * bounds[1]:+.2f}"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(printable(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
