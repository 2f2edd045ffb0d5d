"""Finding windows by example and by class."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audioset_dcls.store.database import Database, Facts, stored_path
from audioset_dcls.store.index import Index
from audioset_dcls.store.search import Hit, render
from audioset_dcls.store.update import update
from audioset_dcls.store.vectors import catch_up, is_caught_up, to_bytes
from audioset_dcls.tagging.tagger import Tagger
from tests.conftest import RECORDINGS, environment
from tests.test_imports import ROOT
from tests.test_printed import EVIL, harmless

COMMAND = [sys.executable, "-c", "from audioset_dcls.commands.search import main; main()"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all test recordings, by the embedded tagger."""
    path = tmp_path_factory.mktemp("store") / "sounds.db"
    assert update(path, [str(RECORDINGS)], Tagger(jobs=1), quiet=True).exit_status == 0
    return path


def search(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, cwd=ROOT)


def random_store(path: Path, recordings: int, windows: int, size: int = 16) -> np.ndarray:
    """A store of random embeddings (N, D) with touching windows of 5 s, and one class that scores their first value."""
    embeddings = np.random.default_rng(0).normal(size=(recordings * windows, size)).astype(np.float16)
    with Database(path, writable=True, facts=Facts("0", "random.onnx", 5.0, 5.0, ("Dog",), size)) as database:
        with database.transaction():
            for number, embedding in enumerate(embeddings):
                recording, window = divmod(number, windows)
                if not window:
                    row = [stored_path(f"/{recording}.wav"), 0, 0, str(recording), 5.0 * windows]
                    database.insert("INSERT INTO recordings VALUES (NULL, CAST(? AS TEXT), ?, ?, ?, ?)", row)
                start = 5.0 * window
                row = [recording + 1, start, start + 5, to_bytes(embedding)]
                database.insert("INSERT INTO windows VALUES (NULL, ?, ?, ?, ?)", row)
                score = round(float(1 / (1 + np.exp(-embedding[0]))) * 10_000)
                database.write("INSERT INTO scores VALUES (?, 0, ?)", [(number + 1, score)])
        catch_up(database)
        assert is_caught_up(database)
    return embeddings.astype(np.float32)


def test_a_cut_finds_its_recording(store: Path) -> None:
    """Half a second of each recording finds the whole, or a sound of the same kind, first."""
    index, tagger, right = Index(store), Tagger(jobs=1), 0
    names = ("cow.ogg", "rooster.ogg", "helicopter.ogg", "applause.wav", "phone_ringing.oga", "bird_song.ogg")
    for name in names:
        right += Path(index.like(RECORDINGS / name, 0.2, 1.2, tagger=tagger)[0].file).name == name
    assert right >= 5
    (hit,) = index.like(RECORDINGS / "cow.ogg", top=1, tagger=tagger)
    assert hit.score == pytest.approx(1, abs=1e-3)  # but for float16
    assert hit.end == pytest.approx(4.474, abs=1e-3)


def test_by_class(store: Path) -> None:
    hits = Index(store).label("  DOMESTIC animals, pets")
    assert {"dog_bark.ogg", "cat_meow.voc"} <= {Path(hit.file).name for hit in hits[:4]}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    with pytest.raises(ValueError, match=r"knows no 'Dgo'; did you mean 'Dog'\?"):
        Index(store).label("Dgo")


