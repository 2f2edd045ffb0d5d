"""Decoding: every format back within its codec's error, blocks equal the whole, hostile bytes give AudioError."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import threading
import tracemalloc
import warnings
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocessing.audio import SAMPLE_RATE, AudioError, iter_audio, read_audio

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
SOUNDS = sorted(path for path in RECORDINGS.iterdir() if path.suffix not in {".csv", ".md"})
GAINS = np.array([1.0, -0.4, 0.7, 0.3, 0.9, -0.2, 0.5, 0.8])  # of the channels, so that a wrong mix-down shows


def tone_burst(rate: int, frequencies: tuple[float, ...] = (60.0, 110.0, 290.0)) -> np.ndarray:
    """One second with a known value at any time: (rate,) float64, three tones under a Gaussian, peak below 1."""
    t = np.arange(rate) / rate
    tones = sum(np.sin(2 * np.pi * f * t + i) for i, f in enumerate(frequencies))
    return 0.3 * tones * np.exp(-(((t - 0.5) / 0.12) ** 2))


def multichannel(rate: int, channels: int) -> np.ndarray:
    return tone_burst(rate)[:, None] * GAINS[:channels]


def expected_mono(channels: int) -> np.ndarray:
    return tone_burst(SAMPLE_RATE) * GAINS[:channels].mean()


def encode_with_soundfile(samples: np.ndarray, rate: int, container: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def encode_with_ffmpeg(samples: np.ndarray, rate: int, container: str, codec: str, video: bool = False) -> bytes:
    """One audio stream, with 10 frames of video before it on request."""
    if codec == "wmav2":  # takes no short frame at the end
        samples = np.pad(samples, ((0, -len(samples) % 2048), (0, 0)))
    channels = samples.shape[1]
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        picture = add_video(out) if video else None
        stream = out.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000  # wmav2 has no default
        sample_format = {"pcm_s64le": "s64"}.get(codec, stream.codec.audio_formats[0].name)
        if picture is not None:
            mux_video(out, picture)
        fifo = av.AudioFifo()
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T, np.float32), format="fltp", layout=layout)
        frame.sample_rate = rate
        for converted in av.AudioResampler(format=sample_format, layout=layout, rate=rate).resample(frame):
            converted.pts = None
            fifo.write(converted)
        done, size = 0, stream.codec_context.frame_size or 1024
        while chunk := fifo.read(size, partial=True):
            chunk.pts, chunk.time_base, done = done, Fraction(1, rate), done + chunk.samples
            out.mux(stream.encode(chunk))
        out.mux(stream.encode(None))
    return file.getvalue()


def add_video(out):
    stream = out.add_stream("mpeg4", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    return stream


def mux_video(out, stream) -> None:
    for index in range(10):
        picture = np.full((48, 64, 3), 20 * index, np.uint8)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    out.mux(stream.encode(None))


def silent_video() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        mux_video(out, add_video(out))
    return file.getvalue()


def error_of(source) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(source)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    return message


# --- formats -------------------------------------------------------------------------------------------------------

# One quantisation step and a half: libsndfile truncates where it could round, and resampling adds neighbours' errors.
STEP_8, STEP_16 = 1.5 / 128, 1.5 / 32768
FLOAT = 2e-6  # of soxr's HQ setting and float32
LOSSLESS = [
    ("WAV", "PCM_U8", 22_050, 1, STEP_8),
    ("WAV", "PCM_16", 44_100, 2, STEP_16),
    ("WAV", "PCM_24", 96_000, 3, FLOAT),
    ("WAV", "PCM_32", 32_000, 4, FLOAT),
    ("WAV", "FLOAT", 1_000, 1, FLOAT),
    ("WAV", "DOUBLE", 768_000, 2, FLOAT),
    ("WAVEX", "PCM_16", 11_127, 6, STEP_16),
    ("RF64", "PCM_16", 48_000, 2, STEP_16),
    ("W64", "PCM_24", 48_000, 1, FLOAT),
    ("FLAC", "PCM_S8", 16_000, 1, STEP_8),
    ("FLAC", "PCM_16", 37_800, 8, STEP_16),
    ("FLAC", "PCM_24", 192_000, 2, FLOAT),
    ("AIFF", "PCM_S8", 8_000, 1, STEP_8),
    ("AIFF", "PCM_16", 44_056, 2, STEP_16),
    ("AIFF", "DOUBLE", 48_000, 2, FLOAT),
    ("AU", "PCM_16", 8_012, 1, STEP_16),
    ("AU", "FLOAT", 50_000, 5, FLOAT),
    ("CAF", "PCM_24", 88_200, 2, FLOAT),
    ("CAF", "ALAC_16", 44_100, 2, STEP_16),
    ("VOC", "PCM_U8", 10_989, 1, STEP_8),
    ("NIST", "PCM_16", 16_000, 1, STEP_16),
]


@pytest.mark.parametrize(("container", "subtype", "rate", "channels", "tolerance"), LOSSLESS)
def test_lossless_formats(container: str, subtype: str, rate: int, channels: int, tolerance: float):
    """Within one quantisation step of the analytic signal at 32 kHz, without any shift in time."""
    actual = read_audio(encode_with_soundfile(multichannel(rate, channels), rate, container, subtype))
    assert actual.dtype == np.float32
    assert len(actual) == SAMPLE_RATE
    assert np.abs(actual - expected_mono(channels)).max() <= tolerance


LOSSY = [  # encoder, container, codec, rate, channels, greatest delay of a container that does not state it
    ("libsndfile", "OGG", "VORBIS", 44_100, 2, 0),
    ("libsndfile", "OGG", "VORBIS", 11_025, 1, 0),
    ("libsndfile", "OGG", "OPUS", 48_000, 2, 0),
    ("libsndfile", "MP3", "MPEG_LAYER_III", 44_100, 2, 0),
    ("libsndfile", "MP3", "MPEG_LAYER_III", 22_050, 1, 0),
    ("ffmpeg", "mp3", "libmp3lame", 48_000, 2, 0),
    ("ffmpeg", "ipod", "aac", 44_100, 2, 0),  # .m4a
    ("ffmpeg", "mp4", "aac", 16_000, 1, 0),
    ("ffmpeg", "adts", "aac", 48_000, 2, 2048),
    ("ffmpeg", "webm", "libopus", 48_000, 2, 0),
    ("ffmpeg", "asf", "wmav2", 44_100, 2, 4096),  # .wma
    ("ffmpeg", "matroska", "flac", 44_100, 2, 0),
    ("ffmpeg", "ac3", "ac3", 48_000, 6, 1024),
]


@pytest.mark.parametrize(("encoder", "container", "codec", "rate", "channels", "delay"), LOSSY)
def test_lossy_formats(encoder: str, container: str, codec: str, rate: int, channels: int, delay: int):
    """The error's RMS stays below 6 % of the signal's (encoders at their default bit rates reach 0.2 to 5 %)."""
    encode = encode_with_soundfile if encoder == "libsndfile" else encode_with_ffmpeg
    actual = read_audio(encode(multichannel(rate, channels), rate, container, codec))
    expected = expected_mono(channels)
    size = len(actual) + len(expected)
    correlation = np.fft.irfft(np.fft.rfft(actual, size) * np.fft.rfft(expected, size).conj(), size)
    lag = (int(correlation.argmax()) + size // 2) % size - size // 2
    assert abs(lag) <= delay
    aligned = np.roll(np.pad(actual, (0, size - len(actual))), -lag)[: len(expected)]
    assert np.sqrt(np.mean((aligned - expected) ** 2) / np.mean(expected**2)) <= 0.06


def test_sound_of_a_video():
    samples = multichannel(44_100, 2)
    actual = read_audio(encode_with_ffmpeg(samples, 44_100, "mp4", "aac", video=True))
    np.testing.assert_allclose(actual[:SAMPLE_RATE], expected_mono(2), rtol=0, atol=0.02)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_integers_are_scaled_to_full_scale(bits: int):
    """Least, middle and greatest integer of a WAV written byte by byte."""
    values = [-(2 ** (bits - 1)), 0, 2 ** (bits - 1) - 1, 2 ** (bits - 2)]
    offset = 128 if bits == 8 else 0
    data = b"".join((v + offset).to_bytes(bits // 8, "little", signed=bits != 8) for v in values)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, bits // 8, SAMPLE_RATE, len(values), "NONE", ""))
        out.writeframes(data)
    expected = np.array([-1, 0, 1 - 2.0 ** (1 - bits), 0.5], np.float32)
    np.testing.assert_array_equal(read_audio(file.getvalue()), expected)


@pytest.mark.parametrize(("codec", "tolerance"), [("pcm_u8", STEP_8), ("pcm_s16be", STEP_16), ("pcm_s64le", FLOAT)])
def test_integers_through_ffmpeg(codec: str, tolerance: float):
    """Containers that libsndfile does not read, with ffmpeg's integer formats; 64-bit integers only ffmpeg knows."""
    container = "wav" if codec == "pcm_s64le" else "matroska"
    if codec == "pcm_u8":
        container = "avi"
    actual = read_audio(encode_with_ffmpeg(multichannel(44_100, 2), 44_100, container, codec))
    np.testing.assert_allclose(actual, expected_mono(2), rtol=0, atol=tolerance)


