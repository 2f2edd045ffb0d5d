"""What a run's folder says of the run: its settings, and what each start was made with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from preprocessing.clips.layout import hash_ids
from preprocessing.files import atomic_write

PACKAGES = ("audioset-dcls", "torch", "torchaudio", "timm", "lightning", "numpy", "h5py", "hydra-core")


def record(folder: Path, settings: Any, hashes: Any) -> None:
    """Write config.yaml, and to run.json one entry more: a resumed run has several."""
    write(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
    facts = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "git": git("rev-parse", "HEAD"),
        "git_changes": git("status", "--porcelain"),
        "python": platform.python_version(),
        "packages": {package.name: package.version for package in distributions() if package.name in PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "data": hashes,
    }
    starts = json.loads((folder / "run.json").read_text()) if (folder / "run.json").exists() else []
    write(folder / "run.json", json.dumps([*starts, facts], indent=1))


def data_hashes(data: Any) -> dict[str, dict[str, Any]]:
    """Number of clips and hash of their sorted ids, for training and validation."""
    names = {split: data.dataset(split).audio_names() for split in ("train", "val")}
    return {split: {"clips": len(ids), "clip_ids_sha256": hash_ids(ids)} for split, ids in names.items()}


def git(*arguments: str) -> str | None:
    """What git says about the checkout that this file lies in; None in an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write(path: Path, text: str) -> None:
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
