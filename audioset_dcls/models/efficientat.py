"""EfficientAT's MobileNets (Schmid et al., arXiv 2211.04772): the network, and its authors' state dicts -> ours.

A MobileNetV3-Large of another width on log-mel spectrograms. torchvision has its blocks; the gate of
squeeze-and-excitation is a sigmoid here, and the classifier sees the mean of the last map.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf
from torchvision.ops.misc import SqueezeExcitation

from audioset_dcls.dcls import Replacement, replace_depthwise
from audioset_dcls.models.family import Family
from preprocessing.constants import EFFICIENTAT_LOG_MEL

WIDTHS = {
    f"efficientat_mn{tenths:02d}": tenths / 10 for tenths in (1, 2, 4, 5, 10, 20, 30, 40)
}  # name -> width multiplier
# Shorter clips are continued with silence to 5 s. mn04 has learned from clips of 10 s: its specific top 3 on the test
# part of packages is 0.55 at each clip's own length, 0.62 at 5 s, 0.58 at 10 s, and 0.59 if clips are repeated to 5 s.
MINIMUM_FRAMES = 500
_FIRST = "features.0.0.weight"
_LAST_BIAS = "classifier.5.bias"  # of the "mlp" head


def layout(width: float) -> tuple[list[Any], int]:
    """The settings of MobileNetV3-Large's 15 blocks at a width, and the width of the classifier's first layer."""
    blocks, last_channels = _mobilenet_v3_conf("mobilenet_v3_large", width_mult=width)
    return blocks, last_channels


class MobileNet(nn.Module):
    """(B, 1, 128, frames) -> logits (B, num_classes), with the methods of timm's models that `AudioTagger` uses."""

    def __init__(self, width: float, num_classes: int, drop_rate: float = 0.2) -> None:
        super().__init__()
        blocks, last_channels = layout(width)
        network = MobileNetV3(blocks, last_channels, num_classes, dropout=drop_rate)
        network.features[0][0] = nn.Conv2d(1, network.features[0][0].out_channels, 3, 2, 1, bias=False)
        for module in network.modules():
            if isinstance(module, SqueezeExcitation):
                module.scale_activation = nn.Sigmoid()
        self.features = network.features
        self.pool = network.avgpool
        self.classifier = network.classifier
        self.num_classes = num_classes
        self.head_hidden_size = self.classifier[0].in_features

    def forward_features(self, log_mel: Tensor) -> Tensor:
        features: Tensor = self.features(log_mel)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.pool(features).flatten(1)
        return pooled if pre_logits else self.classifier(pooled)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(log_mel))

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Both layers of the classifier start anew: the first one's features serve the old classes."""
        first, activation, dropout, last = self.classifier
        new = [nn.Linear(first.in_features, first.out_features), nn.Linear(last.in_features, num_classes)]
        for layer in new:
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
        self.classifier = nn.Sequential(new[0], activation, dropout, new[1]).to(first.weight)
        self.num_classes = num_classes


def replace_kernels(trunk: nn.Module, kernel_count: int, warm_start: bool, **options: Any) -> list[Replacement]:
    """DCLS elements in place of the 3 x 3 and 5 x 5 kernels, as many as these have cells and at most `kernel_count`.

    Args:
        warm_start: start from the kernels that are there; with an element for each cell they are the same up to the
            Gauss's tails, 1e-3 of a tap on each neighbour.
        options: of `replace_depthwise`.
    """
    replaced = []
    for size in (3, 5):
        start: Any = "narrow" if warm_start and kernel_count >= size**2 else warm_start
        only = partial(_has_kernel, size)
        replaced += replace_depthwise(trunk, min(kernel_count, size**2), only=only, warm_start=start, **options)
    return replaced


def _has_kernel(size: int, name: str, module: nn.Module) -> bool:
    return module.kernel_size == (size, size)


def is_efficientat(state_dict: Mapping[str, Any]) -> bool:
    """If these are the keys of one of EfficientAT's MobileNets with the "mlp" head."""
    return _FIRST in state_dict and _LAST_BIAS in state_dict


def config_of_width(widths: Mapping[str, float], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `create_model` for a state dict of EfficientAT, by the channels before its classifier.

    Args:
        widths: name -> width multiplier.

    Raises KeyError for another state dict, ValueError for another width.
    """
    channels = state_dict["classifier.2.weight"].shape[1]
    for name, width in widths.items():
        if 6 * layout(width)[0][-1].out_channels == channels:
            return {"name": name, "dcls": False, "num_classes": len(state_dict[_LAST_BIAS])}
    raise ValueError(f"no width of EfficientAT's MobileNets has {channels} channels before its classifier")


def rename_classifier(key: str) -> str:
    """The authors' classifier begins with pooling and flattening, two layers more than ours."""
    return re.sub(r"^classifier\.([25])\.", lambda match: f"classifier.{int(match[1]) - 2}.", key)


def convert_efficientat(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EfficientAT's state dict -> one for the model that `config_of_width` describes."""
    converted = {}
    for key, value in state_dict.items():
        if ".conc_se_layers.0." in key:
            key = key.replace(".conc_se_layers.0.", ".")
            value = value[:, :, None, None] if value.ndim == 2 else value
        converted[f"trunk.{rename_classifier(key)}"] = value
    return converted


MOBILE_NETS = Family(
    title="EfficientAT's MobileNets",
    names=WIDTHS,
    log_mel=EFFICIENTAT_LOG_MEL,
    minimum_frames=MINIMUM_FRAMES,
    create=lambda name, num_classes, drop_rate: MobileNet(WIDTHS[name], num_classes, drop_rate),
    is_published=is_efficientat,
    config=partial(config_of_width, WIDTHS),
    convert=convert_efficientat,
    replace_kernels=replace_kernels,
)
