"""Where in a clip a tagger sees a class: Grad-CAM and Threshold-Grad-CAM (2408.03164)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from audioset_dcls.inference.inspect import log_mels, new_figure, save_figure
from audioset_dcls.models import AudioTagger, load_checkpoint
from preprocessing.audio import SAMPLE_RATE
from preprocessing.log_mel import HOP, N_MELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLD = 0.3  # the authors'


def grad_cam(model: AudioTagger, log_mel: Tensor, index: int, threshold: float | None = None) -> NDArray[np.float32]:
    """How much each part of the input speaks for a class: (128, frames), in [0, 1].

    The channels of the last map are weighted by the mean gradient of the class' logit. Grad-CAM sums them, and what is
    negative becomes 0. Threshold-Grad-CAM drops what is negative in each channel before the sum, scales the result to
    [0, 1] and lifts what is below the threshold to it.

    Args:
        log_mel: (1, 1, 128, frames).
        index: of the class.
        threshold: of Threshold-Grad-CAM, THRESHOLD in the paper's code; None gives Grad-CAM, scaled by its maximum.
    """
    with torch.enable_grad():
        features = model.forward_features(log_mel).detach().requires_grad_()
        logit = model.forward_head(features)[0, index]
        (gradient,) = torch.autograd.grad(logit, features)
    weighted = features.detach()[0] * gradient[0].mean((1, 2), keepdim=True)
    if threshold is None:
        heat = weighted.sum(0).relu()
        heat = heat / heat.max().clamp(min=1e-12)
    else:
        heat = weighted.relu().sum(0)
        heat = (heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)
        heat = heat.clamp(min=threshold)
    larger = F.interpolate(heat[None, None], size=log_mel.shape[-2:], mode="bilinear", align_corners=False)
    return larger[0, 0].numpy()


def class_index(model: AudioTagger, log_mel: Tensor, label: str | None) -> int:
    """Of the class of that name, or of the one with the highest score. Raises ValueError for an unknown name."""
    if label is None:
        with torch.inference_mode():
            return int(model(log_mel)[0].argmax())
    names = [name.casefold() for name in model.labels or ()]
    if label.casefold() not in names:
        raise ValueError(f"{label!r} is no class of this model")
    return names.index(label.casefold())


def write_grad_cam(checkpoint: str, output: Path, clip: Path, label: str | None = None) -> Path:
    """grad_cam.png in `output`. Raises OSError, CheckpointError, AudioError, and ValueError for an unknown class."""
    return save_figure(plot_grad_cam(load_checkpoint(checkpoint), clip, label), output / "grad_cam.png")


def plot_grad_cam(model: AudioTagger, clip: Path, label: str | None = None) -> Figure:
    """The log-mel of a clip's first ten seconds, and both maps over it, for a class or the likeliest one."""
    log_mel = log_mels([clip], model.log_mel_settings)
    index = class_index(model, log_mel, label)
    with torch.inference_mode():
        score = float(model(log_mel)[0, index].sigmoid())
    figure = new_figure(9, 7)
    extent = (0, log_mel.shape[-1] * HOP / SAMPLE_RATE, 0, N_MELS)
    rows = figure.subplots(3, 1, sharex=True)
    name = model.labels[index] if model.labels else f"class {index}"
    titles = (f"{clip.name}: {name}, {score:.2f}", "Grad-CAM", f"Threshold-Grad-CAM, {THRESHOLD}")
    for axes, title, threshold in zip(rows, titles, (None, None, THRESHOLD), strict=True):
        axes.imshow(log_mel[0, 0].numpy(), origin="lower", aspect="auto", extent=extent, cmap="gray")
        axes.set_title(title.replace("$", r"\$"), fontsize=9, loc="left")
        axes.set_ylabel("mel band")
        if axes is not rows[0]:
            heat = grad_cam(model, log_mel, index, threshold)
            image = axes.imshow(
                heat, origin="lower", aspect="auto", extent=extent, cmap="inferno", alpha=0.6, vmin=0, vmax=1
            )
    rows[-1].set_xlabel("time (s)")
    figure.colorbar(image, ax=rows, shrink=0.6, label="share of the largest")
    return figure
