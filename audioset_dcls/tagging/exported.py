"""Checkpoints, published names and addresses -> .onnx files, exported into the cache on first use.

A note beside the exports says which file came of which checkpoint, by its path, size and time of change. While these
are the same, and the code, a start needs neither torch nor the checkpoint's content.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from audioset_dcls import __version__
from audioset_dcls.folders import cache_folder
from audioset_dcls.models.hub import expected_path, locate
from audioset_dcls.models.hugging_face import is_on_hub
from audioset_dcls.tagging.contract import labels_file
from audioset_dcls.tagging.session import FORMAT, ModelError
from preprocessing import checks
from preprocessing.files import atomic_write

_NAME = re.compile(r"[0-9a-f]{16}\.onnx")


def exported(source: str | Path) -> Path:
    """The .onnx file of what `load_checkpoint` takes. Raises ModelError."""
    try:
        if is_on_hub(source):
            source = locate(source)
        checkpoint = expected_path(source)
    except OSError as error:  # HubError, or an installation without the list of published names
        raise ModelError(str(error)) from error
    known = _noted(checkpoint)
    if known is not None:
        return known
    try:
        from audioset_dcls.export.onnx import export, fingerprint
        from audioset_dcls.models.checkpoint import load_checkpoint
    except ImportError as error:
        raise ModelError(
            f"{source}: only .onnx files work without {error.name}; pip install 'audioset-dcls[train]' for others"
        ) from error
    try:
        state = _state(locate(source))  # before it is read: a file that changes meanwhile is exported again
        model = load_checkpoint(source)
        target = _folder() / f"{fingerprint(model)}.onnx"
        if not target.exists():
            export(model, target)
        with atomic_write(_note(checkpoint)) as unfinished:
            unfinished.write_text(json.dumps({"of": state, "onnx": target.name}))
    except (OSError, ValueError) as error:  # CheckpointError and DownloadError among them
        raise ModelError(str(error)) from error
    return target


def forget(checkpoint: Path) -> None:
    """Remove the export of a checkpoint's file, if there is one."""
    known = _noted(checkpoint)
    if known is not None:
        known.unlink(missing_ok=True)
        labels_file(known).unlink(missing_ok=True)
    _note(checkpoint).unlink(missing_ok=True)


def _noted(checkpoint: Path) -> Path | None:
    """The export of a checkpoint's file as it is now; None without a note that tells of one."""
    try:
        note = checks.parse_json(_note(checkpoint).read_bytes(), "note")
        state = _state(checkpoint)
    except (OSError, ValueError):
        return None
    if not isinstance(note, dict) or note.get("of") != state or not _NAME.fullmatch(str(note.get("onnx"))):
        return None
    path = _folder() / note["onnx"]
    return path if path.is_file() else None


def _state(checkpoint: Path) -> list[Any]:
    """What an export depends on, as JSON holds it."""
    found = checkpoint.stat()
    return [str(checkpoint.absolute()), found.st_size, found.st_mtime_ns, __version__, FORMAT]


def _note(checkpoint: Path) -> Path:
    return _folder() / f"{hashlib.sha256(os.fsencode(checkpoint.absolute())).hexdigest()[:16]}.json"


def _folder() -> Path:
    return cache_folder() / "exported"
