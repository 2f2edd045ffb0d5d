"""Files that name classes: what people write is found, what is wrong is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from audioset_dcls.tagging.selection import label_rows, near_names, read_labels, read_thresholds
from preprocessing.labels import descendants, labels

NAMES = tuple(label.display_name for label in labels())


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_names_mids_and_groups(tmp_path: Path) -> None:
    file = write(tmp_path / "wanted.txt", "\ufeff# pets\nDOG\n /m/09x0r \n\nmale  speech, MAN speaking\nCat/*\ndog\n")
    selection = read_labels(file, NAMES)
    assert selection.labels[:3] == ("Dog", "Speech", "Male speech, man speaking")
    assert set(selection.labels[3:]) == {"Cat"} | descendants("Cat")
    assert selection.unheard == ()
    assert len(read_labels(write(file, "animal/*"), NAMES).labels) == 1 + len(descendants("Animal")) > 50


def test_classes_of_ones_own(tmp_path: Path) -> None:
    file = write(tmp_path / "wanted.txt", "käuzchen\nKäuzchen/*\n")
    assert read_labels(file, ["Käuzchen", "quiet"]).labels == ("Käuzchen",)


def test_what_the_tagger_cannot_hear(tmp_path: Path) -> None:
    """Masked, or a class of AudioSet that is none of its own."""
    file = write(tmp_path / "wanted.txt", "Dog\nBark\nSpeech\n")
    selection = read_labels(file, ["Dog", "Bark"], masked={"Bark"})
    assert (selection.labels, selection.unheard) == (("Dog",), ("Bark", "Speech"))
    with pytest.raises(ValueError, match="can hear none of its classes"):
        read_labels(file, ["Dog", "Bark"], masked={"Dog", "Bark"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Dogg", "knows no 'Dogg'; did you mean 'Dog'"),
        ("sirens", "did you mean 'Siren'"),
        ("rooster", "'Chicken, rooster'"),
        ("heartbeat", "'Heart sounds, heartbeat'"),
        ("xyzzy", "knows no 'xyzzy'$"),
        ("# none\n", "holds no labels"),
        (b"\xff\xfe\xfa", "cannot be read"),
    ],
)
def test_names_that_are_none(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_labels(write(tmp_path / "wanted.txt", text), NAMES)
    assert str(error.value).startswith(str(tmp_path / "wanted.txt"))
    assert "\n" not in str(error.value)


def test_no_name_is_near() -> None:
    assert near_names("qqqq", NAMES) == []


def test_thresholds(tmp_path: Path) -> None:
    """With and without a header; a later line wins."""
    body = '/m/09x0r,0.4\n# pets\n"Male speech, man speaking",0.9\n\nCat/*,0.5\nMEOW,0.25\n'
    for header in ("", "label,score\n", "\ufeffClass,Threshold,Note\n"):
        thresholds = read_thresholds(write(tmp_path / "own.csv", header + body), NAMES)
        assert thresholds.pop("Speech") == 0.4
        assert thresholds.pop("Male speech, man speaking") == 0.9
        assert thresholds.pop("Meow") == 0.25
        assert thresholds == dict.fromkeys({"Cat"} | descendants("Cat") - {"Meow"}, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,score\nDog\n", "line 2 is no class and score"),
        ("Dog,0.5\nCat,high\n", "line 2 is no class and score"),
        ("Dog,0\n", "line 1 is no class and score"),
        ("Dog,nan\n", "line 1 is no class and score"),
        ("Dogg,0.5\n", "did you mean 'Dog'"),
        ("label,score\n", "holds no thresholds"),
    ],
)
def test_thresholds_that_are_none(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_thresholds(write(tmp_path / "own.csv", text), NAMES)


def test_rows_of_labels() -> None:
    rows = list(label_rows([*NAMES, "Own"], {"Bark"}))
    assert rows[0] == (0, "/m/09x0r", "Speech", "", "yes")
    bark = rows[NAMES.index("Bark")]
    assert bark[2:] == ("Bark", "Dog", "no")
    assert rows[-1] == (527, "", "Own", "", "yes")