@pytest.mark.parametrize("by", ["index", "comparing"])
def test_the_best_are_found_and_neighbours_merged(by: str, tmp_path: Path) -> None:
    """Against cosines computed here; 40 recordings of 5 windows that touch."""
    path = tmp_path / "s.db"
    embeddings = random_store(path, 40, 5)
    if by == "comparing":
        path.with_name("s.db.usearch").unlink()
    query = np.random.default_rng(1).normal(size=16).astype(np.float32)
    cosines = embeddings @ query / np.linalg.norm(embeddings, axis=1) / np.linalg.norm(query)
    hits = Index(path).like(query, top=8)
    order = np.argsort(-cosines)
    assert hits[0].score == pytest.approx(cosines[order[0]], abs=2e-3)
    assert hits[0].file == f"/{order[0] // 5}.wav"
    assert len(hits) == 8
    places = [(hit.file, hit.start) for hit in hits]
    assert len(set(places)) == 8
    for hit in hits:  # merged: no other place of the recording touches it
        others = [other for other in hits if other.file == hit.file and other is not hit]
        assert all(other.start > hit.end or other.end < hit.start for other in others)
    inside = {(f"/{number // 5}.wav", number % 5 * 5.0) for number in order[:8]}
    assert all(any(hit.file == file and hit.start <= start < hit.end for hit in hits) for file, start in inside)
    everything = Index(path).like(query, top=1000)
    assert len(everything) == 40  # all windows of a recording are one place
    assert {(hit.start, hit.end) for hit in everything} == {(0.0, 25.0)}
    best = Index(path).label("dog", top=1)[0]
    assert best.file == f"/{embeddings[:, 0].argmax() // 5}.wav"


def test_the_command(store: Path, tmp_path: Path) -> None:
    done = search(store, "--label", "chicken, ROOSTER", "--top", "1", "--clips", tmp_path / "clips", "--format", "json")
    assert done.returncode == 0, done.stderr
    (hit,) = json.loads(done.stdout)
    assert Path(hit["file"]).name == "rooster.ogg"
    (clip,) = (tmp_path / "clips").iterdir()
    info = soundfile.info(clip)
    assert clip.name.startswith("rooster.ogg_0h00m00.000s_chicken_ROOSTER")
    assert info.samplerate == soundfile.info(RECORDINGS / "rooster.ogg").samplerate
    assert info.duration == pytest.approx(hit["end"] - hit["start"], abs=0.05)
    done = search(store, RECORDINGS / "cow.ogg", "--from", "0:01", "--to", "2.5", "--top", "2")
    assert done.stdout.splitlines()[0].endswith("tests/data/recordings/cow.ogg")
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["STORE"], 2, "name a recording to look for, or a class with --label"),
        (["STORE", "x.wav", "--label", "Dog"], 2, "name a recording"),
        (["STORE", "--label", "Dog", "--to", "3"], 2, "--from and --to are for a recording"),
        (["STORE", "x.wav", "--from", "3", "--to", "0:02"], 2, "--to must be later than --from"),
        (["STORE", "--label", "Dgo"], 2, "did you mean 'Dog'?"),
        (["STORE", "--label", "Dog", "--top", "0"], 2, "top must be at least 1"),
        (["none.db", "--label", "Dog"], 1, "none.db: no such store; make it with dcls-index RECORDINGS -o none.db"),
        (["STORE", "none.wav"], 1, "none.wav: no such file"),
        (["STORE", "COW", "--from", "99"], 1, "cow.ogg: ends before 99.0 s"),
    ],
)
def test_mistakes(arguments: list[str], status: int, words: str, store: Path) -> None:
    names = {"STORE": str(store), "COW": str(RECORDINGS / "cow.ogg")}
    done = search(*(names.get(argument, argument) for argument in arguments))
    assert done.returncode == status
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_names_of_strangers() -> None:
    hits = [Hit(f"/=1{EVIL}\udcff", 0.0, 1.0, 0.5), Hit("=cmd", 0.0, 1.0, 0.5)]
    for style in ("table", "json", "csv"):
        assert harmless(render(hits, style)), style
    assert len(render(hits, "table").splitlines()) == 2
    (row,) = csv.DictReader(io.StringIO(render(hits[1:], "csv")))
    assert row["file"] == "'=cmd"


def test_by_class_nothing_heavy_is_imported(store: Path) -> None:
    """0.1 s of 0.3: ONNX Runtime, usearch and the decoders stay out."""
    code = (
        "import sys; from audioset_dcls.commands.search import main\n"
        "try: main()\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store), "--label", "dog"], env=environment(), capture_output=True, text=True
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "sqlite3" in loaded
    assert loaded & {"onnxruntime", "usearch", "av", "soxr", "torch", "sklearn", "matplotlib", "yaml"} == set()
