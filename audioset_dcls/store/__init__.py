"""Recordings on disk as embeddings and scores: search, own classes from examples, review. Runs without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.lazy import exports

if TYPE_CHECKING:
    from audioset_dcls.store.database import StoreError
    from audioset_dcls.store.index import Index
    from audioset_dcls.store.search import Hit
    from audioset_dcls.store.update import Update

__all__ = ["Hit", "Index", "StoreError", "Update"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "audioset_dcls.store.database": ("StoreError",),
        "audioset_dcls.store.index": ("Index",),
        "audioset_dcls.store.search": ("Hit",),
        "audioset_dcls.store.update": ("Update",),
    },
)
