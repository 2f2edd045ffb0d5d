"""EfficientAT's dynamic MobileNets (Schmid et al., arXiv 2310.15648): the network, its authors' state dicts -> ours.

The blocks of MobileNetV3-Large, each steered by a summary of its own input, the context: it mixes the kernels of the
block's three convolutions (dynamic convolution), shapes the activation after the depthwise one (Dy-ReLU), and weights
the map by frequency and by time (coordinate attention) where MobileNetV3 has squeeze-and-excitation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._utils import _make_divisible

from audioset_dcls.models.efficientat import MINIMUM_FRAMES, MobileNet, config_of_width, layout, rename_classifier
from audioset_dcls.models.family import Family
from preprocessing.constants import EFFICIENTAT_LOG_MEL

WIDTHS = {f"efficientat_dymn{tenths:02d}": tenths / 10 for tenths in (4, 10, 20)}  # name -> width multiplier
_KERNELS = 4  # that a dynamic convolution mixes
_CONTEXT_RATIO = 4  # channels of a block for one of its context
_CONTEXT_BOUNDS = 32, 128  # of the context's size, at width 1


class DynamicConv(nn.Module):
    """A convolution, 1 x 1 or depthwise, whose kernel is a mixture of four that the context weights, clip by clip.

    (B, in_channels, F, T) and a context (B, context_size) -> (B, out_channels, F', T').
    """

    def __init__(
        self, in_channels: int, out_channels: int, context_size: int, depthwise_size: int | None = None, stride: int = 1
    ) -> None:
        super().__init__()
        self.stride, self.depthwise = stride, depthwise_size is not None
        size = depthwise_size or 1
        inputs = 1 if self.depthwise else in_channels
        self.weight = nn.Parameter(torch.empty(_KERNELS, out_channels, inputs, size, size))
        self.mixture = nn.Linear(context_size, _KERNELS)
        for kernel in self.weight:
            nn.init.kaiming_normal_(kernel, mode="fan_out")
        _initialize(self.mixture)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        # training lowers the softmax's temperature to 1, at which the published weights stand
        shares = self.mixture(context).softmax(1)
        if not self.depthwise:
            kernels = (shares @ self.weight.flatten(1)).reshape(x.shape[0], -1, x.shape[1])
            return (kernels @ x.flatten(2)).reshape(x.shape[0], -1, *x.shape[2:])
        convolve = partial(F.conv2d, stride=self.stride, padding=self.weight.shape[-1] // 2)
        if torch.onnx.is_in_onnx_export():  # ONNX has no number of groups that depends on the batch
            maps = [convolve(x, kernel, groups=x.shape[1]) for kernel in self.weight]
            return sum(shares[:, i, None, None, None] * map_ for i, map_ in enumerate(maps))
        kernels = (shares @ self.weight.flatten(1)).reshape(-1, *self.weight.shape[2:])
        mixed = convolve(x.reshape(1, -1, *x.shape[2:]), kernels, groups=len(kernels))
        return mixed.reshape(x.shape[0], -1, *mixed.shape[2:])


class DynamicRelu(nn.Module):
    """max(a1 x + b1, a2 x + b2), whose slopes and offsets of each channel the context gives; a ReLU where it is 0."""

    def __init__(self, channels: int, context_size: int) -> None:
        super().__init__()
        self.coefficients = nn.Linear(context_size, 4 * channels)
        _initialize(self.coefficients)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        from_context = torch.tanh(self.coefficients(context) / 2).reshape(x.shape[0], -1, 1, 1, 4)
        slope, other_slope, offset, other_offset = from_context.unbind(-1)
        return torch.maximum((1 + slope) * x + offset / 2, other_slope * x + other_offset / 2)


class Context(nn.Module):
    """A map's means over time and over frequency -> context (B, size) and the map's weights by frequency and by time.

    The weights, (B, channels, F', 1) and (B, channels, 1, T'), have the size of the map after the block's stride.
    """

    def __init__(self, in_channels: int, channels: int, size: int, stride: int) -> None:
        super().__init__()
        joint = nn.Conv2d(in_channels, size, 1, bias=False)
        self.joint = nn.Sequential(joint, _norm(size), nn.Hardswish())
        self.frequency = nn.Conv2d(size, channels, 1)
        self.time = nn.Conv2d(size, channels, 1)
        self.stride = stride
        for conv in (joint, self.frequency, self.time):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = x.shape[2]
        # one sequence, rows then columns, for the batch norm's statistics
        joint = self.joint(torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2))
        by_frequency, by_time = joint[:, :, :rows], joint[:, :, rows:].transpose(2, 3)
        if self.stride > 1:
            by_frequency = F.avg_pool2d(by_frequency, (3, 1), (self.stride, 1), (1, 0))
            by_time = F.avg_pool2d(by_time, (1, 3), (1, self.stride), (0, 1))
        return joint.mean((2, 3)), self.frequency(by_frequency).sigmoid(), self.time(by_time).sigmoid()


class DynamicBlock(nn.Module):
    """An inverted residual block of MobileNetV3 (`settings` are torchvision's), steered by its input's context."""

    def __init__(self, settings: Any, width: float) -> None:
        super().__init__()
        inputs, channels, outputs = settings.input_channels, settings.expanded_channels, settings.out_channels
        low, high = (_make_divisible(bound * width, 8) for bound in _CONTEXT_BOUNDS)
        size = min(max(_make_divisible(channels // _CONTEXT_RATIO, 8), low), high)
        self.context = Context(inputs, channels, size, settings.stride)
        self.expand = None
        if channels != inputs:
            self.expand = DynamicConv(inputs, channels, size)
            self.expand_norm = _norm(channels)
            self.expand_activation = nn.Hardswish() if settings.use_hs else nn.ReLU()
        self.depthwise = DynamicConv(channels, channels, size, settings.kernel, settings.stride)
        self.depthwise_norm = _norm(channels)
        self.depthwise_activation = DynamicRelu(channels, size)
        self.project = DynamicConv(channels, outputs, size)
        self.project_norm = _norm(outputs)
        self.residual = settings.stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        context, by_frequency, by_time = self.context(x)
        y = x
        if self.expand is not None:
            y = self.expand_activation(self.expand_norm(self.expand(y, context)))
        y = self.depthwise_activation(self.depthwise_norm(self.depthwise(y, context)), context)
        y = self.project_norm(self.project(y * by_frequency * by_time, context))
        return x + y if self.residual else y


class DynamicMobileNet(MobileNet):
    """`MobileNet` with dynamic blocks between its first and its last convolution."""

    def __init__(self, width: float, num_classes: int, drop_rate: float = 0.2) -> None:
        super().__init__(width, num_classes, drop_rate)
        blocks = [DynamicBlock(settings, width) for settings in layout(width)[0]]
        self.features = nn.Sequential(self.features[0], *blocks, self.features[-1])


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=0.001, momentum=0.01)


def _initialize(linear: nn.Linear) -> None:
    nn.init.normal_(linear.weight, 0, 0.01)
    nn.init.zeros_(linear.bias)


_CONSTANTS = {"lambdas": [1.0, 1.0, 0.5, 0.5], "init_v": [1.0, 0.0, 0.0, 0.0]}  # Dy-ReLU's, the same in every file
_RENAMES: list[tuple[str, Any]] = [
    (r"^in_c\.", "features.0."),
    (r"^out_c\.", "features.16."),
    (r"^layers\.(\d+)\.", lambda match: f"features.{int(match[1]) + 1}."),
    (r"\.context_gen\.joint_conv\.", ".context.joint.0."),
    (r"\.context_gen\.joint_norm\.", ".context.joint.1."),
    (r"\.context_gen\.conv_f\.", ".context.frequency."),
    (r"\.context_gen\.conv_t\.", ".context.time."),
    (r"\.residuals\.0\.", ".mixture."),
    (r"\.coef_net\.0\.", ".coefficients."),
    (r"\.exp_conv\.", ".expand."),
    (r"\.exp_norm\.", ".expand_norm."),
    (r"\.depth_conv\.", ".depthwise."),
    (r"\.depth_norm\.", ".depthwise_norm."),
    (r"\.depth_act\.", ".depthwise_activation."),
    (r"\.proj_conv\.", ".project."),
    (r"\.proj_norm\.", ".project_norm."),
]


def is_dynamic(state_dict: Mapping[str, Any]) -> bool:
    """If these are the keys of one of EfficientAT's MobileNets with dynamic blocks only and the "mlp" head."""
    return "layers.0.depth_conv.residuals.0.weight" in state_dict and "classifier.5.bias" in state_dict


def convert_dynamic(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EfficientAT's state dict of a dynamic network -> ours. Raises KeyError, ValueError for a damaged one.

    A dynamic convolution's kernels are rows of one matrix there; the norm after it tells the number of its outputs.
    """
    converted = {}
    for key, value in state_dict.items():
        if (constant := _CONSTANTS.get(key.rpartition(".")[2])) is not None:
            if value.tolist() != constant:
                raise ValueError(f"damaged: {key} is not {constant}")
            continue
        if kernels := re.fullmatch(r"(layers\.\d+\.(exp|depth|proj))_conv\.weight", key):
            outputs = len(state_dict[f"{kernels[1]}_norm.weight"])
            value = _kernels(key, value, outputs, depthwise=kernels[2] == "depth")
        key = rename_classifier(key)
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        converted[f"trunk.{key}"] = value
    return converted


def _kernels(key: str, rows: Tensor, outputs: int, depthwise: bool) -> Tensor:
    """(1, 1, 4, numbers of a kernel) -> (4, outputs, inputs, height, width)."""
    inputs, rest = divmod(rows.numel(), _KERNELS * outputs)
    size = round(inputs**0.5) if depthwise else 1
    if rest or rows.shape[:3] != (1, 1, _KERNELS) or (depthwise and size**2 != inputs):
        raise ValueError(f"damaged: {key} of shape {tuple(rows.shape)} for {outputs} channels")
    return rows.reshape(_KERNELS, outputs, inputs // size**2, size, size)


DYNAMIC_MOBILE_NETS = Family(
    title="EfficientAT's dynamic MobileNets",
    names=WIDTHS,
    log_mel=EFFICIENTAT_LOG_MEL,
    minimum_frames=MINIMUM_FRAMES,
    create=lambda name, num_classes, drop_rate: DynamicMobileNet(WIDTHS[name], num_classes, drop_rate),
    is_published=is_dynamic,
    config=partial(config_of_width, WIDTHS),
    convert=convert_dynamic,
    replace_kernels=lambda trunk, **options: [],  # each of its kernels is a mixture: there is no fixed one to replace
)
