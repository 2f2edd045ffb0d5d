"""Own classes from a handful of clips: found again, predicted honestly, refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

from audioset_dcls.store.database import Database, StoreError
from audioset_dcls.store.examples import Example, ExamplesError, read_examples
from audioset_dcls.store.fit import learn, threshold_for
from audioset_dcls.store.samples import Clip, Samples, collect
from audioset_dcls.store.teaching import Taught, teach
from audioset_dcls.store.update import update
from audioset_dcls.store.vectors import normalized
from audioset_dcls.tagging.selection import read_thresholds
from audioset_dcls.tagging.tagger import ModelError, Tagger
from tests.conftest import RECORDINGS, environment, write_tones
from tests.store.sounds import FOUND, LEARNED, write_clips
from tests.test_imports import write_tagger
from tests.test_printed import EVIL, harmless

TEACH = [sys.executable, "-c", "from audioset_dcls.commands.teach import main; main()"]


@pytest.fixture(scope="module")
def embedded() -> Tagger:
    return Tagger(jobs=1)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    for label, names in LEARNED.items():
        write_clips(folder, label, names, 5)
    return folder


@pytest.fixture(scope="module")
def taught(examples: Path, embedded: Tagger, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return teach(examples, tmp_path_factory.mktemp("taught") / "my.onnx", embedded)


def test_three_classes_from_five_clips_find_other_recordings(taught: Taught, tmp_path: Path) -> None:
    tagger = Tagger(taught.path, jobs=1)
    assert tagger.labels == ("alarm", "bird", "boom")
    assert taught.lesson.doubts == ()
    assert [one.average_precision for one in taught.lesson.expected] == [1, 1, 1]
    scores: dict[str, list[np.ndarray]] = {}
    for label, name in FOUND.items():
        paths = write_clips(tmp_path, label, (name,), 3, seed=1)
        scores[label] = [tagger(path).scores for path in paths]
        assert all(tagger.labels[int(one.argmax())] == label for one in scores[label])
    nothing = [tagger(RECORDINGS / name).scores for name in ("camera_shutter.oga", "speech_front_center.wav")]
    for number, label in enumerate(tagger.labels):  # above all others, so that a threshold can find it
        others = [one[number] for other, ones in {**scores, "": nothing}.items() if other != label for one in ones]
        assert min(one[number] for one in scores[label]) > max(others)


def test_the_file_is_a_tagger_like_any_other(taught: Taught, embedded: Tagger) -> None:
    """Same embedding and log-mel, scores of the embedding's direction; the old last layers are gone."""
    tagger, lesson = Tagger(taught.path, jobs=1), taught.lesson
    waveforms = np.random.default_rng(0).normal(0, 0.1, (2, 70_000)).astype(np.float32)
    outputs = ("scores", "embedding", "log_mel")
    scores, embedding, log_mel = tagger.model.run(waveforms, outputs)
    _, same_embedding, same_log_mel = embedded.model.run(waveforms, outputs)
    np.testing.assert_array_equal(embedding, same_embedding)
    np.testing.assert_array_equal(log_mel, same_log_mel)
    expected = 1 / (1 + np.exp(-(normalized(embedding) @ lesson.weight + lesson.bias)))
    np.testing.assert_allclose(scores, expected, atol=1e-5)  # float32 weights
    onnx.checker.check_model(onnx.load(taught.path), full_check=True)
    assert taught.path.stat().st_size < embedded.model.path.stat().st_size
    assert (tagger.window, tagger.hop) == (embedded.window, embedded.hop)
    assert tagger.metadata["taught"]["classes"]["bird"]["clips"] == 5
    thresholds = read_thresholds(taught.thresholds, tagger.labels)
    assert thresholds == {one.label: pytest.approx(one.threshold, abs=1e-4) for one in lesson.expected}


