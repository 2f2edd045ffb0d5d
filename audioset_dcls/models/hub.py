"""Names, addresses and paths -> checkpoint files. Runs without torch.

What is downloaded stays in the cache and is checked at each use: against the size and SHA-256 that are published, else
against those of the first download, which are kept beside it.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from audioset_dcls.folders import cache_folder, data_folder
from audioset_dcls.models.formats import CheckpointError, check_format
from audioset_dcls.models.hugging_face import WEIGHTS_FILE, fetch, is_on_hub
from preprocessing.files import atomic_write, lock, sha256_of

EMBEDDED = "embedded"  # the tagger in the box, to fine-tune
_RECORD = re.compile(r"([0-9a-f]{64}) (\d{1,18})\n")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One entry of `checkpoints/published.yaml`; mAP is in percent, GMACs are those of a clip of 10 s."""

    name: str
    url: str
    sha256: str | None
    size: int | None
    """Bytes; None, as for sha256, if it is not known here."""
    trunk: str
    dcls: bool
    parameters: int
    gmacs: float
    mean_average_precision: float
    licence: str

    @property
    def path(self) -> Path:
        """Where the download lies, or will."""
        return cache_folder() / Path(urlsplit(self.url).path).name


def available_checkpoints() -> dict[str, PublishedCheckpoint]:
    """The published checkpoints by the short names that `load_checkpoint` takes."""
    import yaml  # type: ignore[import-untyped]

    entries = yaml.safe_load((data_folder("checkpoints") / "published.yaml").read_text(encoding="utf-8"))
    return {name: PublishedCheckpoint(name=name, **entry) for name, entry in entries.items()}


def published_checkpoint(name: str) -> PublishedCheckpoint:
    """The published checkpoint of a short name. Raises FileNotFoundError for another name."""
    published = available_checkpoints()
    if name not in published:
        raise FileNotFoundError(f"{name}: no such name; {_hint(name, published)}")
    return published[name]


def locate(source: str | Path) -> Path:
    """The file behind "embedded", a path, a published name, a URL or "hf:owner/name".

    The last three are downloaded: into the cache, or into the Hub's own one.
    """
    if is_on_hub(source):
        return fetch(str(source), [WEIGHTS_FILE])
    path, entry = _resolve(source)
    if entry is not None:
        return _cached(entry.url, path, entry.sha256, entry.size)
    if _is_url(source):
        if str(source).startswith("http://"):
            _log.warning("%s: not encrypted, anybody on the way can change the file; use https if it has it", source)
        return _cached(str(source), path, None, None)
    if path.is_file():
        return path
    folder = " (a folder)" if path.is_dir() else ""
    raise FileNotFoundError(f"{source}: no such file{folder}; {_hint(path.name, available_checkpoints())}")


def expected_path(source: str | Path) -> Path:
    """The file that `locate` gives; it may not be there, and is neither downloaded nor checked. Not for the Hub."""
    return _resolve(source)[0]


def verify(entry: PublishedCheckpoint) -> str | None:
    """What is wrong with the cached file of a published checkpoint, read whole; None if nothing is.

    Raises FileNotFoundError if it is not in the cache.
    """
    return _difference(entry.path, entry.sha256, entry.size)


def remove(entry: PublishedCheckpoint) -> bool:
    """Remove a published checkpoint from the cache, and what an interrupted download left. If anything was there."""
    found = False
    with _locked(entry.path):
        for path in (entry.path, _record(entry.path), *entry.path.parent.glob(f"{entry.path.name}.part*")):
            found |= path.exists()
            path.unlink(missing_ok=True)
    return found


def _resolve(source: str | Path) -> tuple[Path, PublishedCheckpoint | None]:
    if source == EMBEDDED:
        return data_folder("checkpoints") / "tagger.safetensors", None
    if isinstance(source, str) and (entry := available_checkpoints().get(source)):
        return entry.path, entry
    if _is_url(source):
        name = Path(urlsplit(str(source)).path).name or "checkpoint"
        return cache_folder() / f"{hashlib.sha256(str(source).encode()).hexdigest()[:12]}-{name[-100:]}", None
    return Path(source), None


def _is_url(source: str | Path) -> bool:
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def _hint(name: str, published: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, published, n=1)
    return f"did you mean {close[0]!r}?" if close else f"published checkpoints: {', '.join(published)}"


def _cached(url: str, target: Path, sha256: str | None, size: int | None) -> Path:
    """The download of `url` at `target`, checked on every use.

    Processes started together, as on several GPUs, wait for the one that downloads.
    """
    from audioset_dcls.models.download import download  # rich, for its progress bar: not needed to find a file

    with _locked(target):
        if target.exists():
            if _difference(target, sha256, size) is None:
                return target
            _log.warning("%s is not what was downloaded; downloading it again", target)
        download(url, target, sha256)
        try:
            check_format(target)
        except CheckpointError:
            target.unlink()  # else every later run would meet it again
            raise
        if sha256 is None:
            with atomic_write(_record(target)) as unfinished:
                unfinished.write_text(f"{sha256_of(target)} {target.stat().st_size}\n")
            _log.warning(
                "%s: no checksum is published; recorded that of this download in %s", target.name, _record(target)
            )
    return target


def _difference(target: Path, sha256: str | None, size: int | None) -> str | None:
    """How a file differs from what is published or else recorded, if it does."""
    if sha256 is None and _record(target).exists():
        recorded = _RECORD.fullmatch(_record(target).read_text(errors="replace"))
        if recorded is None:
            return f"its record {_record(target).name} is damaged"
        sha256, size = recorded[1], int(recorded[2])
    if size is not None and (found := target.stat().st_size) != size:
        return f"has {found:,} bytes, expected {size:,}"
    if sha256 is not None and (digest := sha256_of(target)) != sha256:
        return f"its SHA-256 is {digest}, expected {sha256}"
    return None


def _record(target: Path) -> Path:
    """Holds SHA-256 and size of the first download."""
    return target.with_name(f"{target.name}.sha256")


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("ab") as file:
        lock(file, wait=True)
        yield
