"""Audio files inside containers: zip archives, Qt resource files, GUS patches."""

from __future__ import annotations

import io
import re
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

ERRORS = (KeyError, ValueError, OSError, IndexError, struct.error, zlib.error, zipfile.BadZipFile)
"""What reading a damaged container raises."""


_MEMBER = re.compile(r"(.*?\.(?:zip|pk3|wz|jar|rcc|pat))!(.+)", re.IGNORECASE | re.DOTALL)


def split_path(path: str) -> tuple[str, str]:
    """`OUTER!INNER` -> container and member; of any other path, which may have a "!" in its name, the path and "".

    >>> split_path("sounds/a.zip!b/c!.ogg"), split_path("sounds/ouch!.ogg")
    (('sounds/a.zip', 'b/c!.ogg'), ('sounds/ouch!.ogg', ''))
    """
    member = _MEMBER.fullmatch(path)
    return (member[1], member[2]) if member else (path, "")


def read_member(container: Path, name: str) -> bytes:
    """An audio file inside a zip (.zip, .pk3, .wz), a Qt resource file (.rcc) or a GUS patch (.pat, by number).

    Raises KeyError if it has no such member, one of ERRORS if it is damaged.
    """
    match container.suffix.lower():
        case ".rcc":
            return _rcc_members(container)[name]()
        case ".pat":
            return gus_waveform(container.read_bytes(), int(name))
        case _:
            return _open_zip(container).read(name)


def close_containers() -> None:
    """Forget the containers that are kept open: their files are about to go."""
    _open_zip.cache_clear()
    _rcc_members.cache_clear()


@lru_cache(maxsize=2)
def _open_zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@lru_cache(maxsize=2)
def _rcc_members(path: Path) -> dict[str, Callable[[], bytes]]:
    return rcc_members(path.read_bytes())


def rcc_members(data: bytes) -> dict[str, Callable[[], bytes]]:
    """Path -> reader of each file in a Qt binary resource file (formats 1 to 3)."""
    if data[:4] != b"qres":
        raise ValueError("not a Qt resource file")
    version, tree, contents, names = struct.unpack(">IIII", data[4:20])
    node_size = 22 if version >= 2 else 14  # later formats append a time stamp
    members: dict[str, Callable[[], bytes]] = {}

    def read(offset: int, flags: int) -> bytes:
        (size,) = struct.unpack_from(">I", data, offset)
        stored = data[offset + 4 : offset + 4 + size]
        if flags & 4:
            raise ValueError("compressed by zstd, which is not supported")
        return zlib.decompress(stored[4:]) if flags & 1 else stored

    def walk(node: int, folder: str) -> None:
        at = tree + node * node_size
        name_offset, flags = struct.unpack_from(">IH", data, at)
        name = ""
        if node:  # the root has none
            (length,) = struct.unpack_from(">H", data, names + name_offset)
            name = data[names + name_offset + 6 :][: 2 * length].decode("utf-16-be")
        if flags & 2:
            count, first = struct.unpack_from(">II", data, at + 6)
            for child in range(first, first + count):
                walk(child, f"{folder}{name}/" if node else "")
        else:
            (offset,) = struct.unpack_from(">I", data, at + 10)
            members[folder + name] = lambda: read(contents + offset, flags)

    walk(0, "")
    return members


def gus_waveform(patch: bytes, number: int) -> bytes:
    """Waveform `number` of a Gravis Ultrasound patch as the bytes of a WAV file."""
    if not patch.startswith((b"GF1PATCH110\0", b"GF1PATCH100\0")):
        raise ValueError("not a GUS patch")
    at = 239  # behind the headers of file, instrument and layer
    for _ in range(number):
        at += 96 + struct.unpack_from("<I", patch, at + 8)[0]
    (size,), (rate,) = struct.unpack_from("<I", patch, at + 8), struct.unpack_from("<H", patch, at + 20)
    modes = patch[at + 55]
    stored = patch[at + 96 : at + 96 + size]
    is_16_bit, is_unsigned = modes & 1, modes & 2
    if is_16_bit:
        samples = np.frombuffer(stored[: size // 2 * 2], "<u2" if is_unsigned else "<i2").astype(np.int32)
    else:
        samples = np.frombuffer(stored, np.uint8 if is_unsigned else np.int8).astype(np.int32) * 256
    if is_unsigned:
        samples -= 32_768
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()
