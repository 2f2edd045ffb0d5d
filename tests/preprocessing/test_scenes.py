import h5py
import numpy as np
import pytest

from preprocessing.hdf5 import ClipFileError, ClipWriter
from preprocessing.scenes import Recordings, Scenes, drawing_weights, load_recordings

RATE = 32_000


def tone(hertz, seconds):
    return np.round(8_000 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.int16)


@pytest.fixture
def recordings():
    """Three tones of 0.5, 1 and 20 s, each its own class."""
    waveforms = [tone(500, 0.5), tone(1_000, 1), tone(2_000, 20)]
    teacher = np.array([[0.25, 0, 0], [0, 0.5, 0.5], [0, 0, 0]], np.float16)
    return Recordings(waveforms, np.eye(3, dtype=bool), teacher)


def loudest_frequency(waveform):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return spectrum.argmax() * RATE / len(waveform)


def test_a_scene_has_the_promised_form(recordings):
    scene = Scenes(recordings, 10, seconds=2.56)[3]
    assert scene["waveform"].shape == (81_920,)
    assert scene["waveform"].dtype == np.int16
    assert scene["target"].dtype == np.bool_
    assert scene["teacher"].dtype == np.float16
    assert scene["clip"] == 3


def test_a_scene_depends_on_seed_and_index_alone(recordings):
    first = [Scenes(recordings, 10, seconds=1)[index]["waveform"] for index in range(5)]
    backwards = Scenes(recordings, 10, seconds=1)
    again = [backwards[index]["waveform"] for index in reversed(range(5))][::-1]
    other = [Scenes(recordings, 10, seconds=1, seed=1)[index]["waveform"] for index in range(5)]
    for scene, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(scene, same)
        assert not np.array_equal(scene, different)
    assert len({scene.tobytes() for scene in first}) == 5


def test_what_is_heard_is_what_is_labelled(recordings):
    scenes = Scenes(recordings, 60, seconds=3, recordings_per_scene=(1, 1), noise=(-60, -40))
    for index in range(60):
        scene = scenes[index]
        frequency = (500, 1_000, 2_000)[int(np.flatnonzero(scene["target"])[0])]
        assert scene["target"].sum() == 1
        assert 1 / 1.16 < loudest_frequency(scene["waveform"]) / frequency < 1.16  # the speed moves it


def test_speeds_and_places_vary_within_their_range(recordings):
    one = Recordings(recordings.waveforms[:1], np.ones((1, 1), bool))
    scenes = Scenes(one, 200, seconds=4, recordings_per_scene=(1, 1), repeat=0, noise=(-90, -89))
    starts, lengths = [], []
    for index in range(200):
        heard = np.flatnonzero(np.abs(scenes[index]["waveform"]) > 40)
        starts.append(heard[0] / RATE)
        lengths.append((heard[-1] - heard[0]) / RATE)
    assert min(starts) < 0.3
    assert max(starts) > 3.0
    assert 0.5 / 1.16 < min(lengths) < 0.46
    assert 0.54 < max(lengths) < 0.5 * 1.16


def test_levels_lie_in_their_range(recordings):
    scenes = Scenes(recordings, 100, seconds=1, recordings_per_scene=(1, 1), level=(-20, -6), noise=(-90, -80))
    peaks = 20 * np.log10([np.abs(scenes[index]["waveform"].astype(float)).max() / 32_767 for index in range(100)])
    assert -20.5 < peaks.min() < -18
    assert -8 < peaks.max() < -5.5


def test_soft_targets_are_joined_as_independent_events(recordings):
    """1 - prod(1 - y), with y the harder of label and score: compared with a product written out."""
    scenes = Scenes(recordings, 200, seconds=1, recordings_per_scene=(2, 2))
    soft = {0: [1, 0, 0], 1: [0, 1, 0.5], 2: [0, 0, 1]}
    pairs = {tuple(1 - (1 - np.array(soft[a])) * (1 - np.array(soft[b]))): {a, b} for a in soft for b in soft}
    met = set()
    for index in range(200):
        scene = scenes[index]
        chosen = pairs[tuple(scene["teacher"].astype(float))]
        assert set(np.flatnonzero(scene["target"])) == chosen
        met.add(frozenset(chosen))
    assert len(met) == 6


