"""Compile Triton's kernels for a GPU that is not there: `python -m tests.dcls.compile_kernels 90`.

Not in the interpreter (without TRITON_INTERPRET). A line for each: kernel, dtype, bytes of shared memory, and the
instruction of its products.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from audioset_dcls.dcls import triton_depthwise, triton_kernel

# (width, IN, OUT) of the paper's maps and of a wide one
MAPS = [(62, 64, 64), (15, 16, 16), (250, 64, 32)]


def main(capability: int) -> None:
    elements = dict.fromkeys(("weight", "positions", "deviations"), "fp32")
    kernel = {"COUNT": 26, "KH": 23, "KW": 23, "KH_PADDED": 32, "KW_PADDED": 32}
    report(capability, triton_kernel._construct, {**elements, "dense": "fp32"}, kernel)
    report(capability, triton_kernel._construct_backward, {**elements, "gradient": "fp32", "projected": "fp32"}, kernel)
    size = {"KH": 23, "KW": 23}
    for dtype in ("bf16", "fp32"):
        maps = {"x": dtype, "g": dtype, "y": dtype, "k": dtype, "grad_k": "fp32", "projected": "fp32", **elements}
        cases = [(*sizes, "tf32") for sizes in (MAPS if dtype == "bf16" else MAPS[:1])]
        if dtype == "fp32" and capability >= 90:  # minutes for 8.0
            cases.append((*MAPS[0], "tf32x3"))
        for width, window, block, precision in cases:
            blocks = {"WINDOWED": width > 64, "IN": window, "OUT": block, "PRECISION": precision}
            forward = size | blocks | {"FLIP": False, "ROWS": 64}
            report(capability, triton_depthwise._correlate, maps, forward)
            gradient = size | blocks | {"ROW_COUNT": 4096, "OUT_WIDTH": width, "KW_PADDED": 32}
            gradient |= {"ROWS": 64, "KERNEL_ROWS": 2}
            report(capability, triton_depthwise._weight_gradient, maps, gradient)
            if width == MAPS[0][0]:
                report(capability, triton_kernel._elements_gradient, maps, kernel | gradient)


def report(capability: int, kernel: Any, pointers: dict[str, str], constants: dict[str, Any]) -> None:
    names = kernel.arg_names
    used = {name: value for name, value in constants.items() if name in names}
    types = {
        name: "constexpr" if name in used else f"*{pointers[name]}" if name in pointers else "i32" for name in names
    }
    source = ASTSource(kernel, types, {(names.index(name),): value for name, value in used.items()})
    options = {"num_warps": 4, "num_stages": 2}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assembly = compiled.asm["ptx"]
    instruction = "wgmma" if "wgmma" in assembly else "mma" if "mma.sync" in assembly else "none"
    dtype = pointers.get("x" if "x" in names else "dense", "fp32")
    print(kernel.__name__, dtype, compiled.metadata.shared, instruction, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
