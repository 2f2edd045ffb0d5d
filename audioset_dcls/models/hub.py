"""Names, addresses and paths -> checkpoint files. What is downloaded stays in the cache and is checked at each use."""

from __future__ import annotations

import difflib
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from audioset_dcls.folders import cache_folder, data_folder
from audioset_dcls.models.download import download
from audioset_dcls.models.weights import CheckpointError, check_format
from preprocessing.files import atomic_write, lock, sha256_of

EMBEDDED = "embedded"  # the tagger in the box, to fine-tune
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One entry of `checkpoints/published.yaml`; mAP is in percent, the mean over three seeds."""

    name: str
    url: str
    sha256: str | None
    trunk: str
    dcls: bool
    parameters: int
    mean_average_precision: float


def available_checkpoints() -> dict[str, PublishedCheckpoint]:
    """The published checkpoints by the short names that `load_checkpoint` takes."""
    import yaml  # type: ignore[import-untyped]

    entries = yaml.safe_load((data_folder("checkpoints") / "published.yaml").read_text(encoding="utf-8"))
    return {name: PublishedCheckpoint(name=name, **entry) for name, entry in entries.items()}


def locate(source: str | Path) -> Path:
    """The file behind "embedded", a path, a published name or a URL; the last two are downloaded into the cache."""
    if source == EMBEDDED:
        return data_folder("checkpoints") / "tagger.safetensors"
    if isinstance(source, str):
        published = available_checkpoints()
        if source in published:
            entry = published[source]
            return _cached(entry.url, Path(urlsplit(entry.url).path).name, entry.sha256)
        if source.startswith(("http://", "https://")):
            name = Path(urlsplit(source).path).name or "checkpoint"
            if source.startswith("http://"):
                _log.warning(
                    "%s: not encrypted, anybody on the way can change the file; use https if it has it", source
                )
            return _cached(source, f"{hashlib.sha256(source.encode()).hexdigest()[:12]}-{name[-100:]}", None)
    path = Path(source)
    if path.is_file():
        return path
    names = list(available_checkpoints())
    close = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"published checkpoints: {', '.join(names)}"
    raise FileNotFoundError(f"{source}: no such file{' (a folder)' if path.is_dir() else ''}; {hint}")


def _cached(url: str, name: str, sha256: str | None) -> Path:
    """The download of `url` in the cache, checked on every use against the published or else the recorded checksum.

    Processes started together, as on several GPUs, wait for the one that downloads.
    """
    target = cache_folder() / name
    recorded = target.with_name(f"{name}.sha256")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("ab") as file:
        lock(file, wait=True)
        expected = sha256 or (recorded.read_text().strip() if recorded.exists() else None)
        if target.exists():
            if expected is None or sha256_of(target) == expected:
                return target
            _log.warning("%s is not what was downloaded; downloading it again", target)
        download(url, target, sha256)
        try:
            check_format(target)
        except CheckpointError:
            target.unlink()  # else every later run would meet it again
            raise
        if sha256 is None:
            with atomic_write(recorded) as unfinished:
                unfinished.write_text(sha256_of(target) + "\n")
            _log.warning("%s: no checksum is published; recorded that of this download in %s", target.name, recorded)
    return target
