"""dcls-train."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from audioset_dcls.commands.parser import USAGE, extra, stop
from audioset_dcls.folders import data_folder
from preprocessing.terminal import show


def main() -> None:
    """A training run (Hydra: `dcls-train -m seed=0,1,2 experiment=...`); exit status 1 if one failed."""
    if {"-h", "--help"} & set(sys.argv[1:]):  # Hydra's own takes a second; `--cfg job` prints what it composes
        sys.stdout.write(help_text(data_folder("configs")))
        return
    launchers = [argument for argument in sys.argv[1:] if argument.startswith("hydra/launcher=")]
    if launchers and not {"-m", "--multirun"} & set(sys.argv[1:]):
        stop("dcls-train", USAGE, f"{launchers[0]} starts jobs with -m alone: dcls-train -m {launchers[0]} ...")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints its errors itself, over many lines
    with extra("dcls-train", "train"):
        import hydra
        from hydra.errors import HydraException

    failed = []

    @hydra.main(version_base="1.3", config_path=str(data_folder("configs")), config_name="train")
    def run(config: Any) -> float:
        from audioset_dcls.training.run import launch

        try:
            return launch(config)
        except (ValueError, OSError, FloatingPointError) as error:  # the other runs of a sweep go on
            show(f"dcls-train: {error}", sys.stderr)
            failed.append(error)
            return float("nan")

    try:
        run()
    except HydraException as error:
        stop("dcls-train", USAGE, composition_error(error))
    sys.exit(bool(failed))


def composition_error(error: Exception) -> str:
    """What Hydra says of a setting that it cannot compose, in one line, without where it searched."""
    said = str(error).partition("Config search path")[0]
    cause = str(error.__cause__ or "").partition("full_key")[0]
    return " ".join(f"{said} {cause}".split())


def help_text(configs: Path) -> str:
    lines = [
        "usage: dcls-train [-m] [experiment=NAME] [GROUP=NAME] [KEY=VALUE] [--cfg job] [--hydra-help]\n",
        "-m runs every combination of the values listed: dcls-train -m seed=0,1,2 experiment=convnext_tiny_dcls",
        "A run that was stopped goes on with the same command. Exit status 1 where a run failed.\n",
    ]
    for group in sorted(path for path in configs.iterdir() if path.is_dir() and path.name != "hydra"):
        names = sorted(path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml"))
        lines.append(f"{group.name}: {', '.join(names)}")
    return "\n".join(lines) + "\n\n" + (configs / "train.yaml").read_text(encoding="utf-8")
