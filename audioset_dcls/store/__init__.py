"""Recordings on disk as embeddings and scores: search, own classes from examples, review. Runs without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.lazy import exports

if TYPE_CHECKING:
    from audioset_dcls.store.database import StoreError
    from audioset_dcls.store.examples import ExamplesError
    from audioset_dcls.store.index import Index
    from audioset_dcls.store.search import Hit
    from audioset_dcls.store.teaching import Taught, teach
    from audioset_dcls.store.update import Update

__all__ = ["ExamplesError", "Hit", "Index", "StoreError", "Taught", "Update", "teach"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "audioset_dcls.store.database": ("StoreError",),
        "audioset_dcls.store.index": ("Index",),
        "audioset_dcls.store.examples": ("ExamplesError",),
        "audioset_dcls.store.search": ("Hit",),
        "audioset_dcls.store.teaching": ("Taught", "teach"),
        "audioset_dcls.store.update": ("Update",),
    },
)
