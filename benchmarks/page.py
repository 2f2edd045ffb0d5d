"""The page in Chromium against dcls-tag on the same machine: time for a minute of sound, weight, time to first tag.

    python benchmarks/page.py [--minutes 10] [--rounds 3]

Needs the built page (`make page`), Debian's Chromium and Playwright for Python. The candidates take turns, and the best
of the rounds counts, so that other work on the machine hits all alike.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder: its scripts are called like the packages they measure

from audioset_dcls.commands import page as command  # noqa: E402
from preprocessing.audio import read_audio  # noqa: E402

RATE = 44_100
CLIP = 10  # s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = command.page_folder()
    print_weight(folder)
    with tempfile.TemporaryDirectory() as scratch:
        clip, long = Path(scratch, "clip.flac"), Path(scratch, "long.flac")
        sounds = [read_audio(ROOT / "tests/data/recordings" / f"{name}.ogg", RATE) for name in ("guitar", "helicopter")]
        for path, seconds in ((clip, CLIP), (long, 60 * arguments.minutes)):
            soundfile.write(path, np.resize(np.concatenate(sounds), round(seconds * RATE)), RATE)
        measure(folder, clip, long, arguments.minutes, arguments.rounds)


def print_weight(folder: Path) -> None:
    contents = [path.read_bytes() for path in folder.iterdir()]
    plain, packed = (sum(map(len, files)) / 1e6 for files in (contents, [gzip.compress(one) for one in contents]))
    print(f"weight: {plain:.1f} MB, {packed:.1f} MB with gzip")


def measure(folder: Path, clip: Path, long: Path, minutes: float, rounds: int) -> None:
    from playwright.sync_api import sync_playwright

    threads = command.HEADERS
    times: dict[str, list[float]] = {}
    with sync_playwright() as playwright, served(folder) as address:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(rounds):
            for name, headers in (("page, threads", threads), ("page, one thread", {})):
                command.HEADERS = headers
                with browser.new_context() as context:
                    began = time.perf_counter()
                    page = context.new_page()
                    page.goto(address)
                    page.locator("#start").wait_for(timeout=60_000)
                    times.setdefault(f"{name}: ready", []).append(time.perf_counter() - began)
                    tag(page, clip)
                    first = time.perf_counter() - began
                    times.setdefault(f"{name}: ready, and {CLIP} s of sound tagged", []).append(first)
                    per_minute = tag(page, long) / minutes
                    times.setdefault(f"{name}: for a minute of sound", []).append(per_minute)
            for path, what, scale in ((clip, f"{CLIP} s of sound tagged", 1), (long, "for a minute of sound", minutes)):
                began = time.perf_counter()
                tagging = [sys.executable, ROOT / "cli.py", "tag", path, "--quiet"]
                subprocess.run(tagging, check=True, capture_output=True)
                times.setdefault(f"dcls-tag: {what}", []).append((time.perf_counter() - began) / scale)
    for name, values in times.items():
        print(f"{name:<50} {min(values):6.2f} s")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with command.page_server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def tag(page: Any, path: Path) -> float:
    """Seconds from choosing the file to all of its tags."""
    began = time.perf_counter()
    page.set_input_files("#file", path)
    page.locator("#name", has_text=path.name).wait_for(timeout=600_000)
    page.locator("#work").wait_for(state="hidden", timeout=600_000)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
