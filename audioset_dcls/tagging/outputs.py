"""What a run writes, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from audioset_dcls.tagging.clips import CLIP_COUNT
from audioset_dcls.tagging.writers import FORMATS
from audioset_dcls.tagging.writers.formats import View

_COMBINED = "tags"  # the combined files' name: tags.csv, tags.json, ...


class UsageError(ValueError):
    """Options that cannot go together; the message is one line."""


@dataclass(frozen=True)
class Outputs:
    """What to write, and where.

    Attributes:
        formats: names of FORMATS. Without `folder` one text format goes to stdout as the recordings are done.
        folder: gets one combined file a format, `tags.csv` for example; label tracks, plots and embeddings are one file
            a recording, named after it: `birds/dawn.flac.audacity.txt`; a format says which (`Format.of`).
        separate: one file a recording in every format.
        embeddings: (windows, D) float32 as .npy.
        plot: a .png; without a `folder` in the current one, named after the recording, with its folders in the name if
            two are called the same.
        clips, clip_count: a folder for the events as audio files, and of how many events of a class: those with the
            highest scores.
        all_levels: show people, too, the classes that others imply: "Animal" beside "Bark".
    """

    formats: tuple[str, ...] = ("table",)
    folder: Path | None = None
    separate: bool = False
    timeline: bool = False
    embeddings: bool = False
    plot: bool = False
    all_levels: bool = False
    clips: Path | None = None
    clip_count: int = CLIP_COUNT

    @property
    def view(self) -> View:
        return View(self.timeline, self.all_levels)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise UsageError(f"format {unknown[0]!r} is unknown; choose from {','.join(FORMATS)}")
        if "parquet" in self.formats:
            try:
                import pyarrow  # noqa: F401
            except ImportError as error:
                raise UsageError("format parquet needs pyarrow: pip install pyarrow") from error
        if self.clip_count < 1:
            raise UsageError(f"clips-per-class must be at least 1, not {self.clip_count}")
        if self.folder is None:
            if len(self.formats) != 1:
                raise UsageError("several formats need a folder to go to: add -o DIR")
            is_text = FORMATS[self.formats[0]].render is not None
            if not is_text or self.separate or self.embeddings:
                what = self.formats[0] if not is_text else "--separate" if self.separate else "--embeddings"
                raise UsageError(f"{what} needs a folder to write to: add -o DIR")

    @property
    def own(self) -> list[str]:
        """Formats with a file for each recording."""
        return [name for name in self.formats if self.separate or FORMATS[name].of != "run"]

    @property
    def combined(self) -> dict[str, str]:
        """Formats with a file for all recordings together, and its name: "csv": "tags.csv"."""
        names = () if self.separate else self.formats
        return {name: f"{_COMBINED}{FORMATS[name].suffix}" for name in names if FORMATS[name].of != "recording"}

    def written(self) -> str:
        """The names of the files in `folder`, in words."""
        own = [f"NAME{FORMATS[name].suffix}" for name in self.own]
        own += ["NAME.npy"] * self.embeddings + ["NAME.png"] * self.plot
        each = f"{', '.join(own)} for each recording" * bool(own)
        return " and ".join(filter(None, [", ".join(self.combined.values()), each]))
