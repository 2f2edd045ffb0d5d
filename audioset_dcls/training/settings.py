"""What a run's settings can be told to be wrong by before torch is imported, which takes seconds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEAST = {
    "seed": 0,
    "epochs": 1,
    "batch_size": 1,
    "data.batch_size": 1,
    "data.num_workers": 0,
    "log_every_n_steps": 1,
    "save_every_n_steps": 0,
}


def check_config(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a number that is too low or none, a file of clips or a checkpoint that is not there."""
    for name, least in LEAST.items():
        value: Any = settings
        for key in name.split("."):
            value = value[key]
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={value}: must be a whole number, {least} or more")
    if "checkpoint" in settings["model"] and not settings["model"]["checkpoint"]:
        raise ValueError("checkpoint is not set: add checkpoint=FILE, a published name or a URL to start from")
    for split in ("train", "val"):
        paths = settings["data"].get(split) or []
        for path in [paths] if isinstance(paths, str) else paths:
            if not Path(path).exists():
                folder = os.environ.get("DCLS_DATA", "data (DCLS_DATA is not set)")
                raise ValueError(
                    f"{path}: no such file; make it with dcls-prepare, set DCLS_DATA to the folder that holds it (now "
                    f"{folder}), or name others with data.{split}"
                )
