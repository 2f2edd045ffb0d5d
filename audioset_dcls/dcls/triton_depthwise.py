"""Large depthwise convolutions in Triton: forward, input gradient and weight gradient as matrix products.

A row of the output is a sum over the kernel's rows of a row of the input times a banded Toeplitz matrix,

    y[o, :] = sum_i  x[o + i - pad, :] T_i,      T_i[a, b] = k[i, a - b + pad]

so the rows of a whole batch, of one channel, go through one matrix product for each row of the kernel: three times the
multiplications of the direct convolution for 23 taps on 62 cells, on tensor cores. T_i is read from the kernel's row,
which stays in the L1 cache, as the input's rows do from one kernel row to the next. The input's gradient is the same
with the kernel turned round. The weight gradient is the transpose, P_i = x_i^T g, summed along its diagonals.

A map wider than a block is cut into blocks of output cells, each with a window of the input. Everything is accumulated
in float32. None of it has run on a GPU: it is tested in Triton's interpreter.

This module imports triton: only `candidates.py` imports it, when a CUDA tensor comes or the interpreter is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = triton.knobs.runtime.interpret
_WIDEST = 64  # output cells of a block; accumulators of more do not fit the registers


# The interpreter of Triton 3.6 keeps bfloat16 as integers and multiplies those; float32 holds the same products.
_IN_FLOAT32 = tl.constexpr(INTERPRETED)


@triton.jit
def _add_product(a, b, to, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    if _IN_FLOAT32:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, to, input_precision=PRECISION)


@triton.jit
def _correlate(  # type: ignore[no-untyped-def]
    x,
    k,
    y,
    rows,
    channels,
    height,
    width,
    out_height,
    out_width,
    pad_height,
    pad_width,
    KH: tl.constexpr,  # noqa: N803
    KW: tl.constexpr,  # noqa: N803
    FLIP: tl.constexpr,  # noqa: N803
    WINDOWED: tl.constexpr,  # noqa: N803
    IN: tl.constexpr,  # noqa: N803
    OUT: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
):
    """Rows (clip, output row) of one channel and OUT cells of each: sum over kernel rows of x rows times T_i."""
    channel = tl.program_id(1)
    first_out = tl.program_id(2) * OUT
    first_in = first_out - pad_width if WINDOWED else 0
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    clip, out_row = row // out_height, row % out_height
    in_cell = first_in + tl.arange(0, IN)
    out_cell = first_out + tl.arange(0, OUT)
    tap = in_cell[:, None] - out_cell[None, :] + pad_width
    in_band = (tap >= 0) & (tap < KW)
    in_map = (in_cell >= 0) & (in_cell < width)
    base = (clip.to(tl.int64) * channels + channel) * height * width
    product = tl.zeros((ROWS, OUT), tl.float32)
    for i in range(KH):
        in_row = out_row + i - pad_height
        is_row = (row < rows) & (in_row >= 0) & (in_row < height)
        cells = tl.load(
            x + base[:, None] + in_row[:, None] * width + in_cell[None, :],
            mask=is_row[:, None] & in_map[None, :],
            other=0.0,
        )
        offset = (KH - 1 - i) * KW + (KW - 1 - tap) if FLIP else i * KW + tap
        toeplitz = tl.load(k + channel * (KH * KW) + offset, mask=in_band, other=0.0)
        product = _add_product(cells, toeplitz, product, PRECISION)
    target = (clip.to(tl.int64) * channels + channel) * out_height * out_width + out_row * out_width
    tl.store(
        y + target[:, None] + out_cell[None, :],
        product.to(y.dtype.element_ty),
        mask=(row < rows)[:, None] & (out_cell < out_width)[None, :],
    )


@triton.jit
def kernel_rows_gradient(  # type: ignore[no-untyped-def]
    x,
    g,
    channel,
    first_kernel_row,
    channels,
    height,
    width,
    out_height,
    pad_height,
    pad_width,
    ROW_COUNT: tl.constexpr,  # noqa: N803
    OUT_WIDTH: tl.constexpr,  # noqa: N803
    KH: tl.constexpr,  # noqa: N803
    KW: tl.constexpr,  # noqa: N803
    KW_PADDED: tl.constexpr,  # noqa: N803
    WINDOWED: tl.constexpr,  # noqa: N803
    IN: tl.constexpr,  # noqa: N803
    OUT: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    KERNEL_ROWS: tl.constexpr,  # noqa: N803
):
    """(KERNEL_ROWS, KW_PADDED) of one channel's weight gradient, zeros beyond the kernel."""
    stacked = tl.arange(0, KERNEL_ROWS * IN)
    kernel_row = first_kernel_row + stacked // IN
    local_in = stacked % IN
    local_out = tl.arange(0, OUT)
    product = tl.zeros((KERNEL_ROWS * IN, OUT), tl.float32)
    for first_out in range(0, OUT_WIDTH, OUT):
        in_cell = local_in + (first_out - pad_width if WINDOWED else 0)
        out_cell = first_out + local_out
        in_map = (in_cell >= 0) & (in_cell < width) & (kernel_row < KH)
        for first in range(0, ROW_COUNT, ROWS):
            row = first + tl.arange(0, ROWS)
            clip, out_row = row // out_height, row % out_height
            plane = clip.to(tl.int64) * channels + channel
            in_row = out_row[None, :] + kernel_row[:, None] - pad_height
            cells = tl.load(
                x + (plane * height * width)[None, :] + in_row * width + in_cell[:, None],
                mask=(row < ROW_COUNT)[None, :] & (in_row >= 0) & (in_row < height) & in_map[:, None],
                other=0.0,
            )
            gradient = tl.load(
                g + (plane * out_height * OUT_WIDTH + out_row * OUT_WIDTH)[:, None] + out_cell[None, :],
                mask=(row < ROW_COUNT)[:, None] & (out_cell < OUT_WIDTH)[None, :],
                other=0.0,
            )
            product = _add_product(cells, gradient.to(cells.dtype), product, PRECISION)
    # windows start `pad` cells before their block, so that tap = in - out there
    tap = local_in[:, None] - local_out[None, :] + (0 if WINDOWED else pad_width)
    column = tl.arange(0, KW_PADDED)
    taps = tl.zeros((KERNEL_ROWS, KW_PADDED), tl.float32)
    for j in range(KW):
        diagonal = tl.sum(tl.where(tap == j, product, 0.0), axis=1)
        of_row = tl.sum(tl.reshape(diagonal, (KERNEL_ROWS, IN)), axis=1)
        taps = tl.where(column[None, :] == j, of_row[:, None], taps)
    return taps


