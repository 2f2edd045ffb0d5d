"""Ogg: what the pages of a file say about its time axis.

A page has a checksum, a number in its stream, and the count of samples (granule position) up to its end. Decoders close
up where pages are missing and stop after the first of several joined streams (links). `read_links` finds both, so that
each stretch of a stream without a hole (a run) is decoded on its own and put at its place.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple

import numpy as np

from preprocessing.decoding.spans import GAP

_HEAD = struct.Struct("<4sBBqIIIB")  # magic, version, flags, granule, serial, sequence, checksum, segments
_CONTINUED, _FIRST, _LAST = 1, 2, 4  # flags
_MAX_PAGE = 27 + 255 + 255 * 255
_READ = 2**20
_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
MAX_RUNS = 10_000  # more holes are no recording


class Run(NamedTuple):
    """Pages without a hole: bytes `begin` to `end` of the file; `start` is in seconds from the link's first sample."""

    begin: int
    end: int
    start: float


@dataclass
class Link:
    """One stream: bytes of its header pages, its runs, and seconds from its first sample to its last one."""

    header: tuple[int, int]
    runs: list[Run] = field(default_factory=list)
    seconds: float = 0.0


class Links(NamedTuple):
    """All links. `complete`: the last page is marked as such and ends the file. `lost`: streams without a header."""

    links: list[Link]
    complete: bool
    lost: bool


@dataclass
class _Page:
    begin: int
    end: int
    flags: int
    granule: int
    serial: int
    sequence: int
    lacing: bytes
    body: bytes


def read_links(file: IO[bytes]) -> Links | None:
    """The links of an Ogg file that holds one audio stream at a time.

    None for what ffmpeg reads better: several streams at once, codecs other than Vorbis, Opus and FLAC, lost headers.
    """
    links: list[_LinkReader] = []
    last, lost, reading = None, False, False
    for page in _pages(file):
        if page.flags & _FIRST:
            codec = _codec(page.body)
            if codec is None or (reading and links[-1].in_header):
                return None
            links.append(_LinkReader(codec, page))
            reading = True
        elif not (reading and page.serial == links[-1].serial):
            lost = True
        elif not links[-1].add(page):
            reading, lost = False, True
            links.pop()
        last = page
    read = [link.result() for link in links if link.runs]
    if not read or last is None or sum(len(link.runs) for link in read) > MAX_RUNS:
        return None
    complete = bool(last.flags & _LAST) and last.end == file.seek(0, io.SEEK_END)
    return Links(read, complete, lost or len(read) < len(links))


# pages ----------------------------------------------------------------------------------------------------------------


def _pages(file: IO[bytes]) -> Iterator[_Page]:
    """The pages whose checksum is right."""
    file.seek(0)
    buffer, base, at, ended = b"", 0, 0, False
    while True:
        if len(buffer) - at < _MAX_PAGE and not ended:
            more = file.read(_READ)
            ended = not more
            buffer, base, at = buffer[at:] + more, base + at, 0
            continue
        begin = buffer.find(b"OggS", at)
        if begin < 0 and ended:
            return
        if begin < 0 or (len(buffer) - begin < _MAX_PAGE and not ended):
            at = max(len(buffer) - 3, at) if begin < 0 else begin
            continue
        page = _page(buffer, begin, base)
        if page is None:
            at = begin + 4
        else:
            at = page.end - base
            yield page


def _page(buffer: bytes, begin: int, base: int) -> _Page | None:
    if begin + 27 > len(buffer):
        return None
    _, version, flags, granule, serial, sequence, _, segments = _HEAD.unpack_from(buffer, begin)
    lacing = buffer[begin + 27 : begin + 27 + segments]
    body = begin + 27 + segments
    end = body + sum(lacing)
    if version or end > len(buffer) or not _checksum_is_right(buffer[begin:end]):
        return None
    return _Page(base + begin, base + end, flags, granule, serial, sequence, lacing, buffer[body:end])


def _checksum_is_right(page: bytes) -> bool:
    """CRC-32 with the bits of zlib's in reverse order, from zero, over the page with zeros in the checksum's place."""
    mirrored = page.translate(_MIRROR)
    value = zlib.crc32(mirrored[:22] + bytes(4), 0xFFFFFFFF)
    return zlib.crc32(mirrored[26:], value) ^ 0xFFFFFFFF == int.from_bytes(mirrored[22:26], "big")


# packets --------------------------------------------------------------------------------------------------------------


class _Codec:
    """How many samples a packet adds. `pad` are those before the first one that is heard, `headers` its packets."""

    rate = 48_000
    pad = 0
    headers = 2

    def header(self, packet: bytes) -> None:
        """Learn from a header packet."""

    def forget(self) -> None:
        """The packet before is missing."""

    def samples(self, starts: bytes) -> int:
        """Of a packet whose first two bytes are given."""
        raise NotImplementedError


class _Opus(_Codec):
    def __init__(self, head: bytes) -> None:
        self.pad = int.from_bytes(head[10:12], "little")

    def samples(self, starts: bytes) -> int:
        if not starts:
            return 0
        kind, code = starts[0] >> 3, starts[0] & 3
        if kind < 12:
            size = (480, 960, 1920, 2880)[kind & 3]
        elif kind < 16:
            size = (480, 960)[kind & 1]
        else:
            size = (120, 240, 480, 960)[kind & 3]
        frames = (1, 2, 2, (starts[1] & 63) if len(starts) > 1 else 0)[code]
        return size * frames


