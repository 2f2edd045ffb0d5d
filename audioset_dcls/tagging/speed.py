"""Seconds that a tagger computes for a minute of sound on this machine, kept in the cache."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from audioset_dcls.folders import cache_folder
from audioset_dcls.tagging.tagger import Tagger
from preprocessing import checks
from preprocessing.constants import SAMPLE_RATE
from preprocessing.files import atomic_write


def measure(name: str) -> float:
    """Tag a minute of noise on one core, and keep the seconds that it took. Raises ModelError."""
    tagger = Tagger(name, jobs=1)
    noise = 0.1 * np.random.default_rng(0).standard_normal(60 * SAMPLE_RATE, np.float32)
    tagger(noise[: round(tagger.window * SAMPLE_RATE)])  # the first run takes memory and plans
    began = time.perf_counter()
    tagger(noise)
    seconds = time.perf_counter() - began
    with atomic_write(_path()) as unfinished:
        unfinished.write_text(json.dumps(_read() | {platform.node(): measured() | {name: seconds}}))
    return seconds


def measured() -> dict[str, float]:
    """Name -> what `measure` took on this machine; a home folder may be several machines'."""
    here = _read().get(platform.node())
    return {name: value for name, value in here.items() if _is_time(value)} if isinstance(here, dict) else {}


def _read() -> dict[str, Any]:
    try:
        content = checks.plain(checks.parse_json(_path().read_bytes(), "measured"), "measured")
    except (OSError, ValueError):  # a broken file is one without measurements
        return {}
    return content if isinstance(content, dict) else {}


def _is_time(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1e6


def _path() -> Path:
    return cache_folder() / "measured.json"
