"""Files over HTTP: resumed after a break, checked, and never half there."""

from __future__ import annotations

import errno
import http.client
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.progress import DownloadColumn, TransferSpeedColumn

from preprocessing.files import atomic_write, no_links, sha256_of
from preprocessing.progress import progress_bar
from preprocessing.terminal import printable

_CHUNK = 1 << 20  # bytes
_MOST_BYTES = 8 << 30  # of a file; the largest ConvNeXt of timm has 3 GB
_TIMEOUT = 30  # seconds without a byte before a connection counts as broken
_BREAKS = 10  # connections that may break before giving up
_PAUSE = 1.0  # seconds before connecting again


class DownloadError(OSError):
    """A file could not be fetched, or is not the file it should be; the message says what to do."""


def download(url: str, target: Path, sha256: str | None = None) -> None:
    """Fetch `url` into `target`, which appears only when it is whole and, if `sha256` is given, has that checksum.

    Over https an answer that leads to another scheme is refused, and so is a file of more than 8 GB.
    What a broken connection leaves stays beside it as `<target>.part` and is continued, in this call or the next, as
    long as the server says that its file is still the same. Raises DownloadError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    for attempt in range(_BREAKS):
        before = _size(part)
        try:
            _transfer(url, part)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # the part is not a beginning of this file
                part.unlink()
                continue
            raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, DownloadError):
                raise
            if _size(part) <= before or attempt == _BREAKS - 1:  # no progress: trying again will not help
                reason = getattr(error, "reason", None) or error
                offline = "no connection; is this machine offline? " if _is_offline(reason) else ""
                kept = f"; the {_size(part):,} bytes that came are kept, run again to continue" if _size(part) else ""
                raise DownloadError(f"{url}: {offline}{reason}{kept}") from error
            time.sleep(_PAUSE)
    _validator(part).unlink(missing_ok=True)
    if sha256 is not None and (found := sha256_of(part)) != sha256:
        part.unlink()
        raise DownloadError(f"{url}: damaged or not the expected file: its SHA-256 is {found}, expected {sha256}")
    part.replace(target)


def _transfer(url: str, part: Path) -> None:
    """One connection: continue `part` if the server can, else start it again."""
    headers = {"User-Agent": "audioset-dcls", "Accept-Encoding": "identity"}
    start = _size(part) if _validator(part).exists() else 0
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": _validator(part).read_text()}
    opener = urllib.request.build_opener(_Redirects)
    with opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as response:
        if response.headers.get_content_type() == "text/html":
            raise DownloadError(f"{url}: the server sends a web page instead of a file; open the address in a browser")
        if response.status != 206:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise ConnectionError("the server continues at another place than asked for")
        # only a strong validator proves that two parts belong to one file (RFC 9110, section 13.1.5)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and not validator.startswith("W/"):
            with atomic_write(_validator(part)) as unfinished:
                unfinished.write_text(validator)
        else:
            _validator(part).unlink(missing_ok=True)
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() and len(length) < 20 else None
        size = start
        with (
            open(part, "ab" if start else "wb", opener=no_links) as file,
            progress_bar(DownloadColumn(), TransferSpeedColumn()) as bar,
        ):
            task = bar.add_task(printable(part.name.removesuffix(".part")), total=total, completed=start)
            while max(size, total or 0) <= _MOST_BYTES and (chunk := response.read1(_CHUNK)):
                file.write(chunk)
                size += len(chunk)
                bar.advance(task, len(chunk))
        if max(size, total or 0) > _MOST_BYTES:
            part.unlink()
            raise DownloadError(
                f"{url}: has {max(size, total or 0):,} bytes or more, at most {_MOST_BYTES:,} are fetched"
            )
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection broke after {_size(part):,} of {total:,} bytes")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows an answer that leads elsewhere, but never from https to what anybody on the way can read and change."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise DownloadError(f"{req.full_url}: leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_offline(reason: object) -> bool:
    """If no name can be resolved, or no network is there to send to."""
    unreachable = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
    return isinstance(reason, socket.gaierror) or (isinstance(reason, OSError) and reason.errno in unreachable)


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
