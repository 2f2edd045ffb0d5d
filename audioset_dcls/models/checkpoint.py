"""Checkpoints: save a model, load one from a file, a published name or a URL. Nothing is ever unpickled.

A checkpoint holds plain types and tensors only, in torch's format or, with the suffix .safetensors, in that one:

    {"audioset_dcls": {"version": 1, "model": config, "labels": [display names], "metadata": {...}},
     "state_dict": {"model.<name>": tensor, ...},
     "ema_state_dict": the same keys, optional, preferred when loading}

Lightning's own checkpoints of this project have the same two entries among others, so both load alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audioset_dcls.dcls import dcls_layers, fold, match_kernel_sizes
from audioset_dcls.models.classifier import Classifier, ImageClassifier
from audioset_dcls.models.formats import CheckpointError
from audioset_dcls.models.hub import locate
from audioset_dcls.models.imagenet import convert_imagenet, imagenet_config, is_imagenet
from audioset_dcls.models.published import convert_published, is_published, published_config
from audioset_dcls.models.trunks import (
    NUM_CLASSES,
    OWN_FAMILIES,
    AudioTagger,
    check_config,
    create_model,
    reparameterize,
)
from audioset_dcls.models.weights import HEADER, check_tensors, read_weights
from preprocessing import checks
from preprocessing.files import atomic_write
from preprocessing.terminal import first_line

_VERSION = 1
# Of each kind of published state dict: is it one, the arguments of `create_model` for it, its conversion.
_PUBLISHED = [
    *((family.is_published, family.config, family.convert) for family in OWN_FAMILIES),
    (is_imagenet, imagenet_config, convert_imagenet),
    (is_published, published_config, convert_published),
]
_MOST_KERNEL_CELLS = 2**28  # of all DCLS layers, 1 GB: ConvNeXt-L has 2**24 with the paper's 23 x 23


def checkpoint_header(model: Classifier, labels: Sequence[str] | None = None, metadata: Any = None) -> dict[str, Any]:
    """What a checkpoint says about its model, under the key "audioset_dcls".

    Args:
        labels: display names in the order of the classes; the model's own by default.
        metadata: a dictionary of whatever is worth keeping (scores, settings).

    Raises ValueError for other than plain types or a wrong number of labels.
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
    path: str | Path,
    model: Classifier,
    labels: Sequence[str] | None = None,
    metadata: dict[str, Any] | None = None,
    float16: bool = False,
) -> None:
    """Write a model that `load_checkpoint` rebuilds, folded or reparameterised as it is; see `checkpoint_header`.

    Args:
        float16: store the weights of layers in half the bytes, but not positions, deviations and what norms hold.

    The file appears whole or not at all.
    """
    path = Path(path)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    header = checkpoint_header(model, labels, metadata)
    weights = {f"model.{name}": tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if float16:
        weights = {
            name: tensor.half() if name.endswith(".weight") and tensor.ndim > 1 else tensor
            for name, tensor in weights.items()
        }
    with atomic_write(path) as unfinished:
        if path.suffix == ".safetensors":
            from safetensors.torch import save

            # the format has no shared tensors: each layer gets its own copy of the positions it shares
            weights = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
            unfinished.write_bytes(save(weights, metadata={HEADER: json.dumps(header)}))
        else:
            torch.save({HEADER: header, "state_dict": weights}, unfinished)


def load_checkpoint(source: str | Path) -> AudioTagger:
    """A model in eval mode, with `.labels` and `.metadata`, from a file, a published name or a URL.

    Args:
        source: a path to a checkpoint of this project (Lightning's .ckpt included; averaged weights are preferred) or
            to one of the files that DCLS-Audio or EfficientAT published; "embedded", the tagger in the box; a name of
            `available_checkpoints()`; an http(s) address of any of these, downloaded once into the cache; or
            "hf:owner/name" or "hf:owner/name@revision" on the Hugging Face Hub.

    Raises FileNotFoundError, DownloadError, HubError (all OSError), and CheckpointError for a file that is no such
    checkpoint.
    """
    model = _load(source)
    if not isinstance(model, AudioTagger):
        raise CheckpointError(f"{source}: holds a model on images, no tagger; load it with load_image_checkpoint")
    return model


def load_image_checkpoint(source: str | Path) -> ImageClassifier:
    """A model on images in eval mode, from what `save_checkpoint` wrote or the authors published for ImageNet.

    Args and errors are those of `load_checkpoint`.
    """
    model = _load(source)
    if not isinstance(model, ImageClassifier):
        raise CheckpointError(f"{source}: holds a tagger, no model on images; load it with load_checkpoint")
    return model


def _load(source: str | Path) -> Classifier:
    path = locate(source)
    content = read_weights(path)
    try:
        config, labels, metadata, weights = _own(content) if HEADER in content else _published(content)
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


def _build(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Classifier:
    """The model of a config in the form of the weights: with DCLS layers or folded, with branches or merged."""
    blocks = sum(config.get("depths", ())) + sum(config.get("layers", ()))
    if blocks > len(weights):
        raise ValueError(f"{blocks} blocks for {len(weights)} weights")
    model: Classifier = create_model(**config)
    if model.config["dcls"] and not any(key.endswith(".positions") for key in weights):
        fold(model, tolerance=None)
    if any(".reparam_conv." in key for key in weights):
        reparameterize(model)
    match_kernel_sizes(model, weights)
    return model


def _own(content: dict[str, Any]) -> tuple[dict[str, Any], Any, dict[str, Any], dict[str, Tensor]]:
    header, weights = content[HEADER], content.get("ema_state_dict") or content["state_dict"]
    if not isinstance(header, dict) or not isinstance(weights, dict):
        raise ValueError("damaged: its header or weights are no dictionary")
    if checks.integer(header["version"], "version", 1, 10**6) > _VERSION:
        raise ValueError("written by a newer audioset-dcls; update it to load this checkpoint")
    config, metadata = header["model"], checks.plain(header["metadata"], "metadata")
    if not isinstance(config, dict) or not isinstance(metadata, dict):
        raise ValueError("damaged: its model or metadata is no dictionary")
    weights = {key.removeprefix("model."): weights[key] for key in weights if key.startswith("model.")}
    check_tensors(weights)
    return {"num_classes": NUM_CLASSES, "name": config["name"], **config}, header["labels"], metadata, weights


def _published(content: dict[str, Any]) -> tuple[dict[str, Any], None, dict[str, Any], dict[str, Tensor]]:
    # timm's training script keeps the averaged weights under the second key
    weights = content.get("model", content.get("state_dict_ema", content))
    for recognises, config, convert in _PUBLISHED:
        if isinstance(weights, dict) and recognises(weights):
            check_tensors(weights)  # before they are converted, which may copy
            return config(weights), None, {}, convert(weights)
    keys = ", ".join(map(str, list(content)[:3])) or "none"
    raise ValueError(
        f"neither a model saved by audioset-dcls nor one published by DCLS-Audio or EfficientAT (its keys: {keys})"
    )


def _check_shapes(model: Classifier, weights: Mapping[str, Tensor]) -> None:
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