@triton.jit
def _weight_gradient(  # type: ignore[no-untyped-def]
    x,
    g,
    grad_k,
    channels,
    height,
    width,
    out_height,
    pad_height,
    pad_width,
    ROW_COUNT: tl.constexpr,  # noqa: N803
    OUT_WIDTH: tl.constexpr,  # noqa: N803
    KH: tl.constexpr,  # noqa: N803
    KW: tl.constexpr,  # noqa: N803
    KW_PADDED: tl.constexpr,  # noqa: N803
    WINDOWED: tl.constexpr,  # noqa: N803
    IN: tl.constexpr,  # noqa: N803
    OUT: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    KERNEL_ROWS: tl.constexpr,  # noqa: N803
):
    """KERNEL_ROWS rows of one channel's kernel; no two programs write the same, so the sums are in a fixed order."""
    channel = tl.program_id(1)
    first = tl.program_id(0) * KERNEL_ROWS
    taps = kernel_rows_gradient(
        x, g, channel, first, channels, height, width, out_height, pad_height, pad_width, ROW_COUNT, OUT_WIDTH, KH, KW,
        KW_PADDED, WINDOWED, IN, OUT, PRECISION, ROWS, KERNEL_ROWS,
    )  # fmt: skip
    i = first + tl.arange(0, KERNEL_ROWS)
    j = tl.arange(0, KW_PADDED)
    mask = (i < KH)[:, None] & (j < KW)[None, :]
    tl.store(grad_k + channel * (KH * KW) + i[:, None] * KW + j[None, :], taps, mask=mask)


def tuned(kernel: Any, configs: list[dict[str, int]], reset: Sequence[str] = ()) -> Any:
    """The kernel with its block sizes chosen by timing; in the interpreter the first ones.

    Args:
        reset: arguments of which not all sizes write the same part; they are zeroed between two.
    """
    if INTERPRETED:
        return _WithBlocks(kernel, {name: size for name, size in configs[0].items() if name.isupper()})
    options = [
        triton.Config(
            {name: size for name, size in config.items() if name.isupper()},
            num_warps=config["num_warps"],
            num_stages=config["num_stages"],
        )
        for config in configs
    ]
    key = ["channels", "height", "width", "KH", "KW"]
    return triton.autotune(options, key=key, reset_to_zero=list(reset) or None)(kernel)


class _WithBlocks:
    def __init__(self, kernel: Any, blocks: dict[str, int]) -> None:
        self.kernel, self.blocks = kernel, blocks

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: self.kernel[lambda meta: grid(meta | self.blocks)](
            *args, **kwargs, **self.blocks
        )


