"""What a child process decodes is what this process would; its death costs the recording that it worked on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from preprocessing.audio import AudioError, iter_audio, read_audio
from preprocessing.decoding.header import read_header
from preprocessing.decoding.process import DecoderPool

RECORDINGS = Path(__file__).parents[2] / "data" / "recordings"


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    with DecoderPool() as pool:
        yield pool


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """The processes that this test has started and that are still there."""
    before = processes()
    return lambda: processes() - before


@pytest.fixture
def long(tmp_path: Path) -> str:
    """Many blocks: more than fits into a pipe, so the child is at work until they are taken."""
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 20 * 32_000), 32_000)
    return str(tmp_path / "long.wav")


@pytest.mark.parametrize("name", ["cow.ogg", "air_raid_siren.mp3", "cat_meow.voc"])
def test_the_same_blocks(name: str, pool: DecoderPool) -> None:
    theirs = list(pool.iter_audio(RECORDINGS / name, 0.7, 32_000))
    ours = list(iter_audio(RECORDINGS / name, 0.7, 32_000))
    assert len(theirs) == len(ours)
    for one, other in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_recording_that_cannot_be_read(pool: DecoderPool, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(AudioError) as here:
        list(iter_audio(tmp_path / "text.wav", 1, 32_000))
    with pytest.raises(AudioError) as there:
        list(pool.iter_audio(tmp_path / "text.wav", 1, 32_000))
    assert str(there.value) == str(here.value)
    assert len(list(pool.iter_audio(RECORDINGS / "cow.ogg", 10, 32_000))) == 1


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_decoder_that_dies(
    number: signal.Signals, pool: DecoderPool, long: str, children: Callable[[], set[int]]
) -> None:
    """By a fault in a library, a failed check in one, or for want of memory: only its recording is lost."""
    blocks = pool.iter_audio(long, 1, 32_000)
    next(blocks)
    (child,) = children()
    os.kill(child, number)
    with pytest.raises(AudioError, match=rf"long\.wav: the decoder crashed on it \({number.name}\)"):
        list(blocks)
    assert sum(map(len, pool.iter_audio(long, 1, 32_000))) == 20 * 32_000


def test_a_child_that_dies_between_two_recordings_costs_none(
    pool: DecoderPool, long: str, children: Callable[[], set[int]]
) -> None:
    list(pool.iter_audio(long, 1, 32_000))
    (child,) = children()
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert len(list(pool.iter_audio(long, 1, 32_000))) == 20


def test_a_recording_that_is_left_in_the_middle(pool: DecoderPool, long: str) -> None:
    blocks = pool.iter_audio(long, 1, 32_000)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    assert len(list(pool.iter_audio(RECORDINGS / "cow.ogg", 10, 32_000))) == 1


def test_children_serve_many_recordings_and_end_with_the_pool(long: str, children: Callable[[], set[int]]) -> None:
    with DecoderPool(2) as pool:
        before = children()
        for _ in range(3):
            list(pool.iter_audio(long, 10, 32_000))
        assert children() == before
        half_read = pool.iter_audio(long, 1, 32_000)
        next(half_read)
    assert children() == set()


def test_several_threads(pool: DecoderPool, long: str) -> None:
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(sum(map(len, pool.iter_audio(long, 1, 32_000)))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [20 * 32_000] * 4


def test_pipes_are_read_in_this_process(pool: DecoderPool, children: Callable[[], set[int]]) -> None:
    """`dcls-tag <(command) ...` names a descriptor that children do not have."""
    read, write = os.pipe()
    with os.fdopen(write, "wb") as file:
        file.write((RECORDINGS / "cow.ogg").read_bytes()[:30_000])
    blocks = list(pool.iter_audio(f"/dev/fd/{read}", 10, 32_000))
    os.close(read)
    assert blocks
    assert children() == set()


def test_what_headers_tell(pool: DecoderPool, long: str, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    assert pool.header(long) == read_header(long) == (20, soundfile.info(long).samplerate)
    for nothing in (str(tmp_path / "text.wav"), "missing.wav", str(tmp_path)):
        assert pool.header(nothing) == read_header(nothing) == (None, None)


def test_the_header_comes_with_the_samples(pool: DecoderPool, children: Callable[[], set[int]], tmp_path: Path) -> None:
    """Another child need not be asked; once it was taken the file is looked at again."""
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.zeros(800), 8000)
    assert len(list(pool.iter_audio(path, 10, 32_000))) == 1
    soundfile.write(path, np.zeros(1600), 16_000)
    (first,) = children()
    assert pool.header(path) == (0.1, 8000)
    assert pool.header(path) == read_header(path) == (0.1, 16_000)
    assert children() == {first}


@pytest.mark.parametrize(
    ("name", "rate"), [("air_raid_siren.mp3", 22_050), ("thunder.wav", 8_000), ("camera_shutter.oga", 96_000)]
)
def test_the_rate_of_a_file(name: str, rate: int) -> None:
    header = read_header(str(RECORDINGS / name))
    assert header.rate == rate
    assert header.seconds == pytest.approx(len(read_audio(RECORDINGS / name)) / 32_000, abs=0.1)


def test_the_rate_of_what_only_ffmpeg_reads(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert read_header(str(tmp_path / "a.m4a")).rate == 16_000


def processes() -> set[int]:
    """This process's children, whoever started them."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}
