import io
import shutil
import struct
import zipfile

import numpy as np
import pytest
import soundfile

from preprocessing.corpora.open_sounds.containers import gus_waveform, rcc_members, read_member
from tests.preprocessing.corpora.open_sounds.corpus import rcc


def test_a_qt_resource_file_gives_its_members():
    members = rcc_members(rcc({"plain.wav": (b"abc", 0), "packed.wav": (b"d" * 99, 1)}))
    assert {name: read() for name, read in members.items()} == {
        "sounds/plain.wav": b"abc",
        "sounds/packed.wav": b"d" * 99,
    }


def gus_patch(waveforms):
    """A GUS patch: (samples, rate, modes) of each waveform; bit 0 of modes is 16 bit, bit 1 unsigned."""
    patch = b"GF1PATCH110\0".ljust(198, b"\0") + bytes([len(waveforms)])
    patch = patch.ljust(239, b"\0")
    for samples, rate, modes in waveforms:
        header = bytearray(96)
        struct.pack_into("<I", header, 8, len(samples))
        struct.pack_into("<H", header, 20, rate)
        header[55] = modes
        patch += bytes(header) + samples
    return patch


@pytest.mark.parametrize(
    ("samples", "modes"),
    [
        (np.array([0, 256, -512], "<i2"), 1),
        (np.array([32_768, 33_024, 32_256], "<u2"), 3),
        (np.array([0, 1, -2], np.int8), 0),
        (np.array([128, 129, 126], np.uint8), 2),
    ],
)
def test_all_four_sample_formats_of_a_gus_patch_decode_alike(samples, modes):
    patch = gus_patch([(b"\1" * 10, 8_000, 2), (samples.tobytes(), 11_025, modes)])
    decoded, rate = soundfile.read(io.BytesIO(gus_waveform(patch, 1)), dtype="int16")
    assert rate == 11_025
    np.testing.assert_array_equal(decoded, [0, 256, -512])


def test_members_are_found_in_every_container(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/y.wav", b"zipped")
    shutil.copy(tmp_path / "a.zip", tmp_path / "b.pk3")
    (tmp_path / "c.rcc").write_bytes(rcc({"y.wav": (b"resource", 1)}))
    assert read_member(tmp_path / "a.zip", "x/y.wav") == b"zipped"
    assert read_member(tmp_path / "b.pk3", "x/y.wav") == b"zipped"
    assert read_member(tmp_path / "c.rcc", "sounds/y.wav") == b"resource"
    for container, member in (("a.zip", "no"), ("c.rcc", "no")):
        with pytest.raises(KeyError):
            read_member(tmp_path / container, member)
