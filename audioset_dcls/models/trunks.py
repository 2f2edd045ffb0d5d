"""Trunks made into audio taggers: a stem on spectrogram patches, DCLS convolutions, a score per class; for images."""

from __future__ import annotations

import difflib
import json
import pickle
import re
import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, overload

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, ModelHubMixin
from timm.models.convnext import ConvNeXt
from timm.models.fastvit import ConvMlp, FastVit, MobileOneBlock, ReparamLargeKernelConv, RepConditionalPosEnc, RepMixer
from timm.models.metaformer import LayerNorm2dNoBias, MetaFormer, MlpHead, SepConv
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from audioset_dcls.dcls import NothingReplacedError, Replacement, dcls_layers, replace_convolutions, replace_depthwise
from audioset_dcls.dcls.kernel import Interpolation
from audioset_dcls.models.card import model_card
from audioset_dcls.models.classifier import Classifier, FeatureMaps, ImageClassifier
from audioset_dcls.models.dynamic_mobilenet import DYNAMIC_MOBILE_NETS
from audioset_dcls.models.efficientat import MOBILE_NETS
from audioset_dcls.models.family import Family, load_published
from audioset_dcls.models.hugging_face import PREFIX, WEIGHTS_FILE
from preprocessing import checks
from preprocessing.constants import LogMelSettings
from preprocessing.files import atomic_write
from preprocessing.labels import labels

NUM_CLASSES = 527  # AudioSet
IMAGENET_CLASSES = 1000
PATCH = (2, 16)  # mel bands x frames seen by one cell of the first map: 128 x 1001 -> 64 x 62

FAMILIES = {  # module of timm -> names to show a user who asks for another
    "timm.models.convnext": "convnext_*, convnextv2_*",
    "timm.models.metaformer": "convformer_*, caformer_*, poolformer*",
    "timm.models.fastvit": "fastvit_*",
}
IMAGE_FAMILIES = {"timm.models.resnet": "resnet*"}  # for images alone
OWN_FAMILIES = (MOBILE_NETS, DYNAMIC_MOBILE_NETS)  # networks that timm does not have


def _own_family(name: Any) -> Family | None:
    return next((family for family in OWN_FAMILIES if isinstance(name, str) and name in family.names), None)


def _check_name(name: Any, key: str, families: Mapping[str, str] = FAMILIES | IMAGE_FAMILIES) -> None:
    """Raise ValueError for what is no model of these families in timm's own registry, a hub's address for example."""
    architecture = name.split(".")[0] if isinstance(name, str) and re.fullmatch(r"\w{1,64}(\.\w{1,64})?", name) else ""
    known = [model for family in families for model in timm.list_models(module=family.rsplit(".", 1)[1])]
    if architecture not in known and _own_family(name) is None:
        own = [name for family in OWN_FAMILIES for name in family.names]
        names = "; ".join([*families.values(), *(", ".join(family.names) for family in OWN_FAMILIES)])
        if timm.is_model(architecture):
            raise ValueError(
                f"{name}: timm has it, but its family has no stem for spectrograms; known are {names}. For DCLS "
                "in a model of another kind see replace_depthwise"
            )
        close = difflib.get_close_matches(architecture, [*known, *own], n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f"{reprlib.repr(name)} is no trunk; known are {names}{hint}")


# Option of `create_model` that a checkpoint stores -> check of its value. Nothing else may come from a file: timm would
# load weights from, and write to, places that its other options name.
CONFIG_CHECKS: dict[str, Callable[[Any, str], object]] = {
    "name": _check_name,
    "input": partial(checks.choice, known=("log_mel", "image")),
    "dcls": checks.flag,
    "num_classes": partial(checks.integer, low=1, high=checks.MOST_CLASSES),
    "drop_path_rate": partial(checks.number, low=0, high=0.99),
    "kernel_count": partial(checks.integer, low=1, high=4096),
    "dilated_kernel_size": partial(checks.integer, low=1, high=127),  # beyond, it would reach past the 64 mel rows
    "interpolation": partial(checks.choice, known=get_args(Interpolation)),
    "share_positions": checks.flag,
    "position_std": partial(checks.number, low=0, high=100),
    "drop_rate": partial(checks.number, low=0, high=0.99),
    "depths": partial(checks.integers, count=4, low=1, high=128),
    "dims": partial(checks.integers, count=4, low=1, high=8192),
    "layers": partial(checks.integers, count=4, low=1, high=128),
    "embed_dims": partial(checks.integers, count=4, low=1, high=8192),
    "ls_init_value": partial(checks.number, low=0, high=100),
    "kernel_sizes": partial(checks.integer, low=1, high=127),
    "conv_mlp": checks.flag,
    "norm_layer": partial(checks.choice, known=("batchnorm2d", "layernorm2d")),
    "act_layer": partial(checks.choice, known=("gelu", "relu")),
    "log_mel": lambda value, name: LogMelSettings.from_dict(value),
}
_TIMM_OPTIONS = {
    *("depths", "dims", "layers", "embed_dims", "ls_init_value", "kernel_sizes", "conv_mlp", "norm_layer", "act_layer"),
}


