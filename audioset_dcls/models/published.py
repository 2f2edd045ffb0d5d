"""The state dicts that DCLS-Audio published (Zenodo record 8370979) -> ours: pure functions on dictionaries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from audioset_dcls.dcls import convert_dcls

# The key that only this trunk's state dict has -> the trunk's name in timm.
_TRUNK_OF_STEM = {
    "downsample_layers.0.0.weight": "convnext_tiny",
    "downsample_layers.0.conv.weight": "convformer_s18",
    "patch_embed.weight": "fastvit_sa24",
}

# Patterns of DCLS-Audio's keys -> timm's, applied in this order to every key.
_RENAMES: dict[str, list[tuple[str, Any]]] = {
    "convnext_tiny": [
        (r"^downsample_layers\.0\.", "stem."),
        (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
        (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"\.dwconv\.", ".conv_dw."),
        (r"\.pwconv", ".mlp.fc"),
        (r"^norm\.", "head.norm."),
        (r"^head\.(weight|bias)$", r"head.fc.\1"),
    ],
    "convformer_s18": [
        (r"^downsample_layers\.0\.conv\.", "stem.conv."),
        (r"^downsample_layers\.0\.post_norm\.", "stem.norm."),
        (r"^downsample_layers\.(\d)\.(pre_)?", r"stages.\1.downsample."),
        (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"^head\.", "head.fc."),
        (r"^norm\.", "head.norm."),
    ],
    "fastvit_sa24": [
        (r"^patch_embed\.", "stem."),
        (r"^network\.6\.pe\.", "stages.3.pos_emb.pos_enc."),
        (r"^network\.7\.", "stages.3.blocks."),
        (r"^network\.([024])\.", lambda match: f"stages.{int(match[1]) // 2}.blocks."),
        (r"^network\.([135])\.", lambda match: f"stages.{int(match[1]) // 2 + 1}.downsample."),
        (r"^conv_exp\.", "final_conv."),
        (r"\.se\.reduce\.", ".se.fc1."),
        (r"\.se\.expand\.", ".se.fc2."),
        (r"\.rbr_conv\.", ".conv_kxk."),
        (r"\.rbr_scale\.", ".conv_scale."),
        (r"\.rbr_skip\.", ".identity."),
        (r"\.lkb_origin\.", ".large_conv."),
        (r"\.convffn\.", ".mlp."),
        (r"\.(layer_scale(_[12])?)$", r".\1.gamma"),
        (r"^head\.", "head.fc."),
    ],
}


def is_published(state_dict: Mapping[str, Any]) -> bool:
    """Whether these are the keys of one of DCLS-Audio's three trunks."""
    return any(key in state_dict for key in _TRUNK_OF_STEM)


def published_config(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `create_model` for a state dict of DCLS-Audio, read from its keys and shapes.

    The size of the dilated kernel leaves no trace in the weights: it is as published, 23 with widths (version "gauss"),
    17 without (version "v0" of convnext_dcls_audio_tiny17). Raises KeyError for another state dict.
    """
    name = _trunk_name(state_dict)
    classifier = "head.fc2.weight" if name == "convformer_s18" else "head.weight"
    config: dict[str, Any] = {"name": name, "dcls": False, "num_classes": len(state_dict[classifier])}
    positions = [key for key in state_dict if key.endswith(".P")]
    if positions:
        count = state_dict[positions[0]].shape[-1]
        gauss = _version(state_dict) == "gauss"
        config |= {"dcls": True, "kernel_count": count, "dilated_kernel_size": 23 if gauss else 17}
        config["interpolation"] = "gauss" if gauss else "bilinear"
        config["share_positions"] = _one_tensor_per_width([state_dict[key] for key in positions])
    return config


def convert_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of DCLS-Audio -> one for the model that `published_config` describes.

    Raises KeyError for another state dict.
    """
    name = _trunk_name(state_dict)
    converted = {}
    for key, value in convert_dcls(state_dict, _version(state_dict)).items():
        new_key = key
        for pattern, replacement in _RENAMES[name]:
            new_key = re.sub(pattern, replacement, new_key)
        if name == "convformer_s18" and value.ndim == 2 and new_key.startswith("stages."):
            value = value[:, :, None, None]  # a linear layer there, a 1 x 1 convolution in timm
        converted[f"trunk.{new_key}"] = value
    return converted


def _trunk_name(state_dict: Mapping[str, Any]) -> str:
    for key, name in _TRUNK_OF_STEM.items():
        if key in state_dict:
            return name
    raise KeyError(" or ".join(_TRUNK_OF_STEM))


def _version(state_dict: Mapping[str, Any]) -> str:
    """Of the layers of `dcls`: the published ones without widths are "v0"."""
    return "gauss" if any(key.endswith(".SIG") for key in state_dict) else "v0"


def _one_tensor_per_width(positions: list[Tensor]) -> bool:
    first = {tensor.shape: tensor for tensor in reversed(positions)}
    return all(tensor.equal(first[tensor.shape]) for tensor in positions)
