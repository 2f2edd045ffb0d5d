"""Where the data folders `configs/`, `checkpoints/`, `page/` lie: beside the package in a checkout, else inside it."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_folder(name: str) -> Path:
    """The folder `configs`, `checkpoints` or `page`, in a checkout (or editable install) as after `pip install`.

    Raises FileNotFoundError if the installation lacks it.
    """
    for folder in (_PACKAGE.parent / name, _PACKAGE / "data" / name):
        # a stray folder of that name in site-packages is not ours: only a checkout has pyproject.toml beside it
        if folder.is_dir() and (folder.parent / "pyproject.toml").exists() != (folder.parent.name == "data"):
            return folder
    raise FileNotFoundError(f"audioset_dcls: the folder {name!r} is missing; install the package again")


def cache_folder() -> Path:
    """The user's cache for downloaded checkpoints: $XDG_CACHE_HOME/audioset_dcls, else ~/.cache/audioset_dcls."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "audioset_dcls"
