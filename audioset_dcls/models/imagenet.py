"""The state dicts of the authors' models on ImageNet -> ours: pure functions on dictionaries.

ConvNeXt (Zenodo record 7112021) and ResNet-50 (8373830) of 2112.03740, ConvFormer, CAFormer and FastViT (8370737).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from timm.models import convnext, fastvit, metaformer
from torch import Tensor

from audioset_dcls.dcls import convert_dcls
from audioset_dcls.models.trunks import create_model

# The key of the first convolution -> trunk in timm.
_TRUNK_OF_STEM = {
    "downsample_layers.0.0.weight": "convnext",
    "downsample_layers.0.conv.weight": "convformer",
    "patch_embed.0.rbr_conv.0.conv.weight": "fastvit",
    "conv1.weight": "resnet50",
}
_NAMES: dict[tuple[str, tuple[int, ...], int], str] = {  # trunk, depths, first width -> name in timm
    ("convnext", (3, 3, 9, 3), 96): "convnext_tiny",
    ("convnext", (3, 3, 27, 3), 96): "convnext_small",
    ("convnext", (3, 3, 27, 3), 128): "convnext_base",
    ("convformer", (3, 3, 9, 3), 64): "convformer_s18",
    ("caformer", (3, 3, 9, 3), 64): "caformer_s18",
    ("fastvit", (4, 4, 12, 4), 64): "fastvit_sa24",
    ("fastvit", (6, 6, 18, 6), 64): "fastvit_sa36",
}
_FILTERS: dict[str, Any] = {
    "convnext": convnext.checkpoint_filter_fn,
    "convformer": metaformer.checkpoint_filter_fn,
    "caformer": metaformer.checkpoint_filter_fn,
    "fastvit": fastvit.checkpoint_filter_fn,
}


def is_imagenet(state_dict: Mapping[str, Any]) -> bool:
    """Whether these are the keys of one of the authors' models on images."""
    stems = [state_dict[key] for key in _TRUNK_OF_STEM if key in state_dict]
    return len(stems) == 1 and isinstance(stems[0], Tensor) and stems[0].ndim == 4 and stems[0].shape[1] == 3


def imagenet_config(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `create_model` for a state dict of the authors, read from its keys and shapes.

    The size of the dilated kernel leaves no trace in the weights: it is 23 with widths (version "gauss"), 17 without, 7
    in ResNet-50. Raises KeyError for another state dict, ValueError for sizes that were not published.
    """
    trunk, classifier = _trunk(state_dict), {"convformer": "head.fc2", "caformer": "head.fc2", "resnet50": "fc"}
    classes = len(state_dict[f"{classifier.get(trunk, 'head')}.weight"])
    config: dict[str, Any] = {"name": _name(state_dict), "input": "image", "dcls": False, "num_classes": classes}
    positions = [key for key in state_dict if key.endswith(".P")]
    if positions:
        gauss = _version(state_dict) == "gauss"
        config |= {"dcls": True, "kernel_count": state_dict[positions[0]].shape[-1]}
        config["interpolation"] = "gauss" if gauss else "bilinear"
        config["dilated_kernel_size"] = 7 if trunk == "resnet50" else 23 if gauss else 17
    return config


def convert_imagenet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the authors -> one for the model that `imagenet_config` describes. Raises what that raises."""
    converted = convert_dcls(state_dict, _version(state_dict))
    if rename := _FILTERS.get(_trunk(state_dict)):
        with torch.device("meta"):
            model = create_model(**imagenet_config(state_dict))
        converted = rename(converted, model.trunk)
    return {f"trunk.{key}": value for key, value in converted.items()}


def _trunk(state_dict: Mapping[str, Any]) -> str:
    for key, trunk in _TRUNK_OF_STEM.items():
        if key in state_dict:
            attention = trunk == "convformer" and any(".token_mixer.qkv." in key for key in state_dict)
            return "caformer" if attention else trunk
    raise KeyError(" or ".join(_TRUNK_OF_STEM))


def _name(state_dict: Mapping[str, Tensor]) -> str:
    trunk = _trunk(state_dict)
    if trunk == "resnet50":
        return trunk
    # FastViT's stages are the even items of `network`, before the last its position encoding
    pattern = r"network\.([0247])\.(\d+)\." if trunk == "fastvit" else r"stages\.(\d)\.(\d+)\."
    blocks = {(int(found[1]), int(found[2])) for key in state_dict if (found := re.match(pattern, key))}
    stages = sorted({stage for stage, _ in blocks})
    depths = tuple(sum(block[0] == stage for block in blocks) for stage in stages)
    stem = next(key for key in _TRUNK_OF_STEM if key in state_dict)
    width = len(state_dict[stem])
    if (trunk, depths, width) not in _NAMES:
        raise ValueError(f"a {trunk} of depths {depths} and width {width} was not published")
    return _NAMES[trunk, depths, width]


def _version(state_dict: Mapping[str, Any]) -> str:
    """Of the layers of `dcls`: the authors trained ConvNeXt and ResNet-50 with "v0", the others later with "v1"."""
    if any(key.endswith(".SIG") for key in state_dict):
        return "gauss"
    return "v0" if _trunk(state_dict) in ("convnext", "resnet50") else "v1"