class AudioTagger(Classifier, ModelHubMixin):
    """A trunk on normalised log-mel spectrograms: (B, 1, 128, frames) -> (B, num_classes) logits.

    Any number of frames works. Clips shorter than the trunk's overall stride are continued with silence, as training
    does with short clips, so that no map vanishes; EfficientAT's, to 5 s.

    Attributes: those of `Classifier`, `labels` being AudioSet's display names if there are 527 classes; and
    `log_mel_settings`, for `LogMel`.

    `push_to_hub("owner/name")` and `save_pretrained(folder)` write `model.safetensors`, a checkpoint, `config.json` and
    a model card; `dcls-export --push` adds the ONNX file.
    """

    def __init__(self, trunk: Any, config: dict[str, Any]) -> None:
        super().__init__(trunk, config)
        self.labels = _audioset_labels(config["num_classes"])
        self.log_mel_settings = LogMelSettings.from_dict(config.get("log_mel"))
        if family := _own_family(config["name"]):
            self.minimum_frames = family.minimum_frames
        else:  # ConvNeXt's three unpadded 2 x 2 downsamplings need 8 columns, the other families' padded ones need 1
            self.minimum_frames = PATCH[1] * (8 if isinstance(trunk, ConvNeXt) else 1)

    @property
    def classifier(self) -> nn.Linear:
        """The layer that makes the logits."""
        linear = (module for module in self.trunk.modules() if isinstance(module, nn.Linear))
        return [layer for layer in linear if layer.out_features == self.config["num_classes"]][-1]

    def prepare(self, input: Tensor) -> Tensor:
        """(B, 1, 128, frames), short clips continued with silence."""
        if input.ndim != 4 or input.shape[1] != 1:
            raise ValueError(f"expected a log-mel of shape (batch, 1, 128, frames), got {tuple(input.shape)}")
        missing = self.minimum_frames - input.shape[-1]
        return F.pad(input, (0, missing), value=self.log_mel_settings.silence) if missing > 0 else input

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, **_: Any
    ) -> AudioTagger:
        """A tagger from a folder of `save_pretrained`, or from "owner/name" on the Hub: what `load_checkpoint` gives.

        Args:
            revision: a branch, a tag or, to pin what is used, a commit.

        The weights' file says all that is needed: config.json, which a stranger may have written, is not read.
        """
        from audioset_dcls.models import load_checkpoint  # it builds taggers with what is here

        if (folder := Path(pretrained_model_name_or_path)).is_dir():
            return load_checkpoint(folder / WEIGHTS_FILE)
        at = f"@{revision}" if revision else ""
        return load_checkpoint(f"{PREFIX}{pretrained_model_name_or_path}{at}")

    def _save_pretrained(self, save_directory: Path) -> None:
        """What the Hub's mixin asks for: weights, and a config.json for people and the Hub's own pages."""
        from audioset_dcls.models import checkpoint_header, save_checkpoint

        save_checkpoint(save_directory / WEIGHTS_FILE, self)
        with atomic_write(save_directory / "config.json") as unfinished:
            unfinished.write_text(json.dumps(checkpoint_header(self), indent=1, ensure_ascii=False), encoding="utf-8")

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload weights, config.json and a model card; the commit's address. options: of huggingface_hub's mixin."""
        return str(super().push_to_hub(repo_id, **{"model_card_kwargs": {"repository": repo_id}, **options}))

    def generate_model_card(self, *_: Any, repository: str = "OWNER/NAME", **__: Any) -> ModelCard:
        """The card that `push_to_hub` writes, with `repository` in its examples."""
        return model_card(self.config, self.metadata, repository)

    def reset_classifier(self, num_classes: int, labels: tuple[str, ...] | None = None) -> None:
        """A new, untrained classifier for `num_classes` classes, to train the same features on other labels."""
        self.trunk.reset_classifier(num_classes)
        _match_published_norm(self.trunk)
        self.config["num_classes"] = num_classes
        self.labels = labels or _audioset_labels(num_classes)


@overload
def create_model(name: str, *, features_only: Literal[True], **options: Any) -> FeatureMaps: ...
@overload
def create_model(name: str, *, input: Literal["image"], **options: Any) -> ImageClassifier: ...
@overload
def create_model(name: str, dcls: bool = True, num_classes: int = NUM_CLASSES, **options: Any) -> AudioTagger: ...
def create_model(
    name: str,
    dcls: bool = True,
    num_classes: int | None = None,
    drop_path_rate: float = 0.0,
    pretrained: bool | str = False,
    kernel_count: int | None = None,
    dilated_kernel_size: int | None = None,
    interpolation: Interpolation | None = None,
    share_positions: bool = True,
    position_std: float = 0.5,
    input: Literal["log_mel", "image"] = "log_mel",
    features_only: bool = False,
    **trunk_options: Any,
) -> Classifier | FeatureMaps:
    """An audio tagger: (B, 1, 128, frames) normalised log-mel -> (B, num_classes) logits; or a model on images.

    Args:
        name: "convnext_tiny", "convformer_s18", "fastvit_sa24" (the paper's three), any other ConvNeXt, MetaFormer or
            FastViT of timm, e.g. "convnext_atto" to try something out, or "efficientat_mn04" (mn01 to mn40) or
            "efficientat_dymn04" (dymn04, dymn10, dymn20), whose log-mel spectrogram is another one. For images also
            "resnet50" and other ResNets.
        dcls: replace the 7 x 7 depthwise convolutions by DCLS ones of `kernel_count` elements that move in
            `dilated_kernel_size`² cells; False gives the paper's baseline. EfficientAT's 3 x 3 and 5 x 5 kernels get at
            most as many elements as they have cells; its dynamic networks have no fixed kernels and need False. Of a
            ResNet the 3 x 3 convolutions are replaced, dense and strided ones too.
        num_classes: 527 by default, AudioSet's; 1000 for images, ImageNet's.
        pretrained: True starts from timm's ImageNet weights (downloaded by timm), a path from such a file. For audio
            the stem and the classifier start anew. EfficientAT starts from its AudioSet weights (downloaded from its
            authors' release), and the classifier of 527 classes stays. DCLS elements are fitted to the trained kernels.
        kernel_count, dilated_kernel_size, interpolation: 26, 23 and "gauss" by default, as in 2306.00817 and
            2309.13972; 5, 7 and "bilinear" for a ResNet. 2112.03740's ConvNeXts have "bilinear" and 17, with 34 (tiny)
            or 40 (small, base) elements.
        share_positions: one set of positions and standard deviations for all layers with the same number of channels.
        position_std: how far, in cells, positions start from the kernel's centre.
        input: "image" makes an `ImageClassifier`: (B, 3, height, width) -> logits, with timm's own stem.
        features_only: makes `FeatureMaps`: the maps of the four stages, without a head, for detection or segmentation.
        trunk_options: go to `timm.create_model`: `drop_rate` for dropout before the classifier; other sizes, `depths`
            and `dims` of a ConvNeXt or ConvFormer, `layers` and `embed_dims` of a FastViT (four each); `ls_init_value`,
            `kernel_sizes` (one number), `conv_mlp`, `norm_layer` and `act_layer` of a ConvNeXt. No others, so that a
            checkpoint can do no more than name sizes. EfficientAT takes `drop_rate` alone.

    Raises ValueError for a name without a known stem, an option that is unknown or out of bounds (see
    `check_config`), or dcls=True on a trunk without convolutions to replace, and RuntimeError if timm has no
    ImageNet weights, or cannot fetch or read them.

    >>> create_model("convnext_atto")(torch.zeros(2, 1, 128, 1001)).shape
    torch.Size([2, 527])
    >>> create_model("convnext_atto", input="image", num_classes=10)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    >>> [tuple(m.shape) for m in create_model("convnext_atto", features_only=True)(torch.zeros(2, 1, 128, 1001))]
    [(2, 40, 64, 62), (2, 80, 32, 31), (2, 160, 16, 15), (2, 320, 8, 7)]
    """
    image, resnet = input == "image", isinstance(name, str) and name.startswith("resnet")
    if num_classes is None:
        num_classes = IMAGENET_CLASSES if image else NUM_CLASSES
    config = {
        "name": name,
        "dcls": dcls,
        "num_classes": num_classes,
        "drop_path_rate": drop_path_rate,
        "kernel_count": (5 if resnet else 26) if kernel_count is None else kernel_count,
        "dilated_kernel_size": (7 if resnet else 23) if dilated_kernel_size is None else dilated_kernel_size,
        "interpolation": ("bilinear" if resnet else "gauss") if interpolation is None else interpolation,
        "share_positions": share_positions,
        "position_std": position_std,
        **({"input": input} if input != "log_mel" else {}),  # headers of audio checkpoints have no such entry
        **trunk_options,
    }
    check_config(config)
    if image and _own_family(name):
        raise ValueError(f"{name} is a network on log-mel spectrograms; it has no form for images")
    model = (
        _image_classifier(config, pretrained, trunk_options) if image else _tagger(config, pretrained, trunk_options)
    )
    return FeatureMaps(model) if features_only else model


def _image_classifier(config: dict[str, Any], pretrained: bool | str, options: dict[str, Any]) -> ImageClassifier:
    trunk = _timm_trunk(config["name"], pretrained, **_head(config), **options)
    _match_published_norm(trunk)
    _replace_or_raise(trunk, config, bool(pretrained))
    return ImageClassifier(trunk, config)


def _tagger(config: dict[str, Any], pretrained: bool | str, options: dict[str, Any]) -> AudioTagger:
    _check_name(config["name"], "name", FAMILIES)
    if family := _own_family(config["name"]):
        return _own(family, config, pretrained)
    trunk = _timm_trunk(config["name"], pretrained, **_head(config), **options)
    _replace_stem(trunk)
    _match_published_norm(trunk)
    _replace_or_raise(trunk, config, bool(pretrained))
    return AudioTagger(trunk, config)


def _head(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in ("num_classes", "drop_path_rate")}


def _replace_or_raise(trunk: nn.Module, config: Mapping[str, Any], warm_start: bool) -> None:
    if config["dcls"] and not replace_kernels(trunk, config, warm_start):
        raise ValueError(f"{config['name']} has no 7 x 7 depthwise convolutions for DCLS to replace; pass dcls=False")


def _own(family: Family, config: dict[str, Any], pretrained: bool | str) -> AudioTagger:
    name = config["name"]
    if unknown := config.keys() & _TIMM_OPTIONS:
        raise ValueError(f"{name} takes no {', '.join(sorted(unknown))}")
    config = {"log_mel": family.log_mel.to_dict()} | config
    trunk = family.create(name, config["num_classes"], config.get("drop_rate", 0.2))
    knows_classes = False
    if pretrained:
        knows_classes = load_published(trunk, family, pretrained if isinstance(pretrained, str) else name)
    if config["dcls"] and not replace_kernels(trunk, config, warm_start=bool(pretrained)):
        raise ValueError(f"{name} has no depthwise convolutions for DCLS to replace; pass dcls=False")
    model = AudioTagger(trunk, config)
    if knows_classes:
        model.metadata["starts_from"] = name
    return model


def replace_kernels(trunk: nn.Module, config: Mapping[str, Any], warm_start: bool) -> list[Replacement]:
    """DCLS elements in place of a trunk's 7 x 7 depthwise kernels, EfficientAT's 3 x 3 and 5 x 5, a ResNet's 3 x 3.

    Args:
        config: the arguments of `create_model`.
        warm_start: fit the elements to the kernels that are there.

    Returns what was replaced; nothing if there is no such kernel.
    """
    options: dict[str, Any] = {
        "kernel_count": config["kernel_count"],
        "dilated_kernel_size": config["dilated_kernel_size"],
        "interpolation": config["interpolation"],
        "share": config["share_positions"],
        "position_std": config["position_std"],
    }
    try:
        if family := _own_family(config["name"]):
            return family.replace_kernels(trunk, warm_start=warm_start, **options)
        replace = replace_convolutions if isinstance(trunk, ResNet) else replace_depthwise
        return replace(trunk, warm_start=warm_start, **options)
    except NothingReplacedError:
        return []


def check_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError for an option of `create_model` that is none of CONFIG_CHECKS or has a value out of bounds."""
    for key, value in config.items():
        if key not in CONFIG_CHECKS:
            raise ValueError(f"{reprlib.repr(key)} is no option of a model; known are {', '.join(CONFIG_CHECKS)}")
        CONFIG_CHECKS[key](value, key)


def _audioset_labels(num_classes: int) -> tuple[str, ...] | None:
    return tuple(label.display_name for label in labels()) if num_classes == NUM_CLASSES else None


def _timm_trunk(name: str, pretrained: bool | str, **kwargs: Any) -> Any:
    if name.startswith("convformer") and kwargs.keys() & {"depths", "dims"} and not pretrained:
        return MetaFormer(token_mixers=SepConv, norm_layers=LayerNorm2dNoBias, **kwargs)  # timm's takes no other sizes
    if isinstance(pretrained, str):
        kwargs["pretrained_cfg_overlay"] = {"file": pretrained}
    try:
        return timm.create_model(name, pretrained=bool(pretrained), **kwargs)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        if not pretrained:
            raise
        where = pretrained if isinstance(pretrained, str) else "downloaded by timm"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RuntimeError(f"ImageNet weights of {name} ({where}): {reason}") from error


def _replace_stem(trunk: Any) -> None:
    """Put a (2, 16) stride (2, 16) convolution on one channel in place of the stem's; its norm, if any, stays.

    As DCLS-Audio does: ConvNeXt keeps its LayerNorm, ConvFormer its LayerNorm without bias, and FastViT, whose stem is
    three blocks with batch norms inside, becomes the bare convolution. Only ConvNeXt's convolution has a bias.
    """
    first = next(module for module in trunk.stem.modules() if isinstance(module, nn.Conv2d))
    channels = [module for module in trunk.stem.modules() if isinstance(module, nn.Conv2d)][-1].out_channels
    conv = nn.Conv2d(1, channels, PATCH, PATCH, bias=isinstance(trunk, ConvNeXt))
    nn.init.trunc_normal_(conv.weight, std=0.02)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    conv = conv.to(first.weight)
    if isinstance(trunk, ConvNeXt):
        trunk.stem = nn.Sequential(conv, trunk.stem[-1])  # drops the other convolutions of overlapping stems
    elif isinstance(trunk, MetaFormer):
        trunk.stem.conv = conv
    else:
        trunk.stem = conv
    trunk.in_chans = 1


def _match_published_norm(trunk: Any) -> None:
    """ConvFormer's classifier was trained with torch's default epsilon, 1e-5, by its authors and by DCLS-Audio."""
    if isinstance(trunk, MetaFormer) and isinstance(trunk.head.fc, MlpHead):
        norm: Any = trunk.head.fc.norm
        norm.eps = 1e-5


Model = TypeVar("Model", bound=Classifier)


@torch.no_grad()
def reparameterize(model: Model) -> Model:
    """Merge, in place, a folded FastViT's training-time branches and batch norms: same output in eval mode, faster.

    Other trunks have no such branches and are returned as they are. Raises ValueError if DCLS layers are left: their
    kernels must be built first, by `fold`.
    """
    if any(True for _ in dcls_layers(model)):
        raise ValueError("the model still has DCLS layers: fold(model) before reparameterize(model)")
    if not isinstance(model.trunk, FastVit):
        return model
    for module in list(model.modules()):
        if isinstance(module, ConvMlp) and not isinstance(module.conv.bn, nn.Identity):
            module.conv.conv = fuse_conv_bn_eval(module.conv.conv.eval(), module.conv.bn.eval())
            module.conv.bn = nn.Identity()
        elif isinstance(module, RepConditionalPosEnc) and module.reparam_conv is None:
            _merge_residual(module)
        elif isinstance(module, RepMixer | MobileOneBlock | ReparamLargeKernelConv) and module.reparam_conv is None:
            module.reparameterize()
    return model


def _merge_residual(encoding: RepConditionalPosEnc) -> None:
    """conv(x) + x as one convolution. timm's own method knows only the 7 x 7 kernel that folding replaced."""
    conv = encoding.pos_enc
    centre = [(size - 1) // 2 for size in conv.kernel_size] if isinstance(conv.padding, str) else conv.padding
    conv.weight[:, 0, centre[0], centre[1]] += 1
    encoding.reparam_conv = conv
    del encoding.pos_enc
