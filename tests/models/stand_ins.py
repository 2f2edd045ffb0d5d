"""Deterministic stand-ins for the published checkpoints, as the authors' code saw them when it computed the references.

`tests/data/reference/published_state_dicts.json.gz` lists, per published model, [key, shape, canonical key] of every
entry; entries with one canonical key are one tensor. `published_logits.npz` holds the (2, 527) logits that the authors'
model gives with these weights on `spectrogram_like(2)` (DCLS-Audio, dcls 0.1.1, torch 2.11, CPU, float32).
"""

from __future__ import annotations

import gzip
import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parents[1] / "data" / "reference"
MODELS = tuple(
    f"{trunk}{dcls}_audio_{size}"
    for trunk, size in (("convnext", "tiny"), ("convformer", "s18"), ("fastvit", "sa24"))
    for dcls in ("", "_dcls")
)


@cache
def entries() -> dict[str, list[tuple[str, list[int], str]]]:
    return json.loads(gzip.decompress((DATA / "published_state_dicts.json.gz").read_bytes()))


def reference_logits(model: str) -> np.ndarray:
    return np.load(DATA / "published_logits.npz")[model]


def state_dict(model: str) -> dict[str, Tensor]:
    """The stand-in state dict of a published model, e.g. "convnext_dcls_audio_tiny"."""
    return {key: torch.from_numpy(_fill(canonical, shape)) for key, shape, canonical in entries()[model]}


def _fill(key: str, shape: list[int]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    x = rng.standard_normal(shape)
    if leaf == "P":
        x = np.clip(3.0 * x, -11, 11)  # positions, in kernel cells from the centre
    elif leaf == "SIG":
        x = 0.23 + 0.5 * np.abs(x)
    elif leaf == "running_var":
        x = 0.5 + np.abs(x)
    elif leaf in ("running_mean", "bias"):
        x = 0.05 * x
    elif leaf.startswith(("gamma", "layer_scale")):
        x = 0.1 * (1.0 + 0.1 * x)
    elif len(shape) <= 1:
        x = 1.0 + 0.1 * x  # norm weights, residual scales
    else:
        x = x / np.sqrt(np.prod(shape[1:]))
    return np.asarray(x, dtype=np.float32)


def spectrogram_like(batch: int) -> Tensor:
    """A (batch, 1, 128, 1001) float32 input in the range of a normalised log-mel spectrogram."""
    x = np.random.default_rng(20230925).standard_normal((batch, 1, 128, 1001))
    t = np.linspace(0, 1, 1001)[None, None, None, :]
    f = np.linspace(0, 1, 128)[None, None, :, None]
    phase = np.arange(batch)[:, None, None, None]
    return torch.from_numpy((0.3 * x + np.sin(2 * np.pi * (3 * t + 5 * f * (1 + phase)))).astype(np.float32))
