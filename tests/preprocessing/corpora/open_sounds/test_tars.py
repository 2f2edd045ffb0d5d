from dataclasses import replace
from pathlib import Path

import pytest

from preprocessing.corpora.open_sounds.lists import OpenSoundsError, load_repository_recordings
from preprocessing.corpora.open_sounds.tars import Tars
from tests.preprocessing.corpora.open_sounds.corpus import RATE, Corpus, frequency, tar


def test_a_member_is_found_in_whatever_tar_it_lies(corpus: Corpus) -> None:
    tars = Tars(corpus.tars)
    heard = {r.path: tars.decode(r, Path()) for r in load_repository_recordings(corpus.data)}
    assert abs(frequency(heard["a/ring.wav"]) - 2_000) < 5
    assert abs(frequency(heard["v.wav"]) - 2_400) < 5
    assert abs(len(heard["v.wav"]) - RATE / 2) < 1_000


def test_another_content_than_the_listed_one_is_refused(corpus: Corpus) -> None:
    recording = load_repository_recordings(corpus.data)[0]
    with pytest.raises(ValueError, match=r"SHA-256 of 000000\.opus is not 0000"):
        Tars(corpus.tars).decode(replace(recording, member_sha256="0" * 64), Path())


def test_a_folder_without_a_tar_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OpenSoundsError, match=r"holds no \.tar with recordings"):
        Tars(tmp_path)


@pytest.mark.parametrize("content", [tar({"x": b"1"})[:700], b"no tar" * 200])
def test_a_damaged_tar_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(OpenSoundsError, match=r"b\.tar: is not a tar that can be read"):
        Tars(tmp_path)
