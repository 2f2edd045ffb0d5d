"""Audio taggers on timm's trunks: create them, save them, load trained ones."""

from audioset_dcls.models.checkpoint import (
    CheckpointError,
    available_checkpoints,
    checkpoint_header,
    load_checkpoint,
    save_checkpoint,
)
from audioset_dcls.models.download import DownloadError
from audioset_dcls.models.trunks import AudioTagger, create_model, reparameterize

__all__ = [
    "AudioTagger",
    "CheckpointError",
    "DownloadError",
    "available_checkpoints",
    "checkpoint_header",
    "create_model",
    "load_checkpoint",
    "reparameterize",
    "save_checkpoint",
]
