"""Events as audio files: the right ones, the right samples, names that every file system takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audioset_dcls.tagging.clips import CONTEXT, ClipPicker, clip_stems, write_clips
from audioset_dcls.tagging.recordings import Recording, safe_name
from preprocessing.audio import read_audio
from tests.conftest import RECORDINGS, first_labels

Here = Callable[..., tuple[int, str, str]]


def event(label: str, start: float, end: float, score: float) -> dict[str, Any]:
    return {"label": label, "start": start, "end": end, "score": score}


def record(*events: dict[str, Any], rate: int | None = 1000) -> dict[str, Any]:
    return {"file": "x.wav", "rate": rate, "channel": None, "tags": [], "events": list(events)}


def test_the_highest_of_each_class() -> None:
    picker = ClipPicker(Path(), 2)
    one, two = Recording("a.wav", "a.wav"), Recording("b.wav", "b.wav")
    picker.add(one, record(event("Dog", 0, 1, 0.5), event("Dog", 2, 3, 0.9), event("Cat", 4, 5, 0.3)))
    picker.add(two, record(event("Dog", 0, 1, 0.5), event("Dog", 6, 7, 0.95)))
    picked = {
        path: [[(e["label"], e["start"]) for e in events] for _, events in records]
        for path, records in picker.picked().items()
    }
    assert picked == {"a.wav": [[("Dog", 2), ("Cat", 4)]], "b.wav": [[("Dog", 6)]]}


def test_of_equal_scores_the_first(tmp_path: Path) -> None:
    picker = ClipPicker(tmp_path, 1)
    picker.add(Recording("a.wav", "a.wav"), record(event("Dog", 0, 1, 0.5), event("Dog", 2, 3, 0.5)))
    (((_, events),),) = picker.picked().values()
    assert [e["start"] for e in events] == [0]


@pytest.mark.parametrize("block", [137, 1000, 100_000])
def test_samples(block: int, tmp_path: Path) -> None:
    """Overlapping clips, at both ends of the recording, whatever the blocks are."""
    waveform = np.random.default_rng(0).uniform(-0.9, 0.9, 20_000).astype(np.float32)
    events = [event("a", 0.5, 5, 0.5), event("b", 3, 4.25, 0.5), event("a", 10, 10.5, 0.5), event("b", 19, 20, 0.5)]
    blocks = (waveform[at : at + block] for at in range(0, len(waveform), block))
    write_clips(tmp_path, "x", record(), events, blocks)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"x_0h00m{end}.flac" for end in ("00.500s_a", "03.000s_b", "10.000s_a", "19.000s_b")]
    for name, one in zip(names, events, strict=True):
        samples, rate = soundfile.read(tmp_path / name, dtype="float32")
        begin, end = (round(max(at, 0) * 1000) for at in (one["start"] - CONTEXT, one["end"] + CONTEXT))
        assert rate == 1000
        np.testing.assert_allclose(samples, waveform[begin:end], atol=2**-15)


def test_an_error_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    def blocks() -> Iterator[np.ndarray]:
        yield np.zeros(3000, np.float32)
        raise OSError("bad sector")

    with pytest.raises(OSError, match="bad sector"):
        write_clips(tmp_path, "x", record(), [event("a", 0, 1, 0.5), event("b", 1.5, 9, 0.5)], blocks())
    assert [path.name for path in tmp_path.iterdir()] == ["x_0h00m00.000s_a.flac"]


def test_names_are_safe_and_differ() -> None:
    assert safe_name("Vehicle horn, car horn") == "Vehicle_horn_car_horn"
    assert safe_name("../../etc/passwd") == "etc_passwd"
    assert safe_name("a:b*c?\x1b\n\ud800") == "a_b_c"
    assert safe_name("...") == safe_name("") == "_"
    assert safe_name("Käuzchen 音") == "Käuzchen_音"
    assert len(safe_name("音" * 300).encode()) <= 80
    paths = ["a b.wav", "a_b.wav", "A_B.wav", "x/a_b.wav", "n" * 300 + ".wav", "m" * 300 + ".wav"]
    stems = clip_stems([Recording(path, path) for path in paths])
    assert len({stem.casefold() for stem in stems.values()}) == len(paths)


def test_events_of_one_name(tmp_path: Path) -> None:
    """Labels that differ in signs alone."""
    write_clips(
        tmp_path, "x", record(), [event("a/b", 0, 1, 0.5), event("a b", 0, 1, 0.4)], iter([np.zeros(2000, np.float32)])
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x_0h00m00.000s_a_b.flac", "x_0h00m00.000s_a_b_2.flac"]


def test_the_command(tmp_path: Path, tag_here: Here) -> None:
    """From the recordings themselves, at their own rate; without a folder for tags too."""
    files = [RECORDINGS / "cow.ogg", RECORDINGS / "rooster.ogg"]
    status, _, err = tag_here(*files, "--clips", tmp_path / "clips", "--clips-per-class", "1", "--format", "csv")
    assert status == 0
    clips = sorted((tmp_path / "clips").iterdir())
    assert f"dcls-tag: {tmp_path / 'clips'}: wrote {len(clips)} clips" in err
    for file in files:
        label = first_labels()[file.name]
        (clip,) = [clip for clip in clips if clip.name == f"{file.name}_0h00m00.000s_{safe_name(label)}.flac"]
        whole = read_audio(file, soundfile.info(file).samplerate)
        samples, rate = soundfile.read(clip, dtype="float32")
        assert rate == soundfile.info(file).samplerate
        np.testing.assert_allclose(samples, whole.clip(-1, 1), atol=2**-14)
    again = tag_here(*files, "--clips", tmp_path / "again", "--clips-per-class", "1", "-o", tmp_path / "out", "--quiet")
    assert again == (0, "", "")
    assert [path.read_bytes() for path in sorted((tmp_path / "again").iterdir())] == [p.read_bytes() for p in clips]


def test_clips_of_each_channel(tmp_path: Path, tag_here: Here) -> None:
    cow, rooster = (read_audio(RECORDINGS / name)[:60_000] for name in ("cow.ogg", "rooster.ogg"))
    soundfile.write(tmp_path / "two.wav", np.stack([cow[:59_000], rooster[:59_000]], 1), 32_000)
    tag_here(tmp_path / "two.wav", "--channel", "each", "--clips", tmp_path / "clips")
    for number, waveform, name in ((1, cow, "cow.ogg"), (2, rooster, "rooster.ogg")):
        (clip,) = (tmp_path / "clips").glob(f"two.wav_{number}_*_{safe_name(first_labels()[name])}.flac")
        np.testing.assert_allclose(soundfile.read(clip, dtype="float32")[0], waveform[:59_000].clip(-1, 1), atol=2**-14)
