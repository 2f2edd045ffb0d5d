"""Which format a checkpoint file has, by its first bytes. Runs without torch."""

from __future__ import annotations

from pathlib import Path


class CheckpointError(ValueError):
    """A file is not a checkpoint that can be read; the message names the file and what to do."""


def check_format(path: Path) -> str:
    """ "zip" for torch's format, or "safetensors"; raises CheckpointError for anything else."""
    with path.open("rb") as file:
        start = file.read(512)
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path}: an exported tagger; open it with audioset_dcls.Tagger")
    if start.startswith(b"PK"):
        return "zip"
    if start.startswith(b"\x80"):
        raise CheckpointError(
            f"{path}: damaged or truncated, or in torch's format of before 1.6, which is not read: its sizes cannot be "
            "checked; save it again with a newer torch"
        )
    if start[8:9] == b"{":
        return "safetensors"
    looks = "empty" if not start else "a web page" if b"<html" in start.lower() else "no checkpoint"
    raise CheckpointError(f"{path}: {looks}; expected a file written by torch.save or safetensors")