def test_samples_at_32_khz_pass_unchanged():
    samples = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    np.testing.assert_array_equal(read_audio(encode_with_soundfile(samples, SAMPLE_RATE, "WAV", "FLOAT")), samples)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_other_output_rates(rate: int):
    content = encode_with_soundfile(tone_burst(SAMPLE_RATE), SAMPLE_RATE, "WAV", "FLOAT")
    np.testing.assert_allclose(read_audio(content, rate), tone_burst(rate), rtol=0, atol=FLOAT)


@pytest.mark.parametrize("path", SOUNDS, ids=lambda path: path.name)
def test_recordings_equal_ffmpeg(path: Path):
    """At their own rate; 1e-3: two decoders of a lossy stream round differently."""
    frames = []
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        resampler = av.AudioResampler(format="fltp")
        for frame in container.decode(audio=0):
            frames += [out.to_ndarray().mean(axis=0) for out in resampler.resample(frame)]
    expected = np.concatenate(frames)
    actual = read_audio(path, rate)
    assert abs(len(actual) - len(expected)) <= 0.005 * len(expected)  # encoders' padding is not cut everywhere
    common = min(len(actual), len(expected))
    np.testing.assert_allclose(actual[:common], expected[:common], rtol=0, atol=1e-3)


# --- streams -------------------------------------------------------------------------------------------------------


