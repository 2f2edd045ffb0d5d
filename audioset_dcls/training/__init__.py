"""Training runs: the Lightning module, its losses, and runs that resume exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.lazy import exports

if TYPE_CHECKING:
    from audioset_dcls.training.losses import Distillation
    from audioset_dcls.training.module import TaggingModule
    from audioset_dcls.training.run import train

__all__ = ["Distillation", "TaggingModule", "train"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "audioset_dcls.training.losses": ("Distillation",),
        "audioset_dcls.training.module": ("TaggingModule",),
        "audioset_dcls.training.run": ("train",),
    },
)
