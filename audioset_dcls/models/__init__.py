"""Audio taggers on timm's trunks: create them, save them, load trained ones.

Each name is imported when it is first used: what is published and where it lies is told without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.lazy import exports

if TYPE_CHECKING:
    from audioset_dcls.models.checkpoint import (
        checkpoint_header,
        load_checkpoint,
        load_image_checkpoint,
        save_checkpoint,
    )
    from audioset_dcls.models.classifier import FeatureMaps, ImageClassifier
    from audioset_dcls.models.download import DownloadError
    from audioset_dcls.models.formats import CheckpointError
    from audioset_dcls.models.hub import available_checkpoints
    from audioset_dcls.models.hugging_face import HubError
    from audioset_dcls.models.trunks import AudioTagger, create_model, reparameterize

__all__ = [
    "AudioTagger",
    "CheckpointError",
    "DownloadError",
    "FeatureMaps",
    "HubError",
    "ImageClassifier",
    "available_checkpoints",
    "checkpoint_header",
    "create_model",
    "load_checkpoint",
    "load_image_checkpoint",
    "reparameterize",
    "save_checkpoint",
]

__getattr__, __dir__ = exports(
    __name__,
    {
        "audioset_dcls.models.checkpoint": (
            "checkpoint_header",
            "load_checkpoint",
            "load_image_checkpoint",
            "save_checkpoint",
        ),
        "audioset_dcls.models.classifier": ("FeatureMaps", "ImageClassifier"),
        "audioset_dcls.models.download": ("DownloadError",),
        "audioset_dcls.models.formats": ("CheckpointError",),
        "audioset_dcls.models.hub": ("available_checkpoints",),
        "audioset_dcls.models.hugging_face": ("HubError",),
        "audioset_dcls.models.trunks": ("AudioTagger", "create_model", "reparameterize"),
    },
)