@cache
def long_file(container: str) -> bytes:
    """Stereo at 44.1 kHz, longer than any block that the decoders hand on."""
    rng = np.random.default_rng(1)
    samples = 0.1 * rng.standard_normal((44_100 * 25, 2))
    if container == "ipod":
        return encode_with_ffmpeg(samples, 44_100, "ipod", "aac")
    return encode_with_soundfile(samples, 44_100, container)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3", "ipod"])
@pytest.mark.parametrize("seconds", [0.0501, 1.0, 13.7, 1000.0])
def test_blocks_equal_the_whole(container: str, seconds: float):
    """Exactly: both come from one decoder and one resampler."""
    content = long_file(container)
    blocks = list(iter_audio(content, seconds))
    size = round(seconds * SAMPLE_RATE)
    assert {len(block) for block in blocks[:-1]} <= {size}
    assert 0 < len(blocks[-1]) <= size
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(content))


def test_resampled_blocks_equal_soxr_in_one_go():
    import soxr

    samples, rate = soundfile.read(io.BytesIO(long_file("WAV")), dtype="float32")
    expected = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
    np.testing.assert_allclose(read_audio(long_file("WAV")), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
def test_memory_is_constant(tmp_path: Path, channels: int):
    """An hour, 460 MB as float32 at 32 kHz, in blocks of 10 s within 40 MB."""
    path = tmp_path / "hour.wav"
    with wave.open(str(path), "wb") as out:
        out.setparams((channels, 2, 8_000, 0, "NONE", ""))
        for _ in range(60):
            out.writeframes(bytes(2 * channels * 8_000 * 60))
    tracemalloc.start()
    try:
        samples = sum(len(block) for block in iter_audio(path, 10.0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert samples == 3600 * SAMPLE_RATE
    assert peak < 40e6


def test_block_without_samples_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        iter_audio(b"", 1e-6)


def test_sample_rate_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        read_audio(SOUNDS[0], 0)


def test_stream_that_changes_its_rate():
    """Two MP3 files joined, as players join them: each part at its own rate."""
    first = encode_with_soundfile(multichannel(44_100, 2), 44_100, "MP3")
    second = encode_with_soundfile(multichannel(22_050, 1), 22_050, "MP3")
    samples = read_audio(first + second)
    assert len(samples) == pytest.approx(2 * SAMPLE_RATE, rel=0.06)
    np.testing.assert_array_equal(np.concatenate(list(iter_audio(first + second, 0.3))), samples)


def test_chained_ogg_is_read_to_its_end():
    """Recorded web radio: libsndfile alone would stop after the first song."""
    content = encode_with_soundfile(multichannel(44_100, 1), 44_100, "OGG")
    assert len(read_audio(content)) == SAMPLE_RATE
    assert len(read_audio(content + content)) == pytest.approx(2 * SAMPLE_RATE, rel=0.03)


# --- sources -------------------------------------------------------------------------------------------------------


def test_every_kind_of_source(tmp_path: Path):
    path = RECORDINGS / "cow.ogg"
    content = path.read_bytes()
    expected = read_audio(path)
    with gzip.open(tmp_path / "cow.ogg.gz", "wb") as out:
        out.write(content)
    for source in (str(path), content, bytearray(content), memoryview(content), io.BytesIO(content)):
        np.testing.assert_array_equal(read_audio(source), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(read_audio(file), expected)
    with gzip.open(tmp_path / "cow.ogg.gz") as file:
        np.testing.assert_array_equal(read_audio(file), expected)
    later = io.BytesIO(b"junk" + content)
    later.seek(4)
    np.testing.assert_array_equal(read_audio(later), expected)


@pytest.mark.parametrize("name", ["cow.ogg", "air_raid_siren.mp3"])
def test_pipe(tmp_path: Path, name: str):
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=((RECORDINGS / name).read_bytes(),))
    writer.start()
    actual = read_audio(fifo)
    writer.join()
    np.testing.assert_array_equal(actual, read_audio(RECORDINGS / name))


@pytest.mark.parametrize("name", ["cow.wav", "cow.raw", "cow.gsm", "cow.txt", "cow", "Kuh \udce4\n.mp3"])
def test_content_counts_not_the_name(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes((RECORDINGS / "cow.ogg").read_bytes())
    np.testing.assert_array_equal(read_audio(path), read_audio(RECORDINGS / "cow.ogg"))


def test_imports_are_lazy():
    """A WAV at 32 kHz needs libsndfile alone; torch is never imported."""
    code = f"""
import sys, io, wave
from preprocessing import read_audio
from preprocessing.labels import labels
heavy = {{"torch", "torchaudio", "av", "soxr", "soundfile", "librosa", "scipy"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
file = io.BytesIO()
with wave.open(file, "wb") as out:
    out.setparams((1, 2, 32000, 0, "NONE", ""))
    out.writeframes(bytes(1000))
read_audio(file.getvalue())
assert heavy & set(sys.modules) == {{"soundfile"}}
read_audio({str(RECORDINGS / "air_raid_siren.mp3")!r})
assert heavy & set(sys.modules) == {{"soundfile", "soxr", "av"}}
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60)


def test_package_gives_its_public_face():
    import preprocessing

    for name in preprocessing.__all__:
        assert getattr(preprocessing, name).__module__ if name != "SAMPLE_RATE" else preprocessing.SAMPLE_RATE == 32_000
    with pytest.raises(AttributeError):
        preprocessing.nonsense  # noqa: B018


# --- what cannot be read -------------------------------------------------------------------------------------------


@contextmanager
def another_user() -> Iterator[None]:
    """Root may read everything: give its rights up for a moment."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def test_errors_name_the_file_and_the_way_out(tmp_path: Path):
    text = tmp_path / "text.wav"
    text.write_text("This is no sound.\n" * 100)
    empty = tmp_path / "empty.flac"
    empty.touch()
    assert error_of(tmp_path / "none.wav") == f"{tmp_path}/none.wav: no such file; check the path"
    assert error_of(tmp_path) == f"{tmp_path}: is a folder; give the files in it"
    assert error_of(text) == f"{text}: is no audio that libsndfile or ffmpeg can read; convert it to WAV or FLAC"
    assert error_of(empty) == f"{empty}: is empty (0 bytes); record or download it again"
    assert error_of("/dev/zero") == "/dev/zero: is neither a file nor a pipe; give a sound file"
    assert error_of(b"\x00" * 1000).startswith("<1000 bytes>: is no audio")
    assert "null" in error_of("a\0b.wav")
    assert error_of("x" * 5000 + ".wav").endswith("; check the path")
    assert "binary mode" in error_of(io.StringIO("text"))
    closed = io.BytesIO(b"")
    closed.close()
    assert "cannot be read" in error_of(closed)
    with pytest.raises(TypeError, match="path, bytes or a binary file object"):
        read_audio(42)  # type: ignore[arg-type]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "secret.wav"
    path.write_bytes(encode_with_soundfile(multichannel(8_000, 1), 8_000, "WAV"))
    path.chmod(0)
    monkeypatch.chdir(tmp_path)  # the folders above may be open to root alone
    with another_user():
        message = error_of(path.name)
    assert message == "secret.wav: no permission to read it; change the file's mode or owner"


def test_video_without_sound():
    assert "has no audio stream; give a file with sound" in error_of(silent_video())


def test_no_samples():
    for container in ("WAV", "AIFF", "CAF"):
        assert "no audio" in error_of(encode_with_soundfile(np.zeros((0, 1)), 44_100, container))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e300])
@pytest.mark.parametrize("place", [0, 99_999, 1_500_000])
def test_samples_that_are_no_numbers(value: float, place: int):
    samples = np.zeros((1_600_000, 1))
    samples[place] = value
    content = encode_with_soundfile(samples, 32_000, "WAV", "DOUBLE")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = error_of(content)
    assert "NaN or infinite samples" in message or "times full scale" in message


def wav_header(rate: int, channels: int = 1, data: bytes = bytes(2000), claim: int | None = None) -> bytes:
    claim = len(data) if claim is None else claim
    return b"".join(
        [
            b"RIFF" + min(claim + 36, 2**32 - 1).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little"),
            b"\x01\0" + channels.to_bytes(2, "little") + rate.to_bytes(4, "little"),
            (rate * channels * 2 % 2**32).to_bytes(4, "little") + (channels * 2 % 2**16).to_bytes(2, "little"),
            b"\x10\0data" + claim.to_bytes(4, "little") + data,
        ]
    )


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 10**9, 2**32 - 1])
def test_impossible_sample_rates(rate: int):
    error_of(wav_header(rate))


