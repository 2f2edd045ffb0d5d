"""Training that starts from a trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from audioset_dcls.models.checkpoint import load_checkpoint
from audioset_dcls.models.trunks import AudioTagger, replace_kernels


def fine_tune(checkpoint: str, num_classes: int, dcls: bool = False) -> AudioTagger:
    """A trained model with a new classifier; the old one stays if the number of classes is the same.

    Args:
        dcls: DCLS elements take the places of the model's depthwise kernels, fitted to them; see `replace_kernels`.

    Raises ValueError with dcls if the model has no such kernels (any more).
    """
    model = load_checkpoint(checkpoint).train()
    if model.config["num_classes"] != num_classes:
        model.reset_classifier(num_classes)
        model.metadata = {}
    else:
        model.metadata = {"starts_from": Path(checkpoint).name, "masked": model.metadata.get("masked", [])}
    if dcls:
        if not replace_kernels(model.trunk, model.config, warm_start=True):
            raise ValueError(f"{checkpoint}: no depthwise kernels for DCLS to replace; leave out model.dcls")
        model.config["dcls"] = True
    return model


def start_from_priors(model: AudioTagger, priors: np.ndarray) -> None:
    """Let the classifier say at first how often each class comes: else the first thousands of steps learn only that."""
    with torch.no_grad():
        model.classifier.bias.copy_(torch.logit(torch.from_numpy(priors.clip(1e-4, 0.9))))
