"""Scenes: functions of (seed, index), whose sound, targets, levels and filters are what they say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from preprocessing.clips.layout import ClipFileError
from preprocessing.clips.writer import ClipWriter
from preprocessing.scenes import (
    NOISE_EXPONENTS,
    Plan,
    Recordings,
    Scenes,
    drawing_weights,
    load_recordings,
    noise_bank,
    room_bank,
)

RATE = 32_000


def tone(hertz: float, seconds: float) -> np.ndarray:
    return np.round(8_000 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.int16)


def recordings(waveforms: list[np.ndarray], teacher: np.ndarray | None = None) -> Recordings:
    """Each waveform has a class of its own."""
    length = np.array([len(waveform) for waveform in waveforms])
    return Recordings(
        np.concatenate(waveforms),
        np.cumsum(length) - length,
        length,
        np.eye(len(waveforms), dtype=bool),
        teacher,
        np.ones(len(waveforms)),
        [str(number) for number in range(len(waveforms))],
    )


class Plain(Scenes):
    """Recordings alone: no noise, background, filter, room or clipping."""

    NOISE = 0.0, (-60.0, -12.0)
    BACKGROUND = 0.0, (-30.0, -8.0)
    FILTER = ROOM = CLIP = 0.0


@pytest.fixture
def tones() -> Recordings:
    """Tones of 0.5, 1 and 20 s."""
    teacher = np.array([[0.25, 0, 0], [0, 0.5, 0.5], [0, 0, 0]], np.float16)
    return recordings([tone(500, 0.5), tone(1_000, 1), tone(2_000, 20)], teacher)


def loudest_frequency(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * RATE / len(waveform))


def test_a_batch_has_the_promised_form(tones: Recordings) -> None:
    batch = Scenes(tones)([3, 4])
    assert batch["waveform"].shape == (2, 81_920)
    assert batch["waveform"].dtype == torch.int16
    assert batch["target"].shape == batch["teacher"].shape == (2, 3)
    assert batch["target"].dtype == torch.bool
    assert batch["teacher"].dtype == torch.float16


def test_a_scene_depends_on_seed_and_index_alone(tones: Recordings) -> None:
    """Not on the batch it is in, nor on the order: a resumed run and another process make the same."""
    together = Scenes(tones, seconds=1)(range(40))["waveform"]
    backwards = Scenes(tones, seconds=1)
    alone = torch.cat([backwards([index])["waveform"] for index in reversed(range(40))]).flip(0)
    # float32: an FFT of several rows rounds otherwise than one of a single row
    assert (together.int() - alone.int()).abs().max() <= 1
    other = Scenes(tones, seconds=1, seed=1)(range(40))["waveform"]
    assert not any(torch.equal(scene, different) for scene, different in zip(together, other, strict=True))
    assert len({scene.numpy().tobytes() for scene in together}) == 40


def test_what_is_heard_is_what_is_labelled(tones: Recordings) -> None:
    batch = Plain(tones, seconds=3, max_recordings=1)(range(60))
    for waveform, target in zip(batch["waveform"].numpy(), batch["target"].numpy(), strict=True):
        assert target.sum() == 1
        frequency = (500, 1_000, 2_000)[int(target.argmax())]
        assert 1 / 1.16 < loudest_frequency(waveform) / frequency < 1.16  # the speed moves it


def test_resampling_is_linear_interpolation(tones: Recordings) -> None:
    """The samples of an event against numpy's interpolation of the recording at its speed."""
    scenes = Plain(tones, seconds=3, max_recordings=1, repeat=0.0)
    plan = scenes.plan([1])
    (event,) = plan.events
    part = tones.samples[event.base : event.base + event.span]
    at = np.linspace(0, event.span - 1, event.samples)
    expected = np.interp(at, np.arange(event.span), part) * event.gain
    heard = scenes([1])["waveform"][0, event.offset : event.offset + event.samples]
    # positions are float32, whose steps near 96,000 are 0.008 samples: at most 4 of them, times the steepest slope
    np.testing.assert_allclose(heard, expected, atol=1 + 4 * 0.008 * np.abs(np.diff(expected)).max())


def test_speeds_and_offsets_vary_within_their_range() -> None:
    waveforms = Plain(recordings([tone(500, 0.5)]), seconds=4, max_recordings=1, repeat=0.0)(range(200))[
        "waveform"
    ].numpy()
    heard = [np.flatnonzero(np.abs(waveform) > 40) for waveform in waveforms]
    starts = [first[0] / RATE for first in heard]
    lengths = [(first[-1] - first[0]) / RATE for first in heard]
    assert min(starts) < 0.3
    assert max(starts) > 3.0
    assert 0.5 / 1.16 < min(lengths) < 0.46
    assert 0.54 < max(lengths) < 0.5 * 1.16


def test_levels_lie_in_their_range(tones: Recordings) -> None:
    waveforms = Plain(tones, seconds=1, max_recordings=1, level=(-20, -6))(range(100))["waveform"].double()
    peaks = 20 * torch.log10(waveforms.abs().amax(1) / 32_767)
    assert -20.5 < peaks.min() < -18
    assert -8 < peaks.max() < -5.5


