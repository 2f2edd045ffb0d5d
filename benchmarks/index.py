"""How soon a store is made and searched: python benchmarks/index.py FOLDER [--sizes 10000 100000 1000000]

FOLDER: for the stores, 2.5 kB a window. The windows are those of the test recordings, repeated with noise on their
embeddings until there are enough. Searches are in turns, the best of several; numpy's has all embeddings in memory as
float32 already, and is what no search that compares all can be faster than.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from audioset_dcls.store.database import LOWEST_SCORE, SCORE_UNIT, Database, Facts, stored_path
from audioset_dcls.store.search import search_label, search_like
from audioset_dcls.store.update import update
from audioset_dcls.store.vectors import SUFFIX, catch_up, normalized, read_embeddings, to_bytes
from audioset_dcls.tagging.results import Options, Result
from audioset_dcls.tagging.tagger import Tagger
from preprocessing.files import sha256_of

ROOT = Path(__file__).resolve().parents[1]
RECORDINGS = ROOT / "tests" / "data" / "recordings"
A_RECORDING = 720  # windows: an hour of 5 s
NOISE = 0.5  # of the embeddings' standard deviation
TOP = 20


def best(call: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def heard(tagger: Tagger) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N, D) and scores (N, C) of the test recordings."""
    names = sorted(str(path) for path in RECORDINGS.iterdir() if path.suffix not in (".md", ".csv"))
    results = [one for one in tagger.tag_all(names, Options()) if isinstance(one, Result)]
    return np.concatenate([one.embeddings for one in results]), np.concatenate([one.timeline for one in results])


def make(path: Path, size: int, tagger: Tagger, embeddings: np.ndarray, scores: np.ndarray) -> None:
    """A store of `size` windows, without its usearch index."""
    rng = np.random.default_rng(0)
    noise = NOISE * embeddings.std()
    kept = [np.flatnonzero(row >= LOWEST_SCORE) for row in scores]
    units = [np.rint(row[chosen] * SCORE_UNIT).astype(int).tolist() for row, chosen in zip(scores, kept, strict=True)]
    classes = [chosen.tolist() for chosen in kept]
    facts = Facts(sha256_of(tagger.model.path), tagger.model.path.name, 5.0, 5.0, tagger.labels, embeddings.shape[1])
    with Database(path, writable=True, facts=facts) as database:
        for first in range(0, size, A_RECORDING):
            count = min(A_RECORDING, size - first)
            numbers = np.arange(first, first + count)
            rows = embeddings[numbers % len(embeddings)] + rng.normal(0, noise, (count, embeddings.shape[1]))
            with database.transaction():
                row = [stored_path(f"/{first}.wav"), 0, 0, str(first), 5.0 * count]
                recording = database.insert("INSERT INTO recordings VALUES (NULL, CAST(? AS TEXT), ?, ?, ?, ?)", row)
                database.write(
                    "INSERT INTO windows VALUES (?, ?, ?, ?, ?)",
                    (
                        (int(number) + 1, recording, 5.0 * place, 5.0 * place + 5, to_bytes(embedding))
                        for place, (number, embedding) in enumerate(zip(numbers, rows, strict=True))
                    ),
                )
                database.write(
                    "INSERT INTO scores VALUES (?, ?, ?)",
                    (
                        (int(number) + 1, one, score)
                        for number in numbers
                        for one, score in zip(classes[number % len(classes)], units[number % len(classes)], strict=True)
                    ),
                )


def measure(path: Path, tagger: Tagger, query: np.ndarray, jobs: int) -> dict[str, float]:
    """Times in s, sizes in bytes."""
    index = path.with_name(path.name + SUFFIX)
    found: dict[str, float] = {}
    with Database(path, writable=True) as database:
        size = int(database.value("SELECT count(*) FROM windows"))
        found["store, bytes a window"] = path.stat().st_size / size
        found["all compared, from the store"] = best(lambda: search_like(database, query, TOP), 2)
        exact = search_like(database, query, TOP)
        began = time.perf_counter()
        catch_up(database, jobs)
        found["usearch: added windows/s"] = size / (time.perf_counter() - began)
        found["usearch, bytes a window"] = index.stat().st_size / size
        found["usearch"] = best(lambda: search_like(database, query, TOP), 5)
        near = search_like(database, query, TOP)
        found["usearch: of the best 20"] = len(
            {(hit.file, hit.start) for hit in exact} & {(hit.file, hit.start) for hit in near}
        )
        found["by class"] = best(lambda: search_label(database, "Dog", TOP), 5)
        everything = np.concatenate([normalized(values) for _, values in read_embeddings(database)])
        found["numpy, in memory"] = best(lambda: np.argpartition(-(everything @ normalized(query)), TOP)[:TOP], 3)
    command = [sys.executable, "-c", "from audioset_dcls.commands.search import main; main()", str(path)]
    for name, arguments in {
        "dcls-search --label": ["--label", "Dog"],
        "dcls-search FILE": [str(RECORDINGS / "dog_bark.ogg")],
    }.items():
        run = [*command, *arguments]
        found[name] = best(lambda: subprocess.run(run, check=True, stdout=subprocess.DEVNULL, cwd=ROOT), 3)  # noqa: B023
    return found


def indexing(folder: Path, tagger: Tagger) -> float:
    """Windows a second of dcls-index on files of one minute, decoding included."""
    import soundfile

    rng = np.random.default_rng(0)
    (folder / "minutes").mkdir()
    for number in range(10):
        soundfile.write(folder / "minutes" / f"{number}.flac", rng.normal(0, 0.1, 60 * 32_000), 32_000)
    began = time.perf_counter()
    done = update(folder / "minutes.db", [str(folder / "minutes")], tagger, quiet=True)
    return done.windows / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--jobs", type=int, default=1, metavar="N")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    tagger = Tagger(jobs=arguments.jobs)
    print(f"dcls-index: {indexing(arguments.folder, tagger):.1f} windows/s", flush=True)
    embeddings, scores = heard(tagger)
    query = embeddings[3] + np.random.default_rng(1).normal(0, 0.1, embeddings.shape[1])
    for size in arguments.sizes:
        path = arguments.folder / f"{size}.db"
        make(path, size, tagger, embeddings, scores)
        for name, value in measure(path, tagger, query.astype(np.float32), arguments.jobs).items():
            print(f"{size}: {name}: {value:.4g}", flush=True)
        path.unlink()
        path.with_name(path.name + SUFFIX).unlink()


if __name__ == "__main__":
    main()
