"""Synthetic sounds: General MIDI instruments played by fluidsynth, sentences spoken by espeak-ng and flite.

A recipe (a row of `data/soundfonts.csv` or `speech.csv`) gives the same notes every time: they are drawn
from `random.Random(seed)`, whose numbers Python keeps from version to version.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from preprocessing.audio import SAMPLE_RATE, read_audio

TOOLS = ("fluidsynth", "espeak-ng", "flite")
MISSING_TOOLS = (
    "the synthetic part is left out: {tools} not installed (apt-get install fluidsynth espeak-ng flite); run the same "
    "again to add it"
)
TICKS = 480  # a quarter note
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10))
DRUM_CHANNEL = 9

Event = tuple[float, bytes]
"""Time in seconds and a MIDI message."""


def missing_tools() -> list[str]:
    """The programs of this part that are not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def synthesize(recipe: Mapping[str, str], root: Path) -> np.ndarray:
    """What a recipe of either table sounds like: float32 at 32 kHz. Soundfonts are looked for in the folder `root`."""
    return speak(recipe) if "engine" in recipe else play(recipe, root)


def play(recipe: Mapping[str, str], root: Path) -> np.ndarray:
    """A recipe of `soundfonts.csv`, played with the soundfont in the unpacked package at `root`: float32 at 32 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        midi, sound = Path(folder) / "notes.mid", Path(folder) / "sound.wav"
        midi.write_bytes(midi_file(*notes(recipe)))
        _run(
            *("fluidsynth", "-q", "-ni", "-g", "0.8", "-R", "1", "-C", "0", "-r", str(SAMPLE_RATE)),
            *("-F", str(sound), str(root / recipe["path"]), str(midi)),
        )
        return read_audio(sound)


def speak(recipe: Mapping[str, str]) -> np.ndarray:
    """A recipe of `speech.csv`, spoken: float32 at 32 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        sound = str(Path(folder) / "sound.wav")
        if recipe["engine"] == "espeak-ng":
            _run("espeak-ng", "-v", recipe["voice"], "-s", recipe["rate"], "-w", sound, recipe["text"])
        else:
            _run("flite", "-voice", recipe["voice"], "-t", recipe["text"], "-o", sound)
        return read_audio(sound)


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"{command[0]} failed: {result.stderr.strip()[-200:]}")


def midi_file(events: list[Event], beats_per_minute: float) -> bytes:
    """A standard MIDI file of format 0."""
    ticks_per_second = TICKS * beats_per_minute / 60
    track = b"\0\xff\x51\3" + struct.pack(">I", int(60e6 / beats_per_minute))[1:]
    last = 0
    for time, message in sorted(events, key=lambda event: event[0]):
        tick = int(time * ticks_per_second)
        track += _variable_length(tick - last) + message
        last = tick
    track += _variable_length(TICKS) + b"\xff\x2f\0"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS) + b"MTrk" + struct.pack(">I", len(track)) + track


def _variable_length(value: int) -> bytes:
    digits = [value & 127]
    while value := value >> 7:
        digits.append(128 | value & 127)
    return bytes(reversed(digits))


def notes(recipe: Mapping[str, str]) -> tuple[list[Event], float]:
    """The MIDI events of a recipe and their tempo in beats per minute."""
    rng = random.Random(int(recipe["seed"]))
    low, high, seconds = int(recipe["low"]), int(recipe["high"]), float(recipe["seconds"])
    channel = DRUM_CHANNEL if recipe["pattern"].startswith("drum") else 0
    events: list[Event] = []
    if int(recipe["program"]) >= 0:
        events.append((0, bytes([0xC0 | channel, int(recipe["program"])])))

    def note(time: float, pitch: int, length: float, velocity: int) -> None:
        pitch = max(0, min(127, pitch))
        events.append((time, bytes([0x90 | channel, pitch, velocity])))
        events.append((min(time + length, seconds - 0.05), bytes([0x80 | channel, pitch, 0])))

    tempo = rng.uniform(70, 150)
    scale = rng.choice(SCALES)
    root = rng.randrange(low, low + 12)
    pitches = [pitch for pitch in range(low, high + 1) if (pitch - root) % 12 in scale] or [low]
    keys = [int(key) for key in recipe["keys"].split()] or list(range(low, high + 1))
    _PATTERNS[recipe["pattern"]](rng, note, 60 / tempo, pitches, keys, seconds)
    return events, tempo


Note = Callable[[float, int, float, int], None]
Keys = list[int]
_FIRST, _REST = 0.05, 0.6  # seconds before the first note, and at the end for the last to decay


