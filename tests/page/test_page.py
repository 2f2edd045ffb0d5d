"""The page in Chromium: what a person does with it, against `dcls-tag` on the same recordings."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from audioset_dcls import Tagger
from preprocessing.audio import read_audio
from tests.conftest import COMMAND, RECORDINGS, ROOT, environment
from tests.page.conftest import Open
from tests.page.script import PAGE

if TYPE_CHECKING:
    from playwright.sync_api import Page

# a tolerance for scores: the browser decodes with its own copies of the decoders, and resamples with another filter
TOLERANCE = 1e-2
SHORT = [path.name for path in sorted(RECORDINGS.iterdir()) if path.suffix in (".wav", ".ogg", ".oga", ".mp3")]
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a minute with several sounds, in stereo at 44.1 kHz."""
    folder = tmp_path_factory.mktemp("joined")
    script, target = ROOT / "docs" / "pictures" / "join_recordings.py", folder / "mono.flac"
    names = ("dog_bark.ogg", "rooster.ogg", "guitar.ogg", "helicopter.ogg", "cow.ogg", "thunder.wav")
    subprocess.run([sys.executable, script, target, *(RECORDINGS / name for name in names)], check=True, timeout=60)
    mono = read_audio(target, 44_100)
    soundfile.write(folder / "joined.flac", np.stack([mono, 0.5 * mono], axis=1), 44_100)
    return folder / "joined.flac"


def give(page: Page, path: Path) -> None:
    """Choose a file and wait until it is tagged, or an error is shown."""
    page.set_input_files("#file", path)
    until(page, f"{path.name}")


def until(page: Page, name: str) -> None:
    """Until the recording of that name is tagged, or an error is shown that begins with it."""
    code = (
        "(name) => document.getElementById('work').hidden && ['name', 'error']"
        ".map((id) => document.getElementById(id))"
        ".some((element) => element.checkVisibility() && element.textContent.startsWith(name))"
    )
    for _ in range(1200):
        if page.evaluate(code, name):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{name} is not tagged after a minute: {page.inner_text('main')}")


def download(page: Page, button: str) -> str:
    with page.expect_download() as started:
        page.get_by_role("button", name=button).click()
    return started.value.path().read_text(encoding="utf-8")


def choose(page: Page, field: str, value: str) -> None:
    """Set a slider or a number as a person does, with its event."""
    page.locator(field).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })); }", value
    )


@pytest.mark.slow
def test_scores_are_those_of_python(open_page: Open) -> None:
    """Of all classes, in all recordings that a browser plays: WAV, Ogg Vorbis, MP3 at many rates."""
    tagger = Tagger()
    with open_page() as page:
        choose(page, "#threshold", "0.01")
        for name in SHORT:
            give(page, RECORDINGS / name)
            choose(page, "#top", "50")
            (record,) = json.loads(download(page, "JSON"))
            result = tagger(RECORDINGS / name)
            assert record["duration"] == pytest.approx(result.duration, abs=0.06), name  # MP3: how its padding is cut
            scores = dict(zip(result.labels, result.scores, strict=True))
            for tag in record["tags"]:
                assert tag["score"] == pytest.approx(scores[tag["label"]], abs=TOLERANCE), (name, tag["label"])
            assert record["tags"][0]["label"] == max(scores, key=scores.__getitem__), name
            assert len(record["tags"]) >= 5


@pytest.mark.slow
def test_files_are_those_of_dcls_tag(open_page: Open, joined: Path) -> None:
    """The same rows with the same labels and times; scores within TOLERANCE, so a threshold far from any score."""
    with open_page() as page:
        give(page, joined)
        choose(page, "#threshold", "0.26")
        ours = {
            ("csv",): download(page, "Tags (CSV)"),
            ("csv", "--timeline"): download(page, "Events (CSV)"),
            ("json", "--timeline"): download(page, "JSON"),
            ("audacity",): download(page, "Audacity labels"),
            ("raven",): download(page, "Raven selections").replace(joined.name, str(joined)),
        }
    for (name, *options), text in ours.items():
        command = [*COMMAND, joined.name, "--threshold", "0.26", "--format", name, *options, "--quiet"]
        expected = subprocess.run(
            command, cwd=joined.parent, env=environment(), capture_output=True, text=True, check=True, timeout=120
        ).stdout
        assert expected.count("\n") >= 3
        same_but_for_scores(text, expected)


def same_but_for_scores(ours: str, expected: str) -> None:
    number = re.compile(r"(?<![\d.])0\.\d+")
    assert number.sub("0.x", ours) == number.sub("0.x", expected)
    values = [[float(value) for value in number.findall(text)] for text in (ours, expected)]
    np.testing.assert_allclose(*values, atol=TOLERANCE, rtol=0)


