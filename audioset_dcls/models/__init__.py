"""Audio taggers on timm's trunks: create them, save them, load trained ones."""

from audioset_dcls.models.checkpoint import (
    checkpoint_header,
    load_checkpoint,
    save_checkpoint,
)
from audioset_dcls.models.download import DownloadError
from audioset_dcls.models.hub import available_checkpoints
from audioset_dcls.models.trunks import AudioTagger, create_model, reparameterize
from audioset_dcls.models.weights import CheckpointError

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