def _melody(rng: random.Random, note: Note, beat: float, pitches: Keys, keys: Keys, seconds: float) -> None:
    time, index = _FIRST, rng.randrange(len(pitches))
    while time < seconds - _REST:
        length = beat * rng.choice([0.5, 0.5, 1, 1, 1.5, 2])
        note(time, pitches[index], length * rng.uniform(0.7, 1), rng.randint(70, 118))
        index = max(0, min(len(pitches) - 1, index + rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3])))
        time += length


def _chords(rng: random.Random, note: Note, beat: float, pitches: Keys, keys: Keys, seconds: float) -> None:
    time = _FIRST
    while time < seconds - _REST:
        length = beat * rng.choice([1, 2, 2, 4])
        index = rng.randrange(max(1, len(pitches) - 5))
        spread = rng.choice([0, 0.012, 0.03])
        for number, step in enumerate((0, 2, 4)[: rng.choice([2, 3, 3])]):
            if index + step < len(pitches):
                note(time + number * spread, pitches[index + step], length * 0.95, rng.randint(65, 110))
        time += length


def _arpeggio(rng: random.Random, note: Note, beat: float, pitches: Keys, keys: Keys, seconds: float) -> None:
    time, end = _FIRST, seconds - _REST
    while time < end:
        index = rng.randrange(max(1, len(pitches) - 6))
        for step in (0, 2, 4, 5, 4, 2):
            if index + step < len(pitches) and time < end:
                note(time, pitches[index + step], beat * rng.uniform(0.4, 1.2), rng.randint(65, 112))
                time += beat / 2


def _sustain(rng: random.Random, note: Note, beat: float, pitches: Keys, keys: Keys, seconds: float) -> None:
    time = _FIRST
    while time < seconds - _REST:
        length = rng.uniform(1.2, 3.5)
        note(time, rng.choice(pitches), length, rng.randint(75, 120))
        time += length + rng.choice([0, 0.2])


def _single(rng: random.Random, note: Note, beat: float, pitches: Keys, keys: Keys, seconds: float) -> None:
    pitch, times = rng.randint(keys[0], keys[-1]), rng.choice([1, 1, 2])
    for number in range(times):
        note(_FIRST + number * seconds / times, pitch, seconds / times - 0.3, rng.randint(95, 127))


def _hits(rng: random.Random, note: Note, beat: float, pitches: Keys, keys: Keys, seconds: float) -> None:
    time = _FIRST
    while time < seconds - _REST:
        note(time, rng.choice(pitches), 0.3, rng.randint(70, 127))
        time += beat * rng.choice([0.5, 1, 1, 2])


def _drum_hits(
    rng: random.Random, note: Note, beat: float, pitches: list[int], keys: list[int], seconds: float
) -> None:
    time, key = _FIRST, rng.choice(keys)
    grid = rng.choice([beat, beat / 2, beat / 2, beat / 4])
    while time < seconds - _REST:
        if rng.random() < 0.75:
            note(time, key if rng.random() < 0.8 else rng.choice(keys), 0.2, rng.randint(60, 127))
        time += grid


def _drum_roll(
    rng: random.Random, note: Note, beat: float, pitches: list[int], keys: list[int], seconds: float
) -> None:
    time, key, velocity = _FIRST, rng.choice([38, 40]), rng.randint(40, 70)
    while time < seconds - _REST:
        note(time, key, 0.06, min(127, velocity + rng.randint(0, 25)))
        velocity += rng.choice([0, 1])
        time += rng.uniform(0.035, 0.05)


def _drum_kit(rng: random.Random, note: Note, beat: float, pitches: Keys, keys: Keys, seconds: float) -> None:
    hat = rng.choice([42, 42, 46, 51])
    kick = [rng.random() < 0.5 for _ in range(8)]
    kick[0] = True
    time, step = _FIRST, 0
    while time < seconds - _REST:
        note(time, hat, 0.1, rng.randint(60, 100))
        if kick[step % 8]:
            note(time, 36, 0.1, rng.randint(90, 120))
        if step % 8 in (2, 6):
            note(time, 38, 0.1, rng.randint(90, 120))
        if rng.random() < 0.06:
            note(time, rng.choice([45, 47, 50, 49]), 0.1, rng.randint(80, 115))
        time += beat / 2
        step += 1


_PATTERNS: dict[str, Callable[[random.Random, Note, float, Keys, Keys, float], None]] = {
    "melody": _melody,
    "chords": _chords,
    "arpeggio": _arpeggio,
    "sustain": _sustain,
    "single": _single,
    "hits": _hits,
    "drum_hits": _drum_hits,
    "drum_roll": _drum_roll,
    "drum_kit": _drum_kit,
}
