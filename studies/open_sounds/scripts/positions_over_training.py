"""Draws positions_over_training.png: how far elements spread, how wide they are, how fast they move, a line a run.

python studies/open_sounds/scripts/positions_over_training.py runs/study/convnext_dcls/seed_*
"""

import csv
import sys
from pathlib import Path

from matplotlib.figure import Figure

PANELS = {
    "spread_frequency": "deviation of the positions along frequency (cells)",
    "spread_time": "deviation of the positions along time (cells)",
    "deviation": "an element's own deviation, mean (cells)",
    "speed": "mean speed (cells per 1000 steps)",
}


def main(runs: list[Path]) -> None:
    figure = Figure((9, 5.4), layout="constrained")
    for axes, (panel, title) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for run in runs:
            with (run / "csv" / "metrics.csv").open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if any(row[key] for key in row if key.endswith(panel))]
            for stage, key in enumerate(sorted(key for key in rows[0] if key.endswith(panel))):
                label = f"stage {stage + 1}" if run == runs[0] else None
                axes.plot(
                    [int(row["step"]) for row in rows],
                    [float(row[key]) for row in rows],
                    color=f"C{stage}",
                    linewidth=1,
                    label=label,
                )
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="step", ylim=(0, None))
    axes.legend()
    figure.savefig(Path(__file__).with_name("positions_over_training.png"), dpi=110)


main([Path(run) for run in sys.argv[1:]])
