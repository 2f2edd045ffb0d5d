"""Deterministic stand-ins for the published checkpoints, as the authors' code saw them when it computed the references.

`tests/data/reference/published_state_dicts.json.gz` lists, per published model, [key, shape, canonical key] of every
entry; entries with one canonical key are one tensor. `published_logits.npz` holds the (2, 527) logits that the authors'
model gives with these weights on `spectrogram_like(2)` (DCLS-Audio, dcls 0.1.1, torch 2.11, CPU, float32); those of
`EFFICIENTAT` are EfficientAT's (commit a425fdc, in eval mode, with the dynamic convolutions' temperature at 1).
"""

from __future__ import annotations

import gzip
import json
import re
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

# File of EfficientAT -> gain of its convolutions, with which maps neither vanish nor explode over 50 layers
EFFICIENTAT = {"mn04_as": 1.45, "dymn04_as": 1.64}


@cache
def entries() -> dict[str, list[tuple[str, list[int], str]]]:
    return json.loads(gzip.decompress((DATA / "published_state_dicts.json.gz").read_bytes()))


def reference_logits(model: str) -> np.ndarray:
    return np.load(DATA / "published_logits.npz")[model]


def state_dict(model: str) -> dict[str, Tensor]:
    """The stand-in state dict of a published model, e.g. "convnext_dcls_audio_tiny"."""
    return {key: torch.from_numpy(_fill(canonical, shape)) for key, shape, canonical in entries()[model]}


def efficientat_state_dict(file: str) -> dict[str, Tensor]:
    """The stand-in state dict of one of EfficientAT's files, e.g. "dymn04_as"."""
    shapes = {key: shape for key, shape, _ in entries()[file]}
    filled = {}
    for key, shape in shapes.items():
        value = _fill(key, shape)
        if len(shape) == 4:
            value *= EFFICIENTAT[file]
        if shape[:3] == [1, 1, 4]:  # four kernels, of which the mixture has half the deviation: the fan-in is another
            outputs = shapes[re.sub(r"_conv\.weight$", "_norm.weight", key)][0]
            value *= 2 * np.sqrt(4 * outputs)
        filled[key] = torch.from_numpy(value)
    return filled


def _fill(key: str, shape: list[int]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    x = rng.standard_normal(shape)
    if leaf in ("lambdas", "init_v"):
        x = np.array([1, 1, 0.5, 0.5] if leaf == "lambdas" else [1, 0, 0, 0])  # constants of Dy-ReLU
    elif leaf == "P":
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
