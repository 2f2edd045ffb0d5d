"""The second corpus in tars of Opus files, one a recording: for places that cannot reach the repositories."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from preprocessing.audio import read_audio
from preprocessing.corpora.open_sounds.lists import OpenSoundsError, Recording


@dataclass
class Tars:
    """The members of all `*.tar` in a folder, found by name. They must not be compressed."""

    folder: Path
    _at: dict[str, tuple[Path, int, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises OpenSoundsError if there is no tar or one cannot be read."""
        self._at = {}
        for path in sorted(self.folder.glob("*.tar")):
            try:
                with tarfile.open(path, "r:") as tar:
                    self._at |= {member.name: (path, member.offset_data, member.size) for member in tar}
            except (OSError, tarfile.TarError) as error:
                raise OpenSoundsError(f"{path}: is not a tar that can be read ({error})") from None
        if not self._at:
            raise OpenSoundsError(f"{self.folder}: holds no .tar with recordings")

    def decode(self, recording: Recording, root: Path) -> np.ndarray:
        """float32 (samples,) at 32 kHz. Raises AudioError; KeyError without the member, ValueError if it differs.

        Args:
            root: unused; the recording lies in the tars.
        """
        path, offset, size = self._at[recording.member]
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if hashlib.sha256(data).hexdigest() != recording.member_sha256:
            raise ValueError(f"{path}: SHA-256 of {recording.member} is not {recording.member_sha256}")
        return read_audio(data)