@pytest.mark.slow
def test_added_to_the_classes_of_the_tagger(examples: Path, embedded: Tagger, taught: Taught, tmp_path: Path) -> None:
    teach(examples, tmp_path / "all.onnx", embedded, add=True)
    tagger = Tagger(tmp_path / "all.onnx", jobs=1)
    assert tagger.labels == (*embedded.labels, "alarm", "bird", "boom")
    for name in ("cow.ogg", "rooster.ogg"):
        scores = tagger(RECORDINGS / name).scores
        np.testing.assert_allclose(scores[:527], embedded(RECORDINGS / name).scores, atol=1e-6)
        np.testing.assert_allclose(scores[527:], Tagger(taught.path, jobs=1)(RECORDINGS / name).scores, atol=1e-6)
    onnx.checker.check_model(onnx.load(tmp_path / "all.onnx"), full_check=True)
    with pytest.raises(ExamplesError, match=r"^[^\n]* has a class 'alarm' already; give it another name$"):
        teach(examples, tmp_path / "twice.onnx", tagger, add=True)
    assert not (tmp_path / "twice.onnx").exists()


def test_the_command_and_dcls_tag(examples: Path, tmp_path: Path) -> None:
    """One example is broken, one is a duplicate, one has a hostile class: a line each, and the rest is learned."""
    for label in ("alarm", "bird"):
        (tmp_path / "in" / label).mkdir(parents=True)
        for path in sorted((examples / label).iterdir())[:3]:
            (tmp_path / "in" / label / path.name).write_bytes(path.read_bytes())
    (tmp_path / "in" / "alarm" / "broken.wav").write_text("no sound")
    first = next((tmp_path / "in" / "bird").iterdir())
    (tmp_path / "in" / "bird" / "zz.wav").write_bytes(first.read_bytes())
    (tmp_path / "in" / "bird").rename(tmp_path / "in" / f"=bird{EVIL.replace('/', '')}")
    command = [*TEACH, "in", "-o", "my.onnx", "--jobs", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert harmless(done.stdout)
    assert harmless(done.stderr)
    notes = done.stderr.splitlines()
    assert len(notes) == 3
    assert "the same content as" in notes[0]
    assert "broken.wav" in notes[1]
    assert "dcls-tag --model my.onnx --thresholds my.thresholds.csv" in notes[2]
    assert done.stdout.splitlines()[0].split()[:2] == ["class", "clips"]
    tag = [sys.executable, "-c", "from audioset_dcls.commands.tag import main; main()", "--model", "my.onnx"]
    tag += ["--thresholds", "my.thresholds.csv", str(RECORDINGS / "busy_signal.oga"), "--format", "json"]
    done = subprocess.run(tag, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert [tag["label"] for tag in json.loads(done.stdout)[0]["tags"]] == ["alarm"], done.stderr


def blobs(count: int, classes: int, size: int = 8, mislabelled: int = 0, windows: int = 2) -> Samples:
    """Clips of separate clouds, the last cloud the background; the first `mislabelled` ones are called class_1."""
    rng = np.random.default_rng(0)
    clips, rows = [], []
    for number in range(count * (classes + 1)):
        kind = number % (classes + 1)
        name = "class_1" if number < mislabelled * (classes + 1) and kind == 0 else f"class_{kind}"
        clips.append(Clip(f"{number}.wav", 0.0, None, str(number), set() if kind == classes else {name}))
        rows.append(rng.normal(0, 0.3, (windows, size)) + 2 * np.eye(size)[kind])
    numbers = np.repeat(np.arange(len(clips)), windows)
    return Samples(clips, np.concatenate(rows).astype(np.float32), numbers)


def test_a_mislabelled_clip_is_the_most_doubtful() -> None:
    lesson = learn(blobs(8, 2, mislabelled=1))
    assert (lesson.doubts[0].path, lesson.doubts[0].label, lesson.doubts[0].heard) == ("0.wav", "class_1", "class_0")
    assert lesson.confusion.sum() == 24
    np.testing.assert_array_equal(learn(blobs(8, 2)).confusion, np.diag([8, 8, 8]))


def test_windows_of_a_recording_are_never_on_both_sides() -> None:
    """Labels without any relation to the sound, two parts a recording that are nearly the same: nothing is expected."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 32))
    clips = [
        Clip(f"{number}.wav", float(part), part + 1.0, str(number), {"x"} if number % 2 else set())
        for number in range(60)
        for part in range(2)
    ]
    embeddings = np.repeat(centres, 2, axis=0) + rng.normal(0, 0.01, (120, 32))
    lesson = learn(Samples(clips, embeddings.astype(np.float32), np.arange(120)))
    (expected,) = lesson.expected
    assert expected.average_precision < 0.75  # 1 where the other half of a recording is known; 0.5 is chance
    assert expected.low < 0.5 < expected.high


def test_thresholds() -> None:
    truth = np.array([1, 1, 0, 1, 0, 0], bool)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.1])
    assert threshold_for(truth, scores, 0.9) == pytest.approx(0.75)
    assert threshold_for(truth, scores, 0.75) == pytest.approx(0.4)
    assert threshold_for(truth, scores, 0.2) == pytest.approx(0.05)
    assert threshold_for(~truth, scores, 0.9) == pytest.approx(0.05)  # never reached: the highest precision
    assert threshold_for(np.array([1, 0], bool), np.array([0.5, 0.5]), 0.5) == pytest.approx(0.25)


def without(samples: Samples, keep: list[int]) -> Samples:
    clips = [samples.clips[number] for number in keep]
    rows = np.concatenate([samples.embeddings[samples.clip == number] for number in keep])
    return Samples(clips, rows, np.repeat(np.arange(len(keep)), 2))


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ([2, 5, 8], "no class has an example that can be read"),
        ([0, 3, 6], "'class_0' is the only class; add another one, or a folder background/"),
        ([0, 1, 4, 5, 8], "'class_0' has 1 recording; give 2 at least, 5 to 50 are better"),
        ([0, 3, 2], "1 recordings are not 'class_0'; add 2 at least, in a folder background/"),
    ],
)
def test_too_few_examples(keep: list[int], words: str) -> None:
    with pytest.raises(ExamplesError, match=f"^{words}[^\n]*$"):
        learn(without(blobs(4, 2), keep))


def test_an_empty_class_and_other_mistakes(tmp_path: Path) -> None:
    write_tones(tmp_path / "in" / "dog", ["a.wav", "b.wav"])
    (tmp_path / "in" / "owl").mkdir()
    for source, words in {
        tmp_path / "in": r"in/owl: no audio files in this folder; add 5 to 50 clips, or remove the folder",
        tmp_path / "none": "none: is no folder and no .csv",
        tmp_path / "in" / "owl": "holds no examples; make a folder for each class in it",
        csv(tmp_path, "file,start\na.wav,0"): r"has no column 'end'; its first line must be file,start,end,label",
        csv(tmp_path, "file,start,end,label\na.wav,x,,dog"): "line 2 has no time in seconds but 'x'",
        csv(tmp_path, "file,start,end,label\na.wav,3,2,dog"): "line 2 ends before it starts",
        csv(tmp_path, "file,start,end,label\na.wav,,,"): "line 2 names no class",
        csv(tmp_path, "file,start,end,label\n,,,x"): "line 2 names no file",
        csv(tmp_path, "\x00\xff\ufffe"): "has no column",
    }.items():
        with pytest.raises(ExamplesError, match=f"^[^\n]*{words}[^\n]*$"):
            read_examples(source)


def csv(folder: Path, text: str) -> Path:
    path = folder / f"{abs(hash(text))}.csv"
    path.write_text(text)
    return path


def test_three_ways_to_give_the_same_examples(tmp_path: Path) -> None:
    """A CSV, and label files of Audacity and Raven beside recordings."""
    (path, other) = write_tones(tmp_path / "in", ["a.wav", "b.flac"], 3)
    places = [(0.5, 1.25, "owl"), (1.0, 2.0, "fox")]
    wanted = [Example(str(path), *place) for place in places] + [Example(str(other), 0.0, 1.0, None)]
    (tmp_path / "in" / "a.txt").write_text("0.5\t1.25\towl\n\\\t100\t200\n1.0\t2.0\tfox\n\n")
    (tmp_path / "in" / "b.Table.1.selections.txt").write_text(
        "Selection\tView\tBegin Time (s)\tEnd Time (s)\tAnnotation\n"
        "1\tWaveform\t0.0\t1.0\tBackground\n1\tSpectrogram\t0.0\t1.0\tBackground\n"
    )
    assert read_examples(tmp_path / "in") == wanted
    csv_file = csv(tmp_path, f"file,start,end,label\nin/a.wav,0.5,1.25,owl\nin/a.wav,1,2,fox\n{other},,1,other\n")
    assert read_examples(csv_file) == wanted
    rows = "".join(f"{file}\t{start}\t{end}\t{start}\towl\n" for file, start, end in (("x", 60.0, 61.0),))
    (tmp_path / "in" / "a.txt").write_text(
        "Begin Path\tBegin Time (s)\tEnd Time (s)\tFile Offset (s)\tLabel\n" + rows.replace("\t60.0\towl", "\t0.5\towl")
    )
    assert read_examples(tmp_path / "in")[0] == Example(str(path), 0.5, 1.5, "owl")


def test_parts_are_cut_and_widened_to_a_window(tmp_path: Path) -> None:
    """A model whose embedding tells how loud its waveform is."""
    write_tagger(tmp_path / "tiny.onnx")
    tagger = Tagger(tmp_path / "tiny.onnx", jobs=1)
    levels = np.repeat([0.0, 0.1, 0.0, 0.5], 32_000)
    soundfile.write(tmp_path / "a.wav", levels, 32_000, subtype="FLOAT")
    path = str(tmp_path / "a.wav")
    parts = [(1.25, 1.75), (3.0, 4.0), (3.25, None), (9.0, 10.0)]
    samples = collect([Example(path, *part, "x") for part in parts], tagger, 1.0, 1.0, on_failure=(failed := []).append)
    np.testing.assert_allclose(
        [samples.embeddings[number][0] ** 2 / 32_000 for number in range(3)], [0.1**2, 0.25, 0.25], rtol=1e-4
    )
    assert samples.clip.tolist() == [0, 1, 2]
    assert failed == [f"{path}: ends before the example at 9.0 s"]


def test_answers_are_learned_from(examples: Path, embedded: Tagger, tmp_path: Path) -> None:
    """Yes and no to windows of a store, without any other example; those of what is not in it are told of."""
    path = tmp_path / "s.db"
    update(path, [str(examples)], embedded, quiet=True)
    with Database(path, writable=True) as database, database.transaction():
        rows = list(
            database.query(
                'SELECT path, content, start, "end" FROM windows JOIN recordings ON recordings.id = recording'
            )
        )
        for recording, content, start, end in rows[:-1]:
            answer = "yes" if Path(recording).parent.name == "bird" else "no"
            database.insert("INSERT INTO answers VALUES (?, ?, ?, 'Chirp', ?, 0.5, '')", [content, start, end, answer])
        database.insert("INSERT INTO answers VALUES ('gone', 0, 5, 'Chirp', 'yes', 0.5, '')", [])
        database.insert("INSERT INTO answers VALUES (?, ?, ?, 'Chirp', 'unsure', 0.5, '')", list(rows[-1][1:]))
    notes: list[str] = []
    taught = teach(None, tmp_path / "my.onnx", embedded, path, on_note=notes.append)
    assert notes == [f"{path}: 1 answers are about recordings that are not in it any more"]
    (expected,) = taught.lesson.expected
    assert (expected.label, expected.recordings, expected.average_precision) == ("Chirp", 5, 1)
    assert Tagger(taught.path, jobs=1)(RECORDINGS / "bird_song.ogg").scores[0] > 0.9
    with pytest.raises(StoreError, match="holds embeddings of another model"):
        teach(None, tmp_path / "other.onnx", Tagger(taught.path, jobs=1), path)


def test_a_base_that_keeps_its_weights_elsewhere(embedded: Tagger, tmp_path: Path) -> None:
    model = onnx.load(embedded.model.path)
    onnx.save(model, tmp_path / "base.onnx", save_as_external_data=True, location="w.bin")
    for name in ("dog", "background"):
        write_tones(tmp_path / "in" / name, ["a.wav", "b.wav"], 1 if name == "dog" else 2)
    with pytest.raises(ModelError, match=r"^[^\n]*base.onnx: keeps weights in another file[^\n]*$"):
        teach(tmp_path / "in", tmp_path / "my.onnx", Tagger(tmp_path / "base.onnx", jobs=1))
