import csv
import struct
from collections import Counter

import numpy as np
import pytest

from preprocessing.corpora.open_sounds import synthetic
from preprocessing.corpora.open_sounds.lists import DATA

RATE = 32_000


def test_every_recipe_gives_a_midi_file_that_ends_in_time():
    with (DATA / "soundfonts.csv").open(newline="") as file:
        recipes = list(csv.DictReader(file))
    patterns = Counter()
    for recipe in recipes[::7]:
        events, tempo = synthetic.notes(recipe)
        assert synthetic.midi_file(events, tempo) == synthetic.midi_file(*synthetic.notes(recipe))
        on = sum(message[0] & 0xF0 == 0x90 for _, message in events)
        assert on == sum(message[0] & 0xF0 == 0x80 for _, message in events) > 0
        assert max(at for at, _ in events) < float(recipe["seconds"])
        patterns[recipe["pattern"]] += 1
    assert len(patterns) >= 8


def test_a_midi_file_is_what_the_standard_says():
    """One note of middle C for a second at 60 beats a minute, written out by hand."""
    midi = synthetic.midi_file([(0.0, b"\x90\x3c\x40"), (1.0, b"\x80\x3c\x00")], 60.0)
    track = b"\x00\xff\x51\x03\x0f\x42\x40" + b"\x00\x90\x3c\x40" + b"\x83\x60\x80\x3c\x00" + b"\x83\x60\xff\x2f\x00"
    assert midi == b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk" + struct.pack(">I", len(track)) + track


@pytest.mark.skipif(bool(synthetic.missing_tools()), reason="needs fluidsynth, espeak-ng and flite")
def test_sentences_are_spoken(tmp_path):
    for recipe in ({"engine": "flite", "voice": "slt"}, {"engine": "espeak-ng", "voice": "de", "rate": "150"}):
        waveform = synthetic.synthesize(recipe | {"text": "Good morning to you all."}, tmp_path)
        assert RATE / 2 < len(waveform) < 5 * RATE
        assert np.abs(waveform).max() > 0.05
