"""What models on any input share; models on images; the maps of a model's stages."""

from __future__ import annotations

from typing import Any

from timm.models._features import FeatureGetterNet
from torch import Tensor, nn


class Classifier(nn.Module):
    """A trunk of timm, or one like it, with its head.

    Attributes: `trunk`; `config`, the arguments of `create_model` that rebuild this one; `num_features`, the width of
    `embed`; `labels`, the names of the classes, or None; `metadata`, what its checkpoint carried.
    """

    def __init__(self, trunk: Any, config: dict[str, Any]) -> None:
        super().__init__()
        self.trunk: Any = trunk  # timm's models have no common type with the methods used here
        self.config = config
        self.labels: tuple[str, ...] | None = None
        self.metadata: dict[str, Any] = {}

    @property
    def num_features(self) -> int:
        return self.trunk.head_hidden_size

    @property
    def num_classes(self) -> int:
        return int(self.config["num_classes"])

    def get_classifier(self) -> nn.Module:
        """timm's name for what maps the pooled features to logits."""
        module: nn.Module = self.trunk.get_classifier()
        return module

    def prepare(self, input: Tensor) -> Tensor:
        """The input as the trunk takes it. Raises ValueError for another shape."""
        raise NotImplementedError

    def forward_features(self, input: Tensor) -> Tensor:
        """The last map, (B, channels, height, width)."""
        output: Tensor = self.trunk.forward_features(self.prepare(input))
        return output

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map -> logits (B, num_classes), or the pooled features (B, num_features)."""
        output: Tensor = self.trunk.forward_head(features, pre_logits=pre_logits)
        return output

    def embed(self, input: Tensor) -> Tensor:
        """(B, num_features): what the classifier sees, pooled."""
        return self.forward_head(self.forward_features(input), pre_logits=True)

    def forward(self, input: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(input))


class ImageClassifier(Classifier):
    """A trunk on normalised images: (B, 3, height, width) -> (B, num_classes) logits."""

    def prepare(self, input: Tensor) -> Tensor:
        if input.ndim != 4 or input.shape[1] != 3:
            raise ValueError(f"expected images of shape (batch, 3, height, width), got {tuple(input.shape)}")
        return input


class FeatureMaps(nn.Module):
    """A trunk without its head: an input -> the maps of its four stages, the largest first, as a detector takes them.

    Attributes: `channels` of each map.

    Raises ValueError for a trunk without stages, EfficientAT's.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        if not hasattr(model.trunk, "forward_intermediates"):
            raise ValueError(f"{model.config['name']} gives no features of its stages")
        self._prepare = model.prepare
        self.stages = FeatureGetterNet(model.trunk, out_indices=4)
        self.channels: list[int] = self.stages.feature_info.channels()

    def forward(self, input: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.stages(self._prepare(input))
        return maps
