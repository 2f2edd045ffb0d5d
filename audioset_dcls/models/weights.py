"""Checkpoint files -> dictionaries of plain values and tensors. Nothing in a file is executed."""

from __future__ import annotations

import argparse
import pickletools
import re
import reprlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audioset_dcls.models.formats import CheckpointError, check_format
from preprocessing import checks
from preprocessing.terminal import first_line, printable

HEADER = "audioset_dcls"  # key of what a checkpoint of this project says of itself
# Names that weights, and what Lightning stores beside them, need in a pickle. None takes a size to allocate.
_PLAIN_GLOBALS = re.compile(
    r"collections (OrderedDict|defaultdict|Counter)"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch (\w+Storage|Size|device|b?float\d+|u?int\d+|bool)"
    r"|argparse Namespace"
)


def read_weights(path: Path) -> dict[str, Any]:
    """The dictionary in a file of torch's or safetensors' format, as plain types and tensors."""
    if check_format(path) == "safetensors":
        return _read_safetensors(path)
    try:
        _check_archive(path)
        # DCLS-Audio's training script stores its command-line arguments: a Namespace of plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises a dozen types on bytes that are not its own
        raise CheckpointError(f"{path}: damaged or truncated; download or copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary of weights")
    return content


def _check_archive(path: Path) -> None:
    """Raise CheckpointError if an archive of torch.save could take more memory than its size, or run code.

    weights_only=True alone lets a file call `bytearray` and `torch.Tensor` with any size.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(f"{path}: refused: its entries are compressed, torch.save writes none; save it again")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise CheckpointError(f"{path}: refused: its entries claim more bytes than the file has")
        (pickled,) = (entry for entry in entries if entry.filename.endswith("/data.pkl"))
        named = {
            str(argument)
            for opcode, argument, _ in pickletools.genops(archive.read(pickled))
            if opcode.name == "GLOBAL"
        }
    refused = sorted(name.replace(" ", ".") for name in named if not _PLAIN_GLOBALS.fullmatch(name))
    if refused:
        names = printable(", ".join(refused[:3]))
        raise CheckpointError(
            f"{path}: refused: it holds objects that can run code or take memory ({names}); "
            "ask for a file of weights only"
        )


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
            header = (file.metadata() or {}).get(HEADER)
        return {HEADER: checks.parse_json(header, "its header"), "state_dict": tensors} if header else tensors
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged or truncated ({first_line(error)}); download or copy it again"
        ) from error


def check_tensors(weights: Mapping[str, Any]) -> None:
    """Raise ValueError for weights that are no plain tensors, or that claim more elements than the file holds."""
    for key, value in weights.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
            raise ValueError(f"damaged: {reprlib.repr(key)} is no plain tensor")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"damaged: {reprlib.repr(key)} is larger than what the file holds of it")
