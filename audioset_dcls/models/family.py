"""What a family of networks brings to be audio taggers by name. docs/models.md shows how to add one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from audioset_dcls.dcls import Replacement
from audioset_dcls.models.formats import CheckpointError
from audioset_dcls.models.hub import locate
from audioset_dcls.models.weights import check_tensors, read_weights
from preprocessing.constants import LogMelSettings
from preprocessing.terminal import first_line


@dataclass(frozen=True)
class Family:
    """Networks of one kind: how they are made, and how their authors' files are read.

    `names` are those of `create_model`. `create(name, num_classes, drop_rate)` makes a network on (B, 1, 128, frames)
    with the methods of timm's models that `AudioTagger` uses: `forward_features`, `forward_head`, `get_classifier`,
    `reset_classifier`, and the attributes `num_classes` and `head_hidden_size`.

    The functions on state dicts are pure: `is_published` tells these authors' keys from others', `config` gives the
    arguments of `create_model` (KeyError, ValueError for what was not published), `convert` the state dict of the
    tagger that these make, every key with "trunk." in front.
    """

    title: str
    """Whose networks, for errors."""
    names: Collection[str]
    log_mel: LogMelSettings
    minimum_frames: int
    """Shorter clips are continued with silence."""
    create: Callable[[str, int, float], nn.Module]
    is_published: Callable[[Mapping[str, Any]], bool]
    config: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    replace_kernels: Callable[..., list[Replacement]]
    """DCLS in place of a network's depthwise kernels; an empty list if it has none that are fixed."""


def load_published(trunk: nn.Module, family: Family, source: str) -> bool:
    """Load the authors' weights, a file or a published name; if the number of classes differs, all but the last layer.

    Returns if the classifier's weights were loaded. Raises OSError, and CheckpointError for another file.
    """
    path = locate(source)
    content = read_weights(path)
    if not family.is_published(content):
        raise CheckpointError(f"{path}: not one of {family.title}, as their authors publish them")
    try:
        check_tensors(content)
        classes = family.config(content)["num_classes"]
        weights = {key.removeprefix("trunk."): value for key, value in family.convert(content).items()}
        if classes != trunk.num_classes:
            own = trunk.state_dict()
            new = [key for key in own if own[key].shape != weights[key].shape and len(weights[key]) == classes]
            weights |= {key: own[key] for key in new}
        trunk.load_state_dict(weights)
    except KeyError as error:
        raise CheckpointError(f"{path}: damaged: it has no entry {error}") from error
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {first_line(error)}") from error
    return bool(classes == trunk.num_classes)