_CORRELATE = tuned(
    _correlate,
    [
        {"ROWS": 64, "num_warps": 4, "num_stages": 2},
        {"ROWS": 128, "num_warps": 4, "num_stages": 2},
        {"ROWS": 128, "num_warps": 8, "num_stages": 3},
        {"ROWS": 256, "num_warps": 8, "num_stages": 2},
    ],
)
WEIGHT_BLOCKS = [
    {"ROWS": 64, "KERNEL_ROWS": 2, "num_warps": 4, "num_stages": 2},
    {"ROWS": 64, "KERNEL_ROWS": 1, "num_warps": 4, "num_stages": 3},
    {"ROWS": 64, "KERNEL_ROWS": 4, "num_warps": 8, "num_stages": 2},
    {"ROWS": 128, "KERNEL_ROWS": 2, "num_warps": 8, "num_stages": 2},
]
_WEIGHT_GRADIENT = tuned(_weight_gradient, WEIGHT_BLOCKS)


def correlate(input: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    """`F.conv2d(input, weight, padding=padding, groups=channels)`, in the input's dtype, contiguous."""
    out_size = [n + 2 * p - k + 1 for n, p, k in zip(input.shape[2:], padding, weight.shape[2:], strict=True)]
    return _run(input, weight, (out_size[0], out_size[1]), padding, flip=False)


def input_gradient(grad: Tensor, weight: Tensor, size: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Of an input (batch, channels, *size), from the output's gradient: the kernel turned round."""
    back = (weight.shape[2] - 1 - padding[0], weight.shape[3] - 1 - padding[1])
    return _run(grad, weight, size, back, flip=True)


def weight_gradient(grad: Tensor, input: Tensor, kernel: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """(channels, 1, *kernel) in float32."""
    x, g = input.contiguous(), grad.contiguous()
    gradient = x.new_empty(x.shape[1], 1, *kernel, dtype=torch.float32)
    _WEIGHT_GRADIENT[lambda meta: (triton.cdiv(kernel[0], meta["KERNEL_ROWS"]), x.shape[1])](
        x, g, gradient, *weight_sizes(x, g, padding), **weight_constants(x, g, kernel)
    )
    return gradient


def weight_sizes(x: Tensor, g: Tensor, padding: tuple[int, int]) -> tuple[int, ...]:
    """channels, height, width, out_height, pad_height, pad_width."""
    return (*x.shape[1:], g.shape[2], *padding)


def weight_constants(x: Tensor, g: Tensor, kernel: tuple[int, int]) -> dict[str, Any]:
    windowed, window, block = _blocks(x.shape[3], g.shape[3], kernel[1])
    return {
        # constants: the interpreter of Triton 3.6 cannot loop to a number given when it runs, with NumPy 2.4
        "ROW_COUNT": g.shape[0] * g.shape[2],
        "OUT_WIDTH": g.shape[3],
        "KH": kernel[0],
        "KW": kernel[1],
        "KW_PADDED": triton.next_power_of_2(kernel[1]),
        "WINDOWED": windowed,
        "IN": window,
        "OUT": block,
        "PRECISION": _precision(),
    }


def _run(input: Tensor, weight: Tensor, out_size: tuple[int, int], padding: tuple[int, int], flip: bool) -> Tensor:
    x, k = input.contiguous(), weight.to(input.dtype).contiguous()
    y = x.new_empty(*x.shape[:2], *out_size)
    windowed, window, block = _blocks(x.shape[3], out_size[1], k.shape[3])
    rows = y.shape[0] * y.shape[2]

    def grid(meta: dict[str, Any]) -> tuple[int, int, int]:
        return triton.cdiv(rows, meta["ROWS"]), x.shape[1], triton.cdiv(out_size[1], block)

    constants = {"FLIP": flip, "WINDOWED": windowed, "IN": window, "OUT": block, "PRECISION": _precision()}
    _CORRELATE[grid](x, k, y, rows, *x.shape[1:], *out_size, *padding, KH=k.shape[2], KW=k.shape[3], **constants)
    return y


def _blocks(width: int, out_width: int, taps: int) -> tuple[bool, int, int]:
    """Whether a row is cut into blocks, and the sizes of a block's input and output: powers of two, as Triton asks.

    A product has at least 16 cells a side.
    """
    whole = [max(16, triton.next_power_of_2(n)) for n in (width, out_width)]
    if max(whole) <= _WIDEST:
        return False, whole[0], whole[1]
    # the largest block whose window is no larger than twice a block
    block = min(_WIDEST, max(16, triton.next_power_of_2(taps)))
    return True, triton.next_power_of_2(block + taps - 1), block


def _precision() -> str:
    """Of products of float32, as `torch.set_float32_matmul_precision` says: TF32, or three of them."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