def test_short_recordings_are_repeated(tones: Recordings) -> None:
    short = recordings([tone(500, 0.2)])
    once = Plain(short, seconds=2, max_recordings=1, repeat=0.0)(range(30))["waveform"]
    often = Plain(short, seconds=2, max_recordings=1, repeat=1.0)(range(30))["waveform"]
    assert (once != 0).float().mean(1).max() < 0.12
    assert (often != 0).float().mean(1).max() > 0.3


def test_soft_targets_are_joined_as_independent_events(tones: Recordings) -> None:
    """1 - prod(1 - y), with y = max(label, score): compared with a product written out."""
    batch = Plain(tones, seconds=1, max_recordings=2)(range(200))
    soft = {0: [1, 0, 0], 1: [0, 1, 0.5], 2: [0, 0, 1]}
    pairs = {tuple(1 - (1 - np.array(soft[a])) * (1 - np.array(soft[b]))): {a, b} for a in soft for b in soft}
    pairs |= {tuple(soft[a]): {a} for a in soft}
    met = set()
    for target, teacher in zip(batch["target"].numpy(), batch["teacher"].double().numpy(), strict=True):
        chosen = pairs[tuple(teacher)]
        assert set(np.flatnonzero(target)) == chosen
        met.add(frozenset(chosen))
    assert len(met) == 6


def test_without_stored_scores_there_are_labels_alone() -> None:
    assert set(Scenes(recordings([tone(500, 1)]))([0])) == {"waveform", "target"}


def test_the_number_of_recordings_is_in_its_range() -> None:
    many = recordings([tone(200 + 100 * place, 0.2) for place in range(40)])
    counts = Plain(many, seconds=1, max_recordings=4)(range(200))["target"].sum(1)
    assert set(counts.tolist()) == {1, 2, 3, 4}


def test_weights_decide_how_often_a_recording_comes(tones: Recordings) -> None:
    tones.weight = np.array([0, 1, 3.0])
    drawn = Plain(tones, seconds=0.5, max_recordings=1)(range(400))["target"].sum(0)
    assert drawn[0] == 0
    assert 60 < drawn[1] < 140  # 100 expected, standard deviation 8.7


def test_long_recordings_are_cut_where_they_sound() -> None:
    half_silent = recordings([np.concatenate([np.zeros(20 * RATE, np.int16), tone(700, 20)])])
    waveforms = Plain(half_silent, seconds=1, max_recordings=1)(range(50))["waveform"]
    assert (waveforms.abs().amax(1) > 100).sum() > 38  # 44 expected: of three random parts the loudest is taken


def test_a_background_is_fainter_and_not_labelled() -> None:
    class Behind(Plain):
        BACKGROUND = 1.0, (-30.0, -20.0)

    sounds = recordings([tone(500, 0.5), tone(3_000, 8)])
    sounds.weight = np.array([1.0, 0.0])
    batch = Behind(sounds, seconds=2, max_recordings=1, repeat=0.0)(range(20))
    assert batch["target"].tolist() == [[True, False]] * 20
    for waveform in batch["waveform"].numpy():
        spectrum = np.abs(np.fft.rfft(waveform))
        frequency = np.fft.rfftfreq(len(waveform), 1 / RATE)
        background = spectrum[(frequency > 2_900) & (frequency < 3_100)].max() / len(waveform) * 2
        event = np.abs(waveform).max()
        assert -31 < 20 * np.log10(background / (event - background)) < -19


def test_noise_has_the_colour_and_the_level() -> None:
    bank = noise_bank(4)
    frequency = np.fft.rfftfreq(bank.shape[1], 1 / RATE)
    for row, exponent in zip(bank, NOISE_EXPONENTS, strict=True):
        power = np.square(np.abs(np.fft.rfft(row)))
        low, high = (power[(frequency > edge) & (frequency < 2 * edge)].mean() for edge in (200, 6_400))
        assert np.log2(low / high) / 5 == pytest.approx(exponent, abs=0.15)  # 5 octaves; a few thousand bins each

    class Noisy(Plain):
        NOISE = 1.0, (-20.0, -20.0)

    silent = Noisy(recordings([tone(500, 0.1)]), seconds=2, max_recordings=1, repeat=0.0)
    waveform = silent(range(8))["waveform"].double()
    assert torch.all(waveform.abs().amax(1) > 0)
    quiet = torch.tensor([float(scene[scene.abs() > 0].abs().median()) for scene in waveform])
    assert torch.all(quiet < 0.1 * waveform.abs().amax(1))


