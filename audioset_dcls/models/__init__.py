"""Audio taggers on timm's trunks: create them, save them, load trained ones.

Each name is imported when it is first used: what is published and where it lies is told without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audioset_dcls.models.checkpoint import checkpoint_header, load_checkpoint, save_checkpoint
    from audioset_dcls.models.download import DownloadError
    from audioset_dcls.models.formats import CheckpointError
    from audioset_dcls.models.hub import available_checkpoints
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

_WHERE = {
    "AudioTagger": "trunks",
    "CheckpointError": "formats",
    "DownloadError": "download",
    "available_checkpoints": "hub",
    "checkpoint_header": "checkpoint",
    "create_model": "trunks",
    "load_checkpoint": "checkpoint",
    "reparameterize": "trunks",
    "save_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
