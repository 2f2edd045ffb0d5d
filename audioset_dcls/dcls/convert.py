"""State dicts of the reference package `dcls` (0.1.1 and before) -> ours: a pure function on dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from audioset_dcls.dcls.kernel import INTERPOLATION_OF_VERSION, MIN_DEVIATION

# For each row of our positions, by the number of axes, the row of `P` that moves along the same axis.
_ROWS = {1: (0,), 2: (1, 0), 3: (2, 1, 0)}
_ROWS_OF_V0 = {1: (0,), 2: (0, 1), 3: (0, 2, 1)}
_SLIP = 1.0 - MIN_DEVIATION


def convert_dcls(
    state_dict: Mapping[str, Tensor], version: str = "gauss", dilated_kernel_size: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """A state dict with DCLS layers of `dcls` (`weight`, `P`, `SIG`), in a model of any kind -> one for our layers.

    `P` becomes `positions` and `SIG` `deviations`; other tensors stay as they are, the very same. `dcls` counts the
    axes of a kernel from the last to the first, except in version "v0", which has the first one first (in three
    dimensions the first, the last, the middle one). Layers with dense axes, `Dcls2_1d` and `Dcls3_1d`, are converted
    too; the Gauss of `Dcls2_1d` has 1.0 in the place of 0.27 there, a slip that the conversion makes up for, and it
    stores constants (`DCK`), which are left out.

    Args:
        version: of the layers: "v0", "v1", "max" or "gauss". Ours are then `interpolation="bilinear"`, "bilinear",
            "triangle", "gauss".
        dilated_kernel_size: the sizes of the kernels. Needed if they differ: `dcls` takes the centre along an axis from
            the size of the axis that its row belongs to by number, not of the one it moves along.

    Raises:
        ValueError: another version, or positions of other than one to three axes.

    >>> import torch
    >>> old = {"conv.weight": torch.ones(4, 1, 3), "conv.P": torch.stack([torch.zeros(4, 1, 3), torch.ones(4, 1, 3)])}
    >>> convert_dcls(old, "v1")["conv.positions"][:, 0, 0, 0]
    tensor([1., 0.])
    """
    if version not in INTERPOLATION_OF_VERSION:
        raise ValueError(f"version {version!r} is none of {', '.join(INTERPOLATION_OF_VERSION)}")
    converted = {}
    for key, value in state_dict.items():
        if key.endswith(("DCK.IDX", "DCK.lim")):
            continue
        name, _, leaf = key.rpartition(".")
        prefix = f"{name}." if name else ""
        is_layer = f"{prefix}P" in state_dict and f"{prefix}weight" in state_dict
        if not is_layer or leaf not in ("P", "SIG"):
            converted[key] = value
            continue
        # with dense axes (1, out, in / groups, *dense, count)
        if len(value) not in _ROWS or value.dim() not in ((4, 5, 6) if len(value) == 1 else (4,)):
            raise ValueError(f"{key}: shape {tuple(value.shape)} is not that of a layer with one to three axes")
        rows = (_ROWS_OF_V0 if version == "v0" else _ROWS)[len(value)]
        moved = value[list(rows)]
        if leaf == "SIG" and version == "gauss" and value.dim() == 5:
            moved = moved.abs() + _SLIP
        if leaf == "P" and dilated_kernel_size is not None:
            shift = [
                dilated_kernel_size[row] // 2 - size // 2 for row, size in zip(rows, dilated_kernel_size, strict=True)
            ]
            moved = moved + moved.new_tensor(shift).view(-1, *(1,) * (value.dim() - 1))
        converted[prefix + {"P": "positions", "SIG": "deviations"}[leaf]] = moved
    return converted
