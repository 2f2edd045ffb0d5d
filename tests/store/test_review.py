"""The review page's server, through HTTP; and what it makes of answers."""

from __future__ import annotations

import http.client
import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile

from audioset_dcls.store.answers import Review, save_answer
from audioset_dcls.store.database import Database, StoreError
from audioset_dcls.store.review.server import ReviewServer
from audioset_dcls.store.thresholds import update_threshold
from audioset_dcls.store.update import update
from audioset_dcls.tagging.selection import read_thresholds
from audioset_dcls.tagging.tagger import Tagger
from tests.conftest import chromium, environment, write_tones
from tests.store.test_search import random_store
from tests.test_imports import write_tagger

if TYPE_CHECKING:
    from playwright.sync_api import Playwright

COMMAND = [sys.executable, "-c", "from audioset_dcls.commands.review import main; main()"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Of real files, by a model that scores how loud they are."""
    write_tagger(tmp_path / "tiny.onnx")
    write_tones(tmp_path / "in", ["a.wav", "b.wav", "c.wav"])
    write_tones(tmp_path / "in", ["d.wav"], 12)
    update(tmp_path / "s.db", [str(tmp_path / "in")], Tagger(tmp_path / "tiny.onnx", jobs=1), quiet=True)
    return tmp_path / "s.db"


@pytest.fixture
def server(store: Path) -> Iterator[ReviewServer]:
    thresholds = store.with_name("thresholds.csv")
    with Database(store, writable=True) as database:

        def keep(threshold: float | None) -> None:
            if threshold is not None:
                update_threshold(thresholds, "Dog", threshold, database.facts.labels)

        with ReviewServer(database, "Dog", 0.6, keep) as serving:
            thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
            thread.start()
            yield serving
            serving.shutdown()
            thread.join()


def address(server: ReviewServer, path: str, **query: object) -> str:
    more = "".join(f"&{name}={value}" for name, value in query.items())
    return server.url.replace("/?", f"{path}?") + more


def get(server: ReviewServer, path: str, **query: object) -> bytes:
    with urlopen(address(server, path, **query), timeout=20) as response:
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        return bytes(response.read())


def post(server: ReviewServer, body: object) -> dict[str, object]:
    request = Request(address(server, "/answers"), json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=20) as response:
        return dict(json.load(response))


def test_from_the_page_to_the_threshold(server: ReviewServer, store: Path) -> None:
    """What the page does: load, hear, see, answer until nothing is left; all is in the store and in the CSV."""
    page = get(server, "/").decode()
    assert "dcls-review" in page
    assert "NONCE" not in page
    assert "http" not in page.replace("http-equiv", "")  # nothing is asked of another host
    state = json.loads(get(server, "/state"))
    assert (state["label"], state["threshold"]) == ("Dog", None)
    answers = 0
    while state["candidate"] is not None:
        number = state["candidate"]["window"]
        samples, rate = soundfile.read(io.BytesIO(get(server, "/audio.wav", window=number)))
        assert rate == 32_000
        assert len(samples) == pytest.approx(32_000 * (state["candidate"]["end"] - state["candidate"]["start"]), abs=64)
        assert np.abs(samples).max() == pytest.approx(0.9, abs=0.01)
        assert get(server, "/spectrogram.png", window=number).startswith(b"\x89PNG")
        state = post(server, {"window": number, "answer": ("yes", "yes", "yes", "no", "unsure")[answers]})
        answers += 1
    assert answers == 5
    with Database(store) as database:  # what a new start would show
        assert Review(database, "Dog", 0.6).precisions() == server.review.precisions()
    assert state["precisions"][-1]["answered"] == 4
    assert 0.6 < state["precisions"][-1]["estimate"] < 0.75  # 3.5 of 5: 3 of 4, drawn to the middle
    assert state["precisions"][-1]["low"] < 0.6 < 0.9 < state["precisions"][-1]["high"] < 1
    assert state["threshold"] == 0.01
    assert read_thresholds(store.with_name("thresholds.csv"), ["Dog"]) == {"Dog": 0.01}
    with Database(store) as database:
        rows = list(database.query("SELECT label, answer, score FROM answers"))
    assert sorted(row[1] for row in rows) == ["no", "unsure", "yes", "yes", "yes"]
    assert {row[0] for row in rows} == {"Dog"}


def test_answers_outlive_the_rows_that_they_are_about(server: ReviewServer, store: Path) -> None:
    """Indexed again after a removal: the same part of the same recording is answered already."""
    state = json.loads(get(server, "/state"))
    post(server, {"window": state["candidate"]["window"], "answer": "yes"})
    folder, tagger = store.parent / "in", Tagger(store.parent / "tiny.onnx", jobs=1)
    contents = {path: path.read_bytes() for path in folder.iterdir()}
    for path in contents:
        path.unlink()
    write_tones(folder, ["other.wav"], 2)
    assert update(store, [str(folder)], tagger, quiet=True).removed == 4
    for path, content in contents.items():
        path.write_bytes(content)
    update(store, [str(folder)], tagger, quiet=True)
    with Database(store) as database:
        review = Review(database, "Dog", 0.9)
    assert (review.answers >= 0).sum() == 1
    assert len(review.answers) == 6


def test_only_who_has_the_token(server: ReviewServer) -> None:
    base = server.url.split("?")[0]
    for url in (
        base,
        f"{base}?token=",
        f"{base}?token=wrong",
        f"{base}state?token=%ff",
        f"{base}?token={server.token}x",
    ):
        with pytest.raises(HTTPError, match="403") as refused:
            urlopen(url, timeout=20)
        refused.value.close()
    with pytest.raises(HTTPError, match="403") as refused:
        urlopen(Request(f"{base}answers", b'{"window": 1, "answer": "yes"}'), timeout=20)
    refused.value.close()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", f"/?token={server.token}", headers={"Host": "evil.example"})  # a name that leads here
    assert connection.getresponse().status == 403
    connection.close()
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/answers", b'{"window": 1, "answer": "maybe"}', 400),
        ("/answers", b'{"window": 99, "answer": "yes"}', 400),
        ("/answers", b'{"window": true, "answer": "yes"}', 400),
        ("/answers", b"[]", 400),
        ("/answers", b"\xff", 400),
        ("/answers", b" " * 2000, 413),
        ("/elsewhere", b"{}", 404),
        ("/audio.wav", None, 400),
        ("/audio.wav&window=99", None, 400),
        ("/audio.wav&window=-1", None, 400),
        ("/../../etc/passwd", None, 404),
    ],
)
def test_requests_that_are_none(path: str, body: bytes | None, status: int, server: ReviewServer, store: Path) -> None:
    path, _, query = path.partition("&")
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"{address(server, path)}&{query}", body), timeout=20)
    assert refused.value.code == status
    refused.value.close()
    with Database(store) as database:
        assert database.value("SELECT count(*) FROM answers") == 0


def test_a_recording_that_is_gone(server: ReviewServer, store: Path) -> None:
    for path in (store.parent / "in").iterdir():
        path.unlink()
    with pytest.raises(HTTPError, match="400") as refused:
        get(server, "/audio.wav", window=1)
    assert b"no such file" in refused.value.read()
    refused.value.close()


def test_precision_by_strata(tmp_path: Path) -> None:
    """Answers to few of the high and to many of the low scores: each stratum counts as its windows do."""
    path = tmp_path / "s.db"
    random_store(path, 200, 5)
    with Database(path, writable=True) as database:
        scores = dict(database.query('SELECT "window", score FROM scores'))
        rng = np.random.default_rng(0)
        truth = {window: rng.random() < score / 10_000 for window, score in scores.items()}  # as a calibrated model's
        high = [window for window in sorted(scores) if scores[window] >= 8000][:30]
        low = [window for window in sorted(scores) if 2000 <= scores[window] < 8000][:250]
        for window in high + low:
            save_answer(database, "Dog", window, "yes" if truth[window] else "no")
        review = Review(database, "Dog", 0.8)
    inside = 0
    counted = [one for one in review.precisions() if one.windows > 50]  # of fewer, all may hold the class
    for one in counted:
        real = np.mean([truth[window] for window, score in scores.items() if score >= one.threshold * 10_000])
        inside += one.low <= real <= one.high
        if one.threshold in (0.2, 0.5):
            assert one.estimate == pytest.approx(real, abs=0.08)
    assert len(counted) > 8
    assert inside >= len(counted) - 1
    threshold = review.threshold()
    assert threshold is not None
    assert 0.5 <= threshold <= 0.8


def test_what_is_asked_next(tmp_path: Path) -> None:
    """Near the threshold, a window of each recording before a second one, nothing twice."""
    path = tmp_path / "s.db"
    random_store(path, 10, 20)
    with Database(path, writable=True) as database:
        review = Review(database, "Dog", 0.9)
        first = review.upcoming(10)
        recordings = dict(zip(review.windows.tolist(), review.recordings.tolist(), strict=True))
        scores = dict(zip(review.windows.tolist(), review.scores.tolist(), strict=True))
        assert sorted(recordings[window] for window in first) == list(range(1, 11))
        for window in first:
            own = [abs(scores[other] - 0.5) for other in recordings if recordings[other] == recordings[window]]
            assert abs(scores[window] - 0.5) == pytest.approx(min(own), abs=1e-3)
        for window in first[:5]:
            save_answer(database, "Dog", window, "unsure")
        later = Review(database, "Dog", 0.9).upcoming(10)
    assert later[:5] == first[5:]
    assert not set(later) & set(first[:5])


def test_the_command(store: Path) -> None:
    """It prints the address, serves, and ends with Ctrl-C."""
    process = subprocess.Popen(
        [*COMMAND, str(store), "--label", "dog", "--thresholds", str(store.with_name("t.csv"))],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:"), process.communicate()
    with urlopen(url.replace("/?", "/state?"), timeout=20) as response:
        assert json.load(response)["label"] == "Dog"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors.splitlines()[-1] == f"dcls-review: the answers are in {store}"
    for arguments, status, words in (
        (["--label", "Dgo"], 2, "did you mean 'Dog'?"),
        (["--label", "Dog", "--precision", "1"], 2, "precision must be above 0 and below 1"),
        (["--label", "Dog", "--port", "99999"], 1, "port 99999 cannot be used"),
        (["--label", "Dog", "--thresholds", str(store)], 2, "cannot be read as a list of thresholds"),
    ):
        done = subprocess.run([*COMMAND, str(store), *arguments], env=environment(), capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (status, 1)
        assert words in done.stderr
    with pytest.raises(StoreError, match="no such store"):
        Database(store.with_name("none.db"), writable=True)


def test_in_a_browser(server: ReviewServer, store: Path, playwright: Playwright) -> None:
    """Debian's Chromium plays each candidate, shows its spectrogram and takes the keys until none is left."""
    from playwright.sync_api import expect

    # no sandbox: the tests may run as root in a container; autoplay: a person has pressed a key by then
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    path, problems = chromium(), []
    with playwright.chromium.launch(executable_path=path, args=arguments) as browser:
        page = browser.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(server.url)
        file, answered = page.locator("#file"), 0
        # asked anew and anew: the page's policy keeps Playwright from waiting inside it
        for state in ("#audio').played.length", "#spectrogram').naturalWidth"):
            while not page.evaluate(f"document.querySelector('{state}"):
                page.wait_for_timeout(10)
        while (shown := file.inner_text()) != "All candidates are answered.":
            page.keyboard.press("y" if answered % 3 else "u")
            expect(file).not_to_have_text(shown)
            answered += 1
        assert page.locator("#precisions tr").count() > 0
        assert page.locator("#threshold").inner_text().startswith("Precision 0.6 from a threshold of ")
    assert not problems
    with Database(store) as database:
        assert int(database.value("SELECT count(*) FROM answers")) == answered > 3
    assert read_thresholds(store.with_name("thresholds.csv"), ["Dog", "Cat"])
