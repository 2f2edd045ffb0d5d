"""dcls-train: a wrong setting is one line that names it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from audioset_dcls.commands.train import help_text
from audioset_dcls.folders import data_folder
from tests.conftest import environment

COMMAND = [sys.executable, "-c", "from audioset_dcls.commands.train import main; main()"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["experiment=nope"], 2, "Could not find 'experiment/nope' Available options in 'experiment': convformer_s18"),
        (["experiment=quick", "loss.repulsiom=1"], 2, "Could not override 'loss.repulsiom'"),
        (["-m", "hydra/launcher=nope"], 2, "Could not find 'hydra/launcher/nope'"),
        (["experiment=quick", "hydra/launcher=slurm"], 2, "starts jobs with -m alone: dcls-train -m hydra/launcher=sl"),
        (["experiment=quick", "seed=abc"], 1, "seed=abc: must be a whole number"),
        (["experiment=quick"], 1, "quick.h5: no such file; make it with dcls-prepare, set DCLS_DATA to the folder"),
    ],
)
def test_wrong_settings_are_one_line(arguments: list[str], status: int, said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("dcls-train: ")
    assert said in line
    assert done.returncode == status


def test_help_names_every_choice_and_setting() -> None:
    """Own classes first; each config file with its first sentence, each setting of the paper's recipe."""
    text = help_text(data_folder("configs"))
    assert text.index("dcls-train experiment=finetune") < text.index("experiment=convnext_tiny")
    choices = text.partition("KEY=VALUE:")[0]
    for path in data_folder("configs").glob("*/*.yaml"):
        lines = [line for line in choices.splitlines() if line.startswith(f"  {path.stem} ")]
        assert lines, path
        assert all(line.removeprefix(f"  {path.stem}").strip() for line in lines)
    assert all(len(line) <= 100 for line in choices.splitlines())
    for setting in ("temperature: 1.0", "position_std: 0.5", "speed_rates: [0.5, 1.5]", "accelerator: auto"):
        assert f"    {setting}" in text
    assert "_target_" not in text
