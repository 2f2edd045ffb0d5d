"""Datasets and attributes of HDF5 files that others may have made: what lies in the file itself, of credible size.

HDF5 lets a file point to other files and declare any shape without holding the data. Every error is a ValueError of one
line, without the file's name.
"""

from __future__ import annotations

import reprlib
from typing import Any

import h5py
import numpy as np

_MOST_RATIO = 1100  # deflate reaches 1032: what is declared may be so much larger than what is stored
_SMALL = 2**20  # bytes that need no justification
_LARGEST_CHUNK = 2**28  # bytes that reading one row may unpack
_LARGEST_ATTRIBUTE = 2**26  # bytes
_LONGEST_TEXT = 4096  # bytes of a name


def dataset(file: h5py.File, name: str, kinds: str, dimensions: int, rows: int | None = None) -> h5py.Dataset:
    """The dataset of that name, checked before anything of it is read.

    Args:
        kinds: numpy's letters of the types that are allowed, "S" for texts of fixed length.
        rows: the length that it must have.

    Raises KeyError if it is missing.
    """
    link = file.get(name, getlink=True)
    if link is None:
        raise KeyError(name)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} is a link, to another file perhaps; refused")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{name} is a group, expected a dataset")
    if found.external or found.is_virtual:
        raise ValueError(f"{name} lies in other files; refused")
    if found.shape is None or found.ndim != dimensions or found.dtype.kind not in kinds:
        raise ValueError(f"{name} is {found.dtype} {found.shape}, expected {dimensions} dimensions of type {kinds}")
    if rows is not None and len(found) != rows:
        raise ValueError(f"{name} has {len(found)} rows, expected {rows}")
    _check_size(found)
    return found


def texts(file: h5py.File, name: str, rows: int | None = None) -> Any:
    """(N,) bytes: a whole dataset of names."""
    found = dataset(file, name, "S", 1, rows)
    if found.dtype.itemsize > _LONGEST_TEXT:
        raise ValueError(f"{name} holds names of {found.dtype.itemsize:,} bytes, at most {_LONGEST_TEXT:,} are read")
    return found[:]


def attribute(file: h5py.File, name: str) -> Any:
    """The value of an attribute: a number, a str, or an array of numbers. None if there is none."""
    if name not in file.attrs:
        return None
    stored = file.attrs.get_id(name)
    if stored.get_storage_size() > _LARGEST_ATTRIBUTE or stored.dtype.kind not in "biufSO" or len(stored.shape) > 1:
        raise ValueError(f"the attribute {name} is {stored.dtype} {reprlib.repr(stored.shape)}; refused")
    value = file.attrs[name]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.item() if isinstance(value, np.generic) else value


def _check_size(found: h5py.Dataset) -> None:
    declared, stored = found.size * found.dtype.itemsize, found.id.get_storage_size()
    if declared > _SMALL + _MOST_RATIO * stored:
        raise ValueError(f"{found.name[1:]} declares {declared:,} bytes, the file holds {stored:,} of them; damaged")
    if found.chunks is not None and found.id.get_create_plist().get_nfilters():
        chunk = int(np.prod(found.chunks, dtype=object)) * found.dtype.itemsize
        if chunk > _LARGEST_CHUNK:
            raise ValueError(f"{found.name[1:]} is packed in pieces of {chunk:,} bytes; pack it in smaller ones")