class _Vorbis(_Codec):
    headers = 3

    def __init__(self, head: bytes) -> None:
        self.rate = int.from_bytes(head[12:16], "little")
        self._sizes = (1 << (head[28] & 15), 1 << (head[28] >> 4))
        self._modes: list[int] = []  # block size of each
        self._mask = 0
        self._last: int | None = None

    def header(self, packet: bytes) -> None:
        """The modes end the setup header: 41 bits each, their count before them, one bit that is set behind them."""
        if packet[:7] != b"\x05vorbis":
            return
        bits = int.from_bytes(packet, "little")
        at = bits.bit_length() - 1
        modes: list[int] = []
        while at >= 41 + 6 and len(modes) < 64:
            at -= 41
            mode = bits >> at & (2**41 - 1)
            if mode >> 1 & (2**32 - 1) or mode >> 33 > 63:  # window and transform type are zero, 64 mappings at most
                break
            modes.insert(0, self._sizes[mode & 1])
            if bits >> (at - 6) & 63 == len(modes) - 1:
                self._modes = modes.copy()
        self._mask = (1 << (len(self._modes) - 1).bit_length()) - 1

    def forget(self) -> None:
        self._last = None

    def samples(self, starts: bytes) -> int:
        if not starts or starts[0] & 1:
            return 0
        mode = starts[0] >> 1 & self._mask
        size = self._modes[mode] if mode < len(self._modes) else self._sizes[1]
        added = 0 if self._last is None else (self._last + size) // 4
        self._last = size
        return added


class _Flac(_Codec):
    def __init__(self, head: bytes) -> None:
        self.headers = 1 + int.from_bytes(head[7:9], "big")
        self._size = int.from_bytes(head[19:21], "big")  # the largest block
        self.rate = int.from_bytes(head[27:30], "big") >> 4

    def samples(self, starts: bytes) -> int:
        return self._size


def _codec(head: bytes) -> _Codec | None:
    """For the packet that begins a stream."""
    codec: _Codec | None = None
    if head[:8] == b"OpusHead" and len(head) >= 19:
        codec = _Opus(head)
    elif head[:7] == b"\x01vorbis" and len(head) >= 30:
        codec = _Vorbis(head)
    elif head[:5] == b"\x7fFLAC" and len(head) >= 51:
        codec = _Flac(head)
    return codec if codec is not None and codec.rate else None


class _LinkReader:
    """Collects the pages of one link."""

    def __init__(self, codec: _Codec, page: _Page) -> None:
        self.serial = page.serial
        self.runs: list[Run] = []
        self._codec, self._begin, self._header_end = codec, page.begin, page.end
        self._headers = codec.headers - 1  # packets to come
        self._sequence = page.sequence
        self._packet = b""  # of the header, begun
        self._starts = b""  # the first bytes of a packet that goes on on the next page
        self._granule: int | None = None  # at the end of the page before
        self._opened: int | None = None  # where a run begins that has no granule yet
        self._pending = 0  # samples of packets that ended on pages without a granule

    @property
    def in_header(self) -> bool:
        return self._headers > 0

    def result(self) -> Link:
        seconds = ((self._granule or 0) - self._codec.pad) / self._codec.rate
        return Link((self._begin, self._header_end), self.runs, seconds)

    def add(self, page: _Page) -> bool:
        """Take the next page; False if the header has a hole."""
        hole = page.sequence != (self._sequence + 1) % 2**32
        self._sequence = page.sequence
        if self.in_header:
            self._header_end = page.end
            self._add_to_header(page)
            return not hole
        if hole or self._granule is None:
            self._codec.forget()
            self._pending, self._opened = 0, page.begin
        samples = self._pending + self._samples(page, hole)
        gap = page.granule - samples - (self._granule or 0)
        if self._opened is None and page.granule >= 0 and gap > GAP * self._codec.rate:  # though pages are numbered on
            self._codec.forget()
            samples, self._opened = self._samples(page, hole=True), page.begin
        if self._opened is None:
            self.runs[-1] = self.runs[-1]._replace(end=page.end)
        if page.granule < 0:
            self._pending = samples
            return True
        if self._opened is not None:
            self.runs.append(Run(self._opened, page.end, max(page.granule - samples, 0) / self._codec.rate))
        self._pending, self._opened, self._granule = 0, None, page.granule
        return True

    def _add_to_header(self, page: _Page) -> None:
        at = 0
        for size in page.lacing:
            self._packet += page.body[at : at + size]
            at += size
            if size < 255:
                self._codec.header(self._packet)
                self._packet, self._headers = b"", self._headers - 1

    def _samples(self, page: _Page, hole: bool) -> int:
        """Of the packets that end on a page. Behind a hole the rest of a packet is none."""
        lacing = np.frombuffer(page.lacing, np.uint8)
        ends = np.flatnonzero(lacing < 255)
        offsets = np.concatenate([[0], np.cumsum(lacing, dtype=np.int64)])
        continued = bool(page.flags & _CONTINUED)
        begins = [0, *offsets[ends + 1].tolist()]
        starts = [page.body[begin : begin + 2] for begin in begins]
        if continued:
            starts[0] = b"" if hole else self._starts
        self._starts = starts[-1]
        return sum(map(self._codec.samples, starts[: len(ends)]))
