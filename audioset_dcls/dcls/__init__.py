"""Dilated Convolution with Learnable Spacings. Needs torch alone, and could be lifted out as a library of its own."""

from audioset_dcls.dcls.benchmark import set_benchmark
from audioset_dcls.dcls.conv import (
    Dcls1d,
    Dcls2_1d,
    Dcls2d,
    Dcls2dK1d,
    Dcls3_1d,
    Dcls3_2d,
    Dcls3d,
    DclsNd,
    DepthwiseConv2d,
    dcls_layers,
)
from audioset_dcls.dcls.convert import convert_dcls
from audioset_dcls.dcls.delays import narrow_delays, round_delays, spread_delays, synaptic_delays
from audioset_dcls.dcls.depthwise import depthwise_conv2d
from audioset_dcls.dcls.folding import Folded, fold, match_kernel_sizes
from audioset_dcls.dcls.kernel import construct_kernel
from audioset_dcls.dcls.replace import NothingReplacedError, Replacement, replace_convolutions, replace_depthwise

__all__ = [
    "Dcls1d",
    "Dcls2_1d",
    "Dcls2d",
    "Dcls2dK1d",
    "Dcls3_1d",
    "Dcls3_2d",
    "Dcls3d",
    "DclsNd",
    "DepthwiseConv2d",
    "Folded",
    "NothingReplacedError",
    "Replacement",
    "construct_kernel",
    "convert_dcls",
    "dcls_layers",
    "depthwise_conv2d",
    "fold",
    "match_kernel_sizes",
    "narrow_delays",
    "replace_convolutions",
    "replace_depthwise",
    "round_delays",
    "set_benchmark",
    "spread_delays",
    "synaptic_delays",
]
