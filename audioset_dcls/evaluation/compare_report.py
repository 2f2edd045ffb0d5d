"""A comparison of runs as Markdown, CSV, pictures, and on the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audioset_dcls.evaluation.compare import Comparison, Difference, sample_std
from audioset_dcls.evaluation.compare_plots import plot_curves, plot_differences, plot_experiments
from audioset_dcls.evaluation.report import NAMES, csv_text, shown, unitless, write_file
from audioset_dcls.evaluation.summary import METRICS
from preprocessing.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write comparison.md, runs.csv, experiments.csv, differences.csv and the plots, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    differences = comparison.differences()
    tables: dict[str, list[dict[str, Any]]] = {
        "runs": [
            {"experiment": run.experiment, "seed": run.seed}
            | {name: run.metrics.get(name) for name in comparison.metrics}
            | {"clips": run.clips, "clip_hash": run.clip_hash}
            for run in comparison.runs
        ],
        "experiments": [
            {
                "experiment": name,
                "metric": metric,
                "seeds": len(values),
                "mean": float(np.mean(values)),
                "sample_std": sample_std(values),
                "clips": comparison.runs[0].clips,
                "clip_hash": comparison.runs[0].clip_hash,
            }
            for name in comparison.experiments
            for metric in comparison.metrics
            if (values := comparison.values(name, metric))
        ],
        "differences": [
            {
                "first": one.first,
                "second": one.second,
                "metric": one.metric,
                "seeds": " ".join(map(str, one.seeds)),
                "mean_difference": one.mean,
                "sample_std": one.std,
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
    figures = {"experiments": plot_experiments(comparison)}
    if differences:
        figures["differences"] = plot_differences(differences)
    if any(run.curve for run in comparison.runs):
        figures["curves"] = plot_curves(comparison)
    for name, figure in figures.items():
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=150)
        write_file(folder / f"{name}.png", image.getvalue())
    write_file(folder / "comparison.md", markdown(comparison, differences, list(figures)))


def markdown(comparison: Comparison, differences: Sequence[Difference], figures: Sequence[str]) -> str:
    """The tables of a comparison for a document."""
    metrics = comparison.main_metrics
    header = ["Experiment", "Seeds", *(_title(name) for name in metrics), "Clips", "Clip hash"]
    rows = []
    for name in comparison.experiments:
        runs = comparison.of(name)
        numbers = [mean_and_std(metric, comparison.values(name, metric)) for metric in metrics]
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
                        f"{100 * one.mean:+.2f}" + ("" if one.std is None else f" ± {100 * one.std:.2f}"),
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
        _title(metric): [mean_and_std(metric, comparison.values(name, metric)) for name in comparison.experiments]
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


def mean_and_std(metric: str, values: Sequence[float]) -> str:
    """ "45.52 ± 0.05" of one metric's values over seeds; one value if all are the same; "n/a" for none."""
    if not values:
        return "n/a"
    std = sample_std(values)
    base = metric.split(" ")[0]
    if base not in METRICS:
        mean = float(np.mean(values))
        return f"{mean:,.4g}" + (f" ± {std:.2g}" if std else "") if abs(mean) < 1e4 else f"{mean:,.0f}"
    return shown(base, float(np.mean(values))) + ("" if std is None else f" ± {shown(base, std)}")


def _title(metric: str) -> str:
    base, _, length = metric.partition(" ")
    return printable(NAMES.get(base, base.replace("_", " ")) + (f", {length}" if length else ""))


def _bounds(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{100 * bounds[0]:+.2f} to {100 * bounds[1]:+.2f}"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(printable(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