def test_filters_cut_what_lies_outside_their_band() -> None:
    """White noise through 300 to 3,400 Hz: a Butterworth response of order 4 falls by 24 dB an octave."""
    rng = np.random.default_rng(0)
    scenes = Plain(recordings([rng.integers(-8_000, 8_000, 3 * RATE).astype(np.int16)]), seconds=2)
    noise = torch.from_numpy(rng.standard_normal((1, 2 * RATE)).astype(np.float32))
    plan = Plan(filters=[(300.0, 3_400.0, 0.0, 0, 0.0)], clip=[1.0])
    filtered = scenes._filter(noise.clone(), plan)
    power = filtered.double().numpy()[0]
    ratio = np.abs(np.fft.rfft(power)) / np.abs(np.fft.rfft(noise.double().numpy()[0]))
    frequency = np.fft.rfftfreq(2 * RATE, 1 / RATE)
    decibels = 20 * np.log10(np.median(ratio[(frequency > 900) & (frequency < 1_100)]))
    for hertz in (150, 6_800):
        near = (frequency > 0.98 * hertz) & (frequency < 1.02 * hertz)
        assert 20 * np.log10(np.median(ratio[near])) - decibels == pytest.approx(-24, abs=1.5)


def test_rooms_decay_and_leave_the_direct_sound_alone() -> None:
    rooms = np.fft.irfft(room_bank(2 * RATE, rooms=8))
    np.testing.assert_allclose(np.square(rooms).sum(1), 1, rtol=1e-3)
    assert np.abs(rooms[:, : int(0.002 * RATE)]).max() < 1e-6
    early, late = np.square(rooms[:, : RATE // 2]).sum(1), np.square(rooms[:, RATE // 2 : RATE]).sum(1)
    assert (late < 0.1 * early).all()


def test_clipped_scenes_stay_within_full_scale(tones: Recordings) -> None:
    class Clipped(Plain):
        CLIP = 1.0

    waveforms = Clipped(tones, seconds=1, max_recordings=1, level=(-3, -3))(range(20))["waveform"].int()
    assert waveforms.abs().max() == 32_767
    assert ((waveforms.abs() == 32_767).sum(1) > 20).all()


def test_silent_recordings_are_silent_scenes() -> None:
    batch = Scenes(recordings([np.zeros(RATE, np.int16)]), seconds=1)(range(8))
    assert not batch["waveform"].any()


def test_no_recordings_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one recording"):
        Scenes(
            Recordings(
                np.zeros(0, np.int16), *[np.zeros(0, np.int64)] * 2, np.zeros((0, 3), bool), None, np.zeros(0), []
            )
        )


def write(path: Path, names: list[str], labels: tuple[str, ...] = ("a", "b"), samples: list[int] | None = None) -> None:
    with ClipWriter(path, labels, samples=RATE, teacher=True) as writer:
        waveforms = np.tile(np.arange(1, RATE + 1, dtype=np.int16), (len(names), 1))
        scores = np.full((len(names), len(labels)), 0.5)
        writer.append(names, waveforms, np.zeros((len(names), len(labels)), bool), teacher=scores)
        writer.finish({"samples": np.array(samples, np.int32)} if samples else None)


def test_recordings_are_loaded_without_their_padding(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", ["x", "y"], samples=[100, RATE])
    write(tmp_path / "b.h5", ["z"])
    for _ in range(2):  # packed, then mapped
        loaded = load_recordings([tmp_path / "a.h5", tmp_path / "b.h5"], [1.0, 0.5])
        assert loaded.length.tolist() == [100, RATE, RATE]
        np.testing.assert_array_equal(loaded.waveform(0), np.arange(1, 101))
        np.testing.assert_array_equal(loaded.waveform(2), np.arange(1, RATE + 1))
        assert loaded.names == ["x", "y", "z"]
        assert loaded.teacher is not None
        assert loaded.teacher.shape == (3, 2)
        assert loaded.weight[2] == loaded.weight[0] / 2


def test_excluded_recordings_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", ["x", "y"])
    (tmp_path / "exclude.txt").write_text("x\n")
    assert load_recordings([tmp_path / "a.h5"], exclude=tmp_path / "exclude.txt").names == ["y"]


def test_a_changed_file_is_packed_anew(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", ["x"], samples=[100])
    load_recordings([tmp_path / "a.h5"])
    (tmp_path / "a.h5").unlink()
    write(tmp_path / "a.h5", ["x"], samples=[200])
    assert load_recordings([tmp_path / "a.h5"]).waveform(0).tolist() == list(range(1, 201))


def test_files_with_other_labels_are_not_joined(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", ["x"])
    write(tmp_path / "b.h5", ["z"], labels=("a", "c"))
    with pytest.raises(ClipFileError, match=r"b\.h5: has other labels"):
        load_recordings([tmp_path / "a.h5", tmp_path / "b.h5"])


def test_drawing_weights_go_by_the_rarest_label() -> None:
    target = np.zeros((9, 3), bool)
    target[:, 0] = True  # nine recordings have it
    target[:4, 1] = True
    target[0, 2] = True
    np.testing.assert_allclose(drawing_weights(target), [1, *[1 / 2] * 3, *[1 / 3] * 5])


def test_unlabelled_recordings_are_drawn_by_what_the_teacher_hears() -> None:
    target = np.zeros((6, 2), bool)
    target[:4, 0] = True
    teacher = np.zeros((6, 2), np.float16)
    teacher[4, 1] = 0.75
    teacher[0, 1] = 0.75  # has a label: the teacher is not asked
    np.testing.assert_allclose(drawing_weights(target, teacher), [1 / 2, 1 / 2, 1 / 2, 1 / 2, 1, 1 / 2])
