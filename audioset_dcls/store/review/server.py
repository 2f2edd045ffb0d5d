"""The page's server: on this machine alone, and only for who has the token."""

from __future__ import annotations

import io
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from audioset_dcls.store.answers import Candidate, Review, candidate, save_answer
from audioset_dcls.store.cut import cut
from audioset_dcls.store.database import Database, StoreError
from audioset_dcls.store.search import shown_path
from preprocessing.audio import SAMPLE_RATE, AudioError
from preprocessing.terminal import first_line, printable

HOST = "127.0.0.1"
_LONGEST_BODY = 1000  # bytes of an answer
_FFT, _OVERLAP = 1024, 768  # samples of the spectrogram
_RANGE = 80.0  # dB below the loudest point


class ReviewServer(ThreadingHTTPServer):
    """Serves the review of one class.

    Args:
        database: opened for writing; used by one request at a time.
        target: the wanted precision.
        on_threshold: called after each answer with the threshold for it, or None.
        port: 0 for any free one.

    `url` has the token: whoever has it can hear the candidates and answer.
    """

    daemon_threads = True

    def __init__(
        self,
        database: Database,
        label: str,
        target: float,
        on_threshold: Callable[[float | None], None],
        port: int = 0,
    ) -> None:
        self.database, self.label, self.on_threshold = database, label, on_threshold
        self.review = Review(database, label, target)
        self.token = secrets.token_urlsafe(24)
        self.lock = threading.Lock()
        super().__init__((HOST, port), _Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/?token={self.token}"

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        upcoming = self.review.upcoming(2)
        found = candidate(self.database, self.label, upcoming[0]) if upcoming else None
        return {
            "label": self.label,
            "target": self.review.target,
            "threshold": self.review.threshold(),
            "precisions": [asdict(one) for one in self.review.precisions()],
            "candidate": None if found is None else _shown(found),
            "next": upcoming[1] if len(upcoming) > 1 else None,
        }

    def answer(self, window: int, answer: str) -> None:
        """Store an answer. Raises ValueError, StoreError."""
        save_answer(self.database, self.label, window, answer)
        self.review.record(window, answer)
        self.on_threshold(self.review.threshold())

    def samples(self, window: int) -> np.ndarray:
        """(samples,) of a candidate at 32 kHz. Raises ValueError, AudioError: nothing else can be asked for."""
        found = candidate(self.database, self.label, window)
        if found is None:
            raise ValueError(f"window {window} is no candidate")
        return cut(found.path, found.start, found.end, SAMPLE_RATE)


def wav(samples: np.ndarray) -> bytes:
    """A WAV file of 16 bits, scaled so that faint sounds can be heard."""
    import soundfile

    file = io.BytesIO()
    loudest = max(float(np.abs(samples).max(initial=0)), 1e-3)
    soundfile.write(file, samples * (0.9 / loudest), SAMPLE_RATE, "PCM_16", format="WAV")
    return file.getvalue()


def spectrogram(samples: np.ndarray) -> bytes:
    """A PNG: time to the right, 0 to 16 kHz upwards, 80 dB."""
    from matplotlib.image import imsave
    from matplotlib.mlab import specgram

    power, _, _ = specgram(np.pad(samples, (0, max(_FFT - len(samples), 0))), _FFT, SAMPLE_RATE, noverlap=_OVERLAP)
    decibels = 10 * np.log10(np.maximum(power, 1e-20))
    top = decibels.max()
    file = io.BytesIO()
    imsave(file, decibels, vmin=top - _RANGE, vmax=top, cmap="magma", origin="lower", format="png")
    return file.getvalue()


def _shown(found: Candidate) -> dict[str, Any]:
    file = printable(shown_path(found.path))
    return {"window": found.window, "file": file, "start": found.start, "end": found.end, "score": found.score}


class _Refused(Exception):  # noqa: N818
    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    timeout = 30  # s: browsers open connections that they do not use

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the token is in the addresses."""

    def _respond(self, handle: Callable[[str, dict[str, list[str]]], None]) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        try:
            # another page's script may reach this port by a name of its own that leads here
            if self.headers.get("Host") not in self.server.hosts:
                raise _Refused(HTTPStatus.FORBIDDEN, "not this host")
            given = (query.get("token") or [""])[0].encode()
            if not secrets.compare_digest(given, self.server.token.encode()):
                raise _Refused(HTTPStatus.FORBIDDEN, "the token is missing or wrong; open the address that was printed")
            handle(address.path, query)
        except _Refused as refusal:
            self._send(refusal.status, "text/plain; charset=utf-8", str(refusal).encode())
        except (ValueError, AudioError) as error:
            self._send(HTTPStatus.BAD_REQUEST, "text/plain; charset=utf-8", first_line(error).encode())
        except (ConnectionError, TimeoutError):  # the page was closed
            self.close_connection = True
        except (StoreError, OSError) as error:  # the file of thresholds cannot be written
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", first_line(error).encode())

    def _get(self, path: str, query: dict[str, list[str]]) -> None:
        if path == "/":
            self._send_page()
        elif path == "/state":
            with self.server.lock:
                self._send_state()
        elif path in ("/audio.wav", "/spectrogram.png"):
            window = _number((query.get("window") or [""])[0])
            with self.server.lock:
                samples = self.server.samples(window)
                content = wav(samples) if path == "/audio.wav" else spectrogram(samples)
            self._send(HTTPStatus.OK, "audio/wav" if path == "/audio.wav" else "image/png", content)
        else:
            raise _Refused(HTTPStatus.NOT_FOUND, "no such page")

    def _post(self, path: str, query: dict[str, list[str]]) -> None:
        if path != "/answers":
            raise _Refused(HTTPStatus.NOT_FOUND, "no such page")
        length = _number(self.headers.get("Content-Length", ""))
        if length > _LONGEST_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too long for an answer")
        given = json.loads(self.rfile.read(length))
        if not isinstance(given, dict) or type(given.get("window")) is not int:
            raise ValueError("not an answer: a window and an answer are needed")
        with self.server.lock:
            self.server.answer(given["window"], str(given.get("answer")))
            self._send_state()

    def _send_state(self) -> None:
        self._send(HTTPStatus.OK, "application/json", json.dumps(self.server.state()).encode())

    def _send_page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        page = files("audioset_dcls.store.review").joinpath("page.html").read_text("utf-8").replace("NONCE", nonce)
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", page.encode(), nonce)

    def _send(self, status: HTTPStatus, kind: str, content: bytes, nonce: str | None = None) -> None:
        own = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; " if nonce else ""
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": f"default-src 'none'; {own}img-src 'self' data:; media-src blob:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise ValueError("not a number")
    return int(text)