def test_a_person_uses_it(open_page: Open, joined: Path) -> None:
    """Drop a file, see tags and events, search, zoom, hear an event."""
    with open_page() as page:
        transfer = page.evaluate_handle(
            "async ([name, text]) => { const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));"
            "const transfer = new DataTransfer(); transfer.items.add(new File([bytes], name)); return transfer; }",
            [joined.name, base64.b64encode(joined.read_bytes()).decode()],
        )
        page.dispatch_event("body", "drop", {"dataTransfer": transfer})
        until(page, joined.name)
        assert page.locator("#tags li").count() == 5
        assert "Thunder" in page.inner_text("#tags")
        assert page.locator("canvas").evaluate_all("all => all.every((one) => one.width > 100)")
        assert page.locator("#spectrogram").evaluate(IS_PAINTED)
        events = page.locator("#lanes button")
        everything = events.count()
        assert everything >= 5

        page.get_by_label("Find a sound").fill("heLicop")
        assert page.locator("#tags li").count() == 1
        assert "Helicopter" in page.inner_text("#tags")
        assert 1 <= events.count() < everything
        page.get_by_label("Find a sound").fill("no such sound")
        assert "No sound has such a name" in page.inner_text("#tags")
        page.get_by_label("Find a sound").fill("")

        choose(page, "#threshold", "0.8")
        assert events.count() < everything
        choose(page, "#threshold", "0.2")
        page.get_by_label("Also what others imply").check()
        assert events.count() > everything
        page.get_by_label("Also what others imply").uncheck()

        page.get_by_role("button", name="hear Thunder").press("Enter")
        begin, end = span(page, "Thunder")
        times = [page.evaluate(PLAYING)]
        while times[-1] is not None and len(times) < 400:  # until it stops by itself
            page.wait_for_timeout(50)
            times.append(page.evaluate(PLAYING))
        assert times[-1] is None
        heard = [time for time in times[:-1] if time is not None]
        assert heard
        assert begin - 0.1 <= min(heard) <= max(heard) <= end + 0.3

        for _ in range(3):
            page.get_by_role("button", name="Zoom in").click()
        assert events.count() < everything
        choose(page, "#scroll", "0")
        assert page.locator("#marks").inner_text().startswith("0:00.0")
        page.get_by_role("button", name="All").click()
        assert events.count() == everything


IS_PAINTED = (
    "(canvas) => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size > 100"
)


PLAYING = "document.getElementById('player').paused ? null : document.getElementById('player').currentTime"


def span(page: Page, label: str) -> tuple[float, float]:
    """Seconds from which to which a class sounds, from the name of its button."""
    name = page.get_by_role("button", name=f"hear {label}").get_attribute("aria-label")
    match = re.search(r"from (\d+):([\d.]+) to (\d+):([\d.]+)", name or "")
    assert match
    return 60 * int(match[1]) + float(match[2]), 60 * int(match[3]) + float(match[4])


@pytest.mark.slow
def test_a_long_recording_can_be_cancelled(open_page: Open, tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(300 * 32_000)
    soundfile.write(tmp_path / "long.wav", noise, 32_000)
    with open_page() as page:
        page.set_input_files("#file", tmp_path / "long.wav")
        page.get_by_role("button", name="Cancel").click()
        page.locator("#work").wait_for(state="hidden")
        assert page.inner_text("#error") == ""
        assert not page.locator("#result").is_visible()
        give(page, RECORDINGS / "cow.ogg")
        assert "Moo" in page.inner_text("#tags")


@pytest.mark.slow
def test_errors_are_words(open_page: Open, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "wrong.onnx").write_text("no tagger")
    loud = np.full(1000, 1000, np.float32)
    soundfile.write(tmp_path / "loud.wav", loud, 32_000, "FLOAT")
    with open_page() as page:
        for name, words in {
            "text.wav": "is no audio that this browser can play",
            "empty.wav": "is empty",
            "wrong.onnx": "is no ONNX file",
            "loud.wav": "times full scale",
        }.items():
            give(page, tmp_path / name)
            assert words in page.inner_text("#error")
            assert not page.locator("#result").is_visible()
        page.get_by_role("button", name="Listen to the microphone").click()
        page.locator("#error", has_text="The microphone").wait_for()
        give(page, RECORDINGS / "cow.ogg")  # it goes on
        assert page.inner_text("#error") == ""


@pytest.mark.slow
def test_an_own_tagger(open_page: Open, tagger_file: Path) -> None:
    """The one of the tests, which was exported here: the recording is tagged again with it."""
    with open_page() as page:
        give(page, RECORDINGS / "rooster.ogg")
        page.set_input_files("#file", tagger_file)
        page.locator("#tagger", has_text=f"{tagger_file.name}, 527 sounds, windows of 10 s").wait_for()
        until(page, "rooster.ogg")
        best = Tagger(tagger_file)(RECORDINGS / "rooster.ogg").top(1)[0]
        assert best[0] in page.locator("#tags li").first.inner_text()


@pytest.mark.slow
def test_the_microphone(open_page: Open, tmp_path: Path) -> None:
    """Live, and the same afterwards from its recording."""
    samples = read_audio(RECORDINGS / "helicopter.ogg", 48_000)
    soundfile.write(tmp_path / "sound.wav", samples, 48_000, "PCM_16")
    arguments = [
        *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
        f"--use-file-for-fake-audio-capture={tmp_path / 'sound.wav'}",
    ]
    with open_page(*arguments, permissions=["microphone"]) as page:
        page.get_by_role("button", name="Listen to the microphone").click()
        page.locator("#live-tags", has_text="Helicopter").wait_for(timeout=30_000)
        page.wait_for_timeout(4000)
        page.get_by_role("button", name="Stop").click()
        until(page, "microphone.wav")
        assert "Helicopter" in page.inner_text("#tags")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), pytest.param(1200, "light", marks=pytest.mark.slow)])
def test_it_is_accessible(open_page: Open, joined: Path, width: int, scheme: str) -> None:
    """axe-core finds nothing serious; on a phone nothing is wider than the screen."""
    axe = (PAGE / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    with open_page(viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        give(page, joined)
        page.evaluate(axe)
        found = page.evaluate("async () => (await axe.run()).violations")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in SERIOUS] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_without_the_headers_for_threads(dist: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any static host will do."""
    monkeypatch.setattr("audioset_dcls.commands.page.HEADERS", {})
    with open_page() as page:
        assert page.evaluate("crossOriginIsolated") is False
        give(page, RECORDINGS / "dog_bark.ogg")
        assert "Bark" in page.inner_text("#tags")
