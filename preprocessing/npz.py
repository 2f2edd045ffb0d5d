"""Arrays out of .npz files that others may have made, checked before any memory is taken for them."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_BYTES = 2**31  # of one array


def read_npz(path: Path, name: str, kinds: str, dimensions: int, most_bytes: int = MOST_BYTES) -> npt.NDArray[Any]:
    """The array of that name. Raises ValueError if it is damaged or not as expected, KeyError if it is missing.

    Args:
        kinds: numpy's letters of the types that are allowed, none of them "O".
        most_bytes: the largest array to read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{name}.npy" not in archive.namelist():
                raise KeyError(name)
            with archive.open(f"{name}.npy") as stream:
                version = np.lib.format.read_magic(stream)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(stream)
                size = math.prod(shape) * dtype.itemsize
                if len(shape) != dimensions or dtype.kind not in kinds or dtype.hasobject:
                    raise ValueError(f"{name} is {dtype} {shape}, expected {dimensions} dimensions of type {kinds}")
                if size > most_bytes:
                    raise ValueError(f"{name} has {size:,} bytes, at most {most_bytes:,} are read")
        with np.load(path, allow_pickle=False) as arrays:
            values: npt.NDArray[Any] = arrays[name]
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, SyntaxError, TypeError) as error:
        raise ValueError(f"damaged ({error})") from None
    return values
