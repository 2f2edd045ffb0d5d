"""Checkpoints: save a model, load one from a file, a published name or a URL. Nothing is ever unpickled.

A checkpoint holds plain types and tensors only, in torch's format or, with the suffix .safetensors, in that one:

    {"audioset_dcls": {"version": 1, "model": config, "labels": [display names], "metadata": {...}},
     "state_dict": {"model.<name>": tensor, ...},
     "ema_state_dict": the same keys, optional, preferred when loading}

Lightning's own checkpoints of this project have the same two entries among others, so both load alike.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import logging
import math
import pickletools
import re
import reprlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from audioset_dcls.dcls import dcls_layers, fold, match_kernel_sizes
from audioset_dcls.folders import cache_folder, data_folder
from audioset_dcls.models.download import download
from audioset_dcls.models.efficientat import convert_efficientat, efficientat_config, is_efficientat
from audioset_dcls.models.published import convert_published, is_published, published_config
from audioset_dcls.models.trunks import NUM_CLASSES, AudioTagger, check_config, create_model, reparameterize
from preprocessing import checks
from preprocessing.files import atomic_write, lock, sha256_of
from preprocessing.terminal import first_line, printable

_HEADER = "audioset_dcls"
_VERSION = 1
_MOST_KERNEL_CELLS = 2**28  # of all DCLS layers, 1 GB: ConvNeXt-L has 2**24 with the paper's 23 x 23
# Names that weights, and what Lightning stores beside them, need in a pickle. None takes a size to allocate.
_PLAIN_GLOBALS = re.compile(
    r"collections (OrderedDict|defaultdict|Counter)"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch (\w+Storage|Size|device|b?float\d+|u?int\d+|bool)"
    r"|argparse Namespace"
)
_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A file is not a checkpoint that can be read; the message names the file and what to do."""


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One entry of `checkpoints/published.yaml`; mAP is in percent, the mean over three seeds."""

    name: str
    url: str
    sha256: str | None
    trunk: str
    dcls: bool
    parameters: int
    mean_average_precision: float
    standard_deviation: float


def available_checkpoints() -> dict[str, PublishedCheckpoint]:
    """The published checkpoints by the short names that `load_checkpoint` takes."""
    import yaml  # type: ignore[import-untyped]

    entries = yaml.safe_load((data_folder("checkpoints") / "published.yaml").read_text(encoding="utf-8"))
    return {name: PublishedCheckpoint(name=name, **entry) for name, entry in entries.items()}


def checkpoint_header(model: AudioTagger, labels: Sequence[str] | None = None, metadata: Any = None) -> dict[str, Any]:
    """What a checkpoint says about its model, under the key "audioset_dcls".

    labels: display names in the order of the classes; the model's own by default. metadata: a dictionary of whatever
    is worth keeping (scores, settings). Raises ValueError for other than plain types or a wrong number of labels.
    """
    labels = model.labels if labels is None else tuple(labels)
    if labels is not None and len(labels) != model.config["num_classes"]:
        raise ValueError(f"{len(labels)} labels for {model.config['num_classes']} classes")
    header = {
        "version": _VERSION,
        "model": model.config,
        "labels": labels,
        "metadata": model.metadata if metadata is None else metadata,
    }
    try:
        return json.loads(json.dumps(header))
    except TypeError as error:
        raise ValueError(f"labels, metadata and timm's arguments must be plain types to be saved: {error}") from error


def save_checkpoint(
    path: str | Path, model: AudioTagger, labels: Sequence[str] | None = None, metadata: dict[str, Any] | None = None
) -> None:
    """Write a model that `load_checkpoint` rebuilds, folded or reparameterised as it is; see `checkpoint_header`.

    The file appears whole or not at all.
    """
    path = Path(path)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    header = checkpoint_header(model, labels, metadata)
    weights = {f"model.{name}": tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    with atomic_write(path) as unfinished:
        if path.suffix == ".safetensors":
            from safetensors.torch import save

            # the format has no shared tensors: each layer gets its own copy of the positions it shares
            weights = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
            unfinished.write_bytes(save(weights, metadata={_HEADER: json.dumps(header)}))
        else:
            torch.save({_HEADER: header, "state_dict": weights}, unfinished)


def load_checkpoint(source: str | Path) -> AudioTagger:
    """A model in eval mode, with `.labels` and `.metadata`, from a file, a published name or a URL.

    source: a path to a checkpoint of this project (Lightning's .ckpt included; averaged weights are preferred) or to
        one of the files that DCLS-Audio published; a name of `available_checkpoints()`; or an http(s) address of any of
        these, downloaded once into the cache.

    Raises FileNotFoundError, DownloadError (both OSError), and CheckpointError for a file that is no such checkpoint.
    """
    path = _locate(source)
    content = _read(path)
    try:
        config, labels, metadata, weights = _own(content) if _HEADER in content else _published(content)
        _check_tensors(weights)
        check_config(config)
        if labels is not None:
            labels = checks.labels(labels, config["num_classes"])
        with torch.device("meta"):  # takes no memory, whatever the config says
            _check_shapes(_build(config, weights), weights)
        model = _build(config, weights)
    except KeyError as error:
        raise CheckpointError(f"{path}: damaged: it has no entry {error}") from error
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {first_line(error)}") from error
    model.load_state_dict(weights)
    if labels is not None:
        model.labels = labels
    model.metadata = metadata
    return model.eval()


def _build(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> AudioTagger:
    """The model of a config in the form of the weights: with DCLS layers or folded, with branches or merged."""
    blocks = sum(config.get("depths", ())) + sum(config.get("layers", ()))
    if blocks > len(weights):
        raise ValueError(f"{blocks} blocks for {len(weights)} weights")
    model = create_model(**config)
    if model.config["dcls"] and not any(key.endswith(".positions") for key in weights):
        fold(model, tolerance=None)
    if any(".reparam_conv." in key for key in weights):
        reparameterize(model)
    match_kernel_sizes(model, weights)
    return model


def _own(content: dict[str, Any]) -> tuple[dict[str, Any], Any, dict[str, Any], dict[str, Tensor]]:
    header, weights = content[_HEADER], content.get("ema_state_dict") or content["state_dict"]
    if not isinstance(header, dict) or not isinstance(weights, dict):
        raise ValueError("damaged: its header or weights are no dictionary")
    if checks.integer(header["version"], "version", 1, 10**6) > _VERSION:
        raise ValueError("written by a newer audioset-dcls; update it to load this checkpoint")
    config, metadata = header["model"], checks.plain(header["metadata"], "metadata")
    if not isinstance(config, dict) or not isinstance(metadata, dict):
        raise ValueError("damaged: its model or metadata is no dictionary")
    weights = {key.removeprefix("model."): weights[key] for key in weights if key.startswith("model.")}
    return {"num_classes": NUM_CLASSES, "name": config["name"], **config}, header["labels"], metadata, weights


def _published(content: dict[str, Any]) -> tuple[dict[str, Any], None, dict[str, Any], dict[str, Tensor]]:
    weights = content.get("model", content)
    if isinstance(weights, dict) and is_efficientat(weights):
        return efficientat_config(weights), None, {}, convert_efficientat(weights)
    if not isinstance(weights, dict) or not is_published(weights):
        keys = ", ".join(map(str, list(content)[:3])) or "none"
        raise ValueError(
            f"neither a model saved by audioset-dcls nor one published by DCLS-Audio or EfficientAT (its keys: {keys})"
        )
    return published_config(weights), None, {}, convert_published(weights)


def _check_tensors(weights: Mapping[str, Any]) -> None:
    """Raise ValueError for weights that are no plain tensors, or that claim more elements than the file holds."""
    for key, value in weights.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
            raise ValueError(f"damaged: {reprlib.repr(key)} is no plain tensor")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"damaged: {reprlib.repr(key)} is larger than what the file holds of it")


def _check_shapes(model: AudioTagger, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the weights are the model's, by name and shape."""
    expected = model.state_dict()
    missing = [key for key in expected if key not in weights]
    unknown = [key for key in weights if key not in expected]
    reshaped = [key for key in expected if key in weights and weights[key].shape != expected[key].shape]
    problems = [
        f"{len(keys)} {what} ({keys[0]}{', ...' if len(keys) > 1 else ''})"
        for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", reshaped))
        if keys
    ]
    if problems:
        raise ValueError(f"not the weights of {model.config['name']}: {', '.join(problems)}")
    kernels = sum(layer.weight.shape[0] * math.prod(layer.dilated_kernel_size) for layer in dcls_layers(model))
    if kernels > _MOST_KERNEL_CELLS:
        raise ValueError(f"its kernels would have {kernels:,} cells, more than {_MOST_KERNEL_CELLS:,}")


def _locate(source: str | Path) -> Path:
    """The file behind a path, a published name or a URL; the latter two are downloaded into the cache once."""
    if isinstance(source, str):
        published = available_checkpoints()
        if source in published:
            entry = published[source]
            return _cached(entry.url, Path(urlsplit(entry.url).path).name, entry.sha256)
        if source.startswith(("http://", "https://")):
            name = Path(urlsplit(source).path).name or "checkpoint"
            if source.startswith("http://"):
                _log.warning(
                    "%s: not encrypted, anybody on the way can change the file; use https if it has it", source
                )
            return _cached(source, f"{hashlib.sha256(source.encode()).hexdigest()[:12]}-{name[-100:]}", None)
    path = Path(source)
    if path.is_file():
        return path
    names = list(available_checkpoints())
    close = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"published checkpoints: {', '.join(names)}"
    raise FileNotFoundError(f"{source}: no such file{' (a folder)' if path.is_dir() else ''}; {hint}")


def _cached(url: str, name: str, sha256: str | None) -> Path:
    """The download of `url` in the cache, checked on every use against the published or else the recorded checksum.

    Processes started together, as on several GPUs, wait for the one that downloads.
    """
    target = cache_folder() / name
    recorded = target.with_name(f"{name}.sha256")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("ab") as file:
        lock(file, wait=True)
        expected = sha256 or (recorded.read_text().strip() if recorded.exists() else None)
        if target.exists():
            if expected is None or sha256_of(target) == expected:
                return target
            _log.warning("%s is not what was downloaded; downloading it again", target)
        download(url, target, sha256)
        try:
            _check_format(target)
        except CheckpointError:
            target.unlink()  # else every later run would meet it again
            raise
        if sha256 is None:
            with atomic_write(recorded) as unfinished:
                unfinished.write_text(sha256_of(target) + "\n")
            _log.warning("%s: no checksum is published; recorded that of this download in %s", target.name, recorded)
    return target


def _read(path: Path) -> dict[str, Any]:
    """The dictionary in a file of torch's or safetensors' format, as plain types and tensors."""
    if _check_format(path) == "safetensors":
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


def _check_format(path: Path) -> str:
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


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
            header = (file.metadata() or {}).get(_HEADER)
        return {_HEADER: checks.parse_json(header, "its header"), "state_dict": tensors} if header else tensors
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged or truncated ({first_line(error)}); download or copy it again"
        ) from error
