"""Recordings -> tags, events and embeddings, on ONNX Runtime without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.lazy import exports

if TYPE_CHECKING:
    from audioset_dcls.tagging.events import Event
    from audioset_dcls.tagging.results import Failure, OneChannel, Options, Result
    from audioset_dcls.tagging.session import ModelError
    from audioset_dcls.tagging.tagger import Tagger

__all__ = ["Event", "Failure", "ModelError", "OneChannel", "Options", "Result", "Tagger"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "audioset_dcls.tagging.events": ("Event",),
        "audioset_dcls.tagging.results": (
            "Failure",
            "OneChannel",
            "Options",
            "Result",
        ),
        "audioset_dcls.tagging.session": ("ModelError",),
        "audioset_dcls.tagging.tagger": ("Tagger",),
    },
)
