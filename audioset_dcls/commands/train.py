"""dcls-train."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from audioset_dcls.commands.parser import USAGE, extra, stop
from audioset_dcls.folders import data_folder
from preprocessing.terminal import show

HELP = """usage: dcls-train [-m] [experiment=NAME] [GROUP=NAME] [KEY=VALUE] [--cfg job] [--hydra-help]

Own classes, from a folder of recordings for each (docs/training.md):
  dcls-prepare folder sounds/train -o data/train.h5
  dcls-prepare folder sounds/val --labels-from data/train.h5 -o data/val.h5
  dcls-train experiment=finetune

Several runs: -m runs every combination of the values that are listed.
  dcls-train -m seed=0,1,2 experiment=convnext_tiny,convnext_tiny_dcls
  dcls-train -m hydra/launcher=slurm trainer=slurm seed=0,1,2 experiment=convnext_tiny_dcls

A run that was stopped goes on with the same command. Exit status 1 if a run failed.
"""


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
        try:
            check(config)
            from audioset_dcls.training.run import launch  # only now: it imports torch

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


def check(config: Any) -> None:
    """Raises ValueError for settings that need no torch to be told wrong; Hydra's folder for the run is taken away."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from audioset_dcls.training.resume import open_run_dir
    from audioset_dcls.training.settings import check_config

    try:
        settings: Any = OmegaConf.to_container(config, resolve=True)
        check_config(settings)
    except ValueError:
        with open_run_dir(Path(HydraConfig.get().runtime.output_dir)):
            raise


def composition_error(error: Exception) -> str:
    """What Hydra says of a setting that it cannot compose, in one line, without where it searched."""
    said = str(error).partition("Config search path")[0]
    cause = str(error.__cause__ or "").partition("full_key")[0]
    return " ".join(f"{said} {cause}".split())


def help_text(configs: Path) -> str:
    """What can be chosen and set, from the config files: own classes first, then by group."""
    parts = [*HELP.splitlines(), ""]
    default_names = _default_names(configs)
    for group in ("experiment", *default_names):
        parts.append(f"{group}=NAME" + (f" (default: {default_names[group]})" if group in default_names else ""))
        parts += [
            f"  {path.stem:<22}{_first_sentence(path)}"
            for path in sorted((configs / group).glob("*.yaml"), key=lambda path: (path.stem != "finetune", path.stem))
        ]
        parts.append("")
    parts.append("KEY=VALUE: the paper's recipe, which an experiment changes; of other choices see --cfg job")
    parts += ["  " + line for line in _settings(configs / "train.yaml")]
    for group, name in default_names.items():
        if settings := _settings(configs / group / f"{name}.yaml"):
            parts += [f"  {group}:", *("    " + line for line in settings)]
    return "\n".join(line.rstrip() for line in parts) + "\n"


def _default_names(configs: Path) -> dict[str, str]:
    """By group, the file that is taken if none is named."""
    lines = (configs / "train.yaml").read_text(encoding="utf-8").partition("defaults:\n")[2].partition("\n\n")[0]
    pairs = (line.strip(" -").split(": ") for line in lines.splitlines() if ": " in line)
    return {group: name for group, name in pairs if group != "experiment"}


def _first_sentence(path: Path) -> str:
    comments = (line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    first = next(line for line in comments if not line.startswith("# @package")).removeprefix("# ")
    return first.split(". ")[0].removesuffix(".")


def _settings(path: Path) -> list[str]:
    """A config file's settings without its list of defaults, its class, Hydra's part and its heading."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if "hydra:" in lines:
        lines = lines[: lines.index("hydra:")]
    start = next((index for index, line in enumerate(lines) if line.startswith("name: ${")), 0)
    return [line for line in lines[start:] if line and not line.startswith(("#", "_target_", "defaults:", "{}"))]