@pytest.mark.parametrize(("rate", "channels", "claim"), [(32_000, 1, 2**32 - 1), (32_000, 1, 2**31), (32_000, 1, 0)])
def test_header_that_lies_about_its_length(rate: int, channels: int, claim: int):
    """Recorders that crashed or streamed: what is there is read, without the memory that the header asks for."""
    tracemalloc.start()
    try:
        assert len(read_audio(wav_header(rate, channels, claim=claim))) == 1000
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_playlists_open_nothing(tmp_path: Path):
    """A text that ffmpeg takes for a playlist must not make it open other files."""
    (tmp_path / "sound.wav").write_bytes(encode_with_soundfile(multichannel(8_000, 1), 8_000, "WAV"))
    (tmp_path / "sound.aac").write_bytes(encode_with_ffmpeg(multichannel(16_000, 1), 16_000, "adts", "aac"))
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/sound.aac\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile sound.wav\n",
    }.items():
        (tmp_path / name).write_text(text)
        error_of(tmp_path / name)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3", "CAF", "AIFF", "ipod"])
def test_truncated_files_give_what_is_left(container: str):
    """At 60 % of the bytes: between 50 and 65 % of the sound; MP4's index lies at the end and is gone."""
    rng = np.random.default_rng(2)
    samples = 0.1 * rng.standard_normal((44_100 * 5, 1))
    if container == "ipod":
        content = encode_with_ffmpeg(samples, 44_100, "ipod", "aac")
        error_of(content[: len(content) * 6 // 10])
        return
    content = encode_with_soundfile(samples, 44_100, container)
    start = read_audio(content[: len(content) * 6 // 10])
    assert 0.5 <= len(start) / (5 * SAMPLE_RATE) <= 0.65
    common = len(start) - 2_000  # the last frame and the resampler's end
    np.testing.assert_allclose(start[:common], read_audio(content)[:common], rtol=0, atol=1e-6)


def test_damage_is_logged_once(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    samples = 0.1 * np.random.default_rng(3).standard_normal((44_100 * 5, 1))
    content = encode_with_soundfile(samples, 44_100, "FLAC")
    path = tmp_path / "broken.flac"
    path.write_bytes(content[: len(content) // 2])
    assert len(read_audio(path)) > 2 * SAMPLE_RATE
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages == [f"{path}: 2.4 s of the declared 5.0 s can be decoded"]


# --- properties ----------------------------------------------------------------------------------------------------


@cache
def seeds() -> tuple[bytes, ...]:
    """A tenth of a second in every format."""
    rng = np.random.default_rng(4)
    one, two = (0.3 * rng.standard_normal((4_800, channels)) for channels in (1, 2))
    files = [encode_with_soundfile(two, 48_000, c) for c in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64")]
    files += [encode_with_soundfile(one, 48_000, c, s) for c, s in (("OGG", "OPUS"), ("WAV", "DOUBLE"), ("VOC", None))]
    files += [encode_with_soundfile(one, 8_000, "WAV", s) for s in ("ULAW", "IMA_ADPCM", "GSM610", "PCM_U8")]
    files += [
        encode_with_ffmpeg(two, 48_000, container, codec)
        for container, codec in (("ipod", "aac"), ("webm", "libopus"), ("adts", "aac"), ("ac3", "ac3"), ("mp3", "mp3"))
    ]
    files += [encode_with_soundfile(np.zeros((4_800, 1)), 48_000, "WAV"), silent_video()]
    files.append(encode_with_soundfile(np.full((4_800, 1), np.nan), 48_000, "WAV", "FLOAT"))
    return tuple(files)


@st.composite
def hostile_bytes(draw: st.DrawFn) -> bytes:
    """A real file truncated, with flipped bits, with overwritten stretches, joined to another; or plain noise."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=2000))
    content = bytearray(draw(st.sampled_from(seeds())))
    for _ in range(draw(st.integers(0, 8))):
        if content:
            # headers lie at the start: half of the damage goes there
            limit = min(len(content), 100) if draw(st.booleans()) else len(content)
            content[draw(st.integers(0, limit - 1))] ^= 1 << draw(st.integers(0, 7))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(content)))
        content[place : place + draw(st.integers(0, 200))] = draw(st.binary(max_size=200))
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    if draw(st.integers(0, 4)) == 0:
        content += draw(st.sampled_from(seeds()))
    return bytes(content)


FUZZ = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def check_outcome(source, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            samples = read_audio(source)
        except AudioError as error:
            samples = None
            assert str(error).isprintable()  # noqa: PT017
    if samples is not None:
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert len(samples)
        assert np.isfinite(samples).all()
    assert not caught
    assert capfd.readouterr() == ("", "")


@settings(FUZZ, max_examples=150)
@given(content=hostile_bytes())
def test_bytes_give_a_waveform_or_an_audio_error(content: bytes, capfd: pytest.CaptureFixture[str]):
    """Nothing else: no other exception, no line on stdout or stderr."""
    check_outcome(content, capfd)


@settings(FUZZ, max_examples=100)
@given(content=hostile_bytes(), suffix=st.sampled_from(["", ".wav", ".mp3", ".flac", ".raw", ".m4a", ".txt", ".vox"]))
def test_files_give_a_waveform_or_an_audio_error(
    content: bytes, suffix: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    path = tmp_path / f"sound{suffix}"
    path.write_bytes(content)
    check_outcome(path, capfd)