def test_without_a_teacher_the_labels_are_the_targets(recordings):
    scene = Scenes(Recordings(recordings.waveforms, recordings.target), 1, seconds=1)[0]
    np.testing.assert_array_equal(scene["teacher"], scene["target"])


def test_the_number_of_recordings_is_in_its_range(recordings):
    many = Recordings([tone(200 + 100 * place, 0.2) for place in range(40)], np.eye(40, dtype=bool))
    scenes = Scenes(many, 200, seconds=1, recordings_per_scene=(1, 4))
    counts = [scenes[index]["target"].sum() for index in range(200)]
    assert set(counts) == {1, 2, 3, 4}


def test_weights_decide_how_often_a_recording_comes(recordings):
    scenes = Scenes(recordings, 400, 0.1, (1, 1), weight=np.array([0, 1, 3.0]))
    drawn = np.sum([scenes[index]["target"] for index in range(400)], axis=0)
    assert drawn[0] == 0
    assert 60 < drawn[1] < 140  # 100 expected, standard deviation 8.7


def test_long_recordings_are_cut_where_they_sound():
    half_silent = np.concatenate([np.zeros(20 * RATE, np.int16), tone(700, 20)])
    one = Recordings([half_silent], np.ones((1, 1), bool))
    scenes = Scenes(one, 50, 1, (1, 1), noise=(-90, -80))
    heard = sum(np.abs(scenes[index]["waveform"]).max() > 100 for index in range(50))
    assert heard > 38  # 44 expected: one random part in two is silent, of three the loudest is taken


def test_silent_recordings_leave_the_canvas_finite():
    scene = Scenes(Recordings([np.zeros(RATE, np.int16)], np.ones((1, 1), bool)), 1, 1)[0]
    assert np.isfinite(scene["waveform"]).all()


def test_no_recordings_are_an_error():
    with pytest.raises(ValueError, match="at least one recording"):
        Scenes(Recordings([], np.zeros((0, 3), bool)), 1)


def write(path, names, labels=("a", "b"), samples=None, teacher=True):
    with ClipWriter(path, labels, samples=RATE, teacher=teacher) as writer:
        waveforms = np.tile(np.arange(1, RATE + 1, dtype=np.int16), (len(names), 1))
        scores = np.full((len(names), len(labels)), 0.5) if teacher else None
        writer.append(names, waveforms, np.zeros((len(names), len(labels)), bool), teacher=scores)
        writer.finish({"samples": np.array(samples, np.int32)} if samples else None)


def test_recordings_are_loaded_without_their_padding(tmp_path):
    write(tmp_path / "a.h5", ["x", "y"], samples=[100, RATE])
    write(tmp_path / "b.h5", ["z"])
    loaded = load_recordings([tmp_path / "a.h5", tmp_path / "b.h5"])
    assert [len(waveform) for waveform in loaded.waveforms] == [100, RATE, RATE]
    np.testing.assert_array_equal(loaded.waveforms[0], np.arange(1, 101))
    assert loaded.teacher is not None
    assert loaded.teacher.shape == (3, 2)


def test_a_file_without_scores_leaves_all_without(tmp_path):
    write(tmp_path / "a.h5", ["x"])
    write(tmp_path / "b.h5", ["z"], teacher=False)
    assert load_recordings([tmp_path / "a.h5", tmp_path / "b.h5"]).teacher is None


def test_files_with_other_labels_are_not_joined(tmp_path):
    write(tmp_path / "a.h5", ["x"])
    write(tmp_path / "b.h5", ["z"], labels=("a", "c"))
    with pytest.raises(ClipFileError, match=r"b\.h5: has other labels"):
        load_recordings([tmp_path / "a.h5", tmp_path / "b.h5"])
    with h5py.File(tmp_path / "a.h5") as file:  # still whole
        assert file["waveform"].shape == (1, RATE)


def test_drawing_weights_go_by_the_rarest_label():
    target = np.zeros((9, 3), bool)
    target[:, 0] = True  # nine recordings have it
    target[:4, 1] = True
    target[0, 2] = True
    np.testing.assert_allclose(drawing_weights(target), [1, *[1 / 2] * 3, *[1 / 3] * 5])
