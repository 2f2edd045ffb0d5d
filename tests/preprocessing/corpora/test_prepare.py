from __future__ import annotations

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from preprocessing.audio import read_audio
from preprocessing.clips.layout import ClipFileError
from preprocessing.clips.reader import ClipFile
from preprocessing.corpora import prepare as audioset
from preprocessing.corpora.audioset import audioset_collection, read_segments
from preprocessing.corpora.collection import Clip, Collection, LeftOut
from preprocessing.corpora.excerpts import Decoded, Part, first_clip, padded
from preprocessing.corpora.folder import folder_collection
from preprocessing.corpora.prepare import prepare
from preprocessing.labels import labels
from tests.processes import line_count, signalled_at

ROOT = Path(__file__).parents[3]
RECORDINGS = ROOT / "tests" / "data" / "recordings"
COPIES = 4  # of each recording: enough clips to be killed between


@dataclass(frozen=True)
class SmallAudioSet:
    """Real recordings under made-up video ids, with the labels that a person gave them."""

    waveforms: dict[str, npt.NDArray[np.int16]]  # 32 kHz
    mids: dict[str, list[str]]

    def flac(self, video: str) -> bytes:
        stream = io.BytesIO()
        soundfile.write(stream, self.waveforms[video], 32_000, format="FLAC")
        return stream.getvalue()

    def segments(self, path: Path, extra: Iterable[str] = ()) -> Path:
        lines = [
            "# Segments csv created Sun Mar  5 10:54:31 2017",
            "# num_ytids=1",
            "# YTID, start_seconds, end_seconds, x",
        ]
        lines += [f'{video}, 30.000, 40.000, "{",".join(mids)}"' for video, mids in self.mids.items()]
        path.write_text("\n".join([*lines, *extra]) + "\n")
        return path


@pytest.fixture(scope="session")
def small() -> SmallAudioSet:
    mid_of = {label.display_name: label.mid for label in labels()}
    small = SmallAudioSet({}, {})
    with (RECORDINGS / "expected.csv").open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            waveform = np.rint(read_audio(RECORDINGS / row["file"]).clip(-1, 1) * 32767).astype(np.int16)[: 3 * 32_000]
            for copy in range(COPIES):
                video = f"{'Y-_a'[number % 4]}{number:04d}_{copy:05d}"
                small.waveforms[video] = np.roll(waveform, 1000 * copy)
                small.mids[video] = [mid_of[name] for name in row["labels"].split(";")]
    return small


@pytest.fixture(scope="session")
def sources(small: SmallAudioSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The arguments of dcls-prepare for each form of the same clips, in the same order."""
    root = tmp_path_factory.mktemp("audioset")
    segments = small.segments(root / "balanced_train_segments.csv")
    videos = list(small.waveforms)
    for number, video in enumerate(videos):  # with and without PANNs' Y and the segment, in sub-folders
        name = (f"Y{video}.flac", f"{video}.flac", f"{video}_30.000_40.000.flac")[number % 3]
        file = root / "folder" / video[:2] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(small.flac(video))
    for shard, ending in enumerate(("tar", "tar.gz", "tar")):
        with tarfile.open(root / f"shard_{shard}.{ending}", "w:gz" if ending == "tar.gz" else "w") as tar:
            for video in videos[shard * 30 : (shard + 1) * 30]:
                for name, data in ((f"train/{video}.flac", small.flac(video)), (f"train/{video}.json", b"{}")):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    for shard in range(2):
        part = videos[shard * 50 : (shard + 1) * 50]
        audio = [{"bytes": small.flac(video), "path": f"{video}.flac"} for video in part]
        columns = {"video_id": part, "audio": audio, "labels": [small.mids[video] for video in part]}
        pq.write_table(pa.table(columns), root / f"part_{shard}.parquet", row_group_size=25)
    return {
        "folder": [str(root / "folder"), "--segments", str(segments)],
        "tar": [*(str(path) for path in sorted(root.glob("shard_*"))), "--segments", str(segments)],
        "parquet": [str(path) for path in sorted(root.glob("*.parquet"))],
    }


def command(*arguments: str, before: str = "") -> subprocess.Popen[str]:
    """dcls-prepare, after the Python statements `before`."""
    run = [sys.executable, "-c", f"{before}\nfrom audioset_dcls.commands.prepare import main; main()", *arguments]
    return subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def written(path: Path) -> tuple[int, int, int]:
    """What writing a file changes and reading it does not."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def committed(output: Path) -> int:
    """Batches that the journal of an unfinished file has."""
    return line_count(output.with_name(output.name + ".part") / "journal") - 1


def contents(path: Path) -> dict[str, str]:
    """Hashes of what is in a file, by h5py alone."""
    with h5py.File(path) as file:
        columns = {name: sha256(file[name][:].tobytes()).hexdigest() for name in file}
        return columns | {f"@{key}": str(value) for key, value in file.attrs.items() if key != "source"}


@pytest.fixture(scope="session")
def prepared(sources: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each form made by the command in one go."""
    folder = tmp_path_factory.mktemp("prepared")
    for form, given in sources.items():
        process = command("audioset", *given, "-o", str(folder / f"{form}.h5"))
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "80 clips" in out
        assert "left out: none" in out
    return {form: folder / f"{form}.h5" for form in sources}


def test_all_forms_give_the_same_file(small: SmallAudioSet, prepared: dict[str, Path]) -> None:
    with h5py.File(prepared["folder"]) as file:
        assert [name.decode() for name in file["audio_name"]] == [f"Y{video}.wav" for video in small.waveforms]
        assert file["waveform"].shape == (80, 320_000)
        index_of = {label.mid: label.index for label in labels()}
        for row, (video, waveform) in enumerate(small.waveforms.items()):
            stored = file["waveform"][row]
            # 16 bit -> float -> 16 bit: FLAC's full scale is 32768, HDF5's 32767
            assert np.abs(stored[: len(waveform)].astype(int) - waveform).max() <= 1
            assert not stored[len(waveform) :].any()
            assert set(np.flatnonzero(file["target"][row])) == {index_of[mid] for mid in small.mids[video]}
    folder = contents(prepared["folder"])
    assert contents(prepared["tar"]) == folder
    assert contents(prepared["parquet"]) == folder


@pytest.mark.parametrize("form", [pytest.param(form, marks=pytest.mark.slow) for form in ("folder", "tar", "parquet")])
def test_killed_again_and_again_it_ends_in_the_same_bytes(
    form: str, sources: dict[str, list[str]], prepared: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "train.h5"
    for number in (3, 4, 5, 7):  # a batch calls fsync for its waveforms, its targets and its line in the journal
        process = command(
            "audioset", *sources[form], "-o", str(output), before=signalled_at("fsync", number, signal.SIGKILL)
        )
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err
        assert not output.exists()
    assert committed(output) >= 3
    process = command("audioset", *sources[form], "-o", str(output), "--workers", "1")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert output.read_bytes() == prepared[form].read_bytes()
    assert not output.with_name("train.h5.part").exists()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(sources: dict[str, list[str]], prepared: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "train.h5"
    process = command("audioset", *sources["folder"], "-o", str(output), before=signalled_at("fsync", 6, signal.SIGINT))
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "run the same to go on" in err
    assert "Traceback" not in err
    assert committed(output) >= 1
    process = command("audioset", *sources["folder"], "-o", str(output))
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert output.read_bytes() == prepared["folder"].read_bytes()


def test_done_already_it_does_nothing(sources: dict[str, list[str]], prepared: dict[str, Path]) -> None:
    before = written(prepared["folder"])
    process = command("audioset", *sources["folder"], "-o", str(prepared["folder"]))
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "80 clips" in out
    assert written(prepared["folder"]) == before
    process = command("audioset", *sources["parquet"], "-o", str(prepared["folder"]))
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines() == [
        f"dcls-prepare: {prepared['folder']}: is there already, made from something else; "
        "remove it or choose another name"
    ]


@pytest.mark.parametrize("form", ["folder", "tar", "parquet"])
def test_missing_unreadable_and_double_clips_are_listed(form: str, small: SmallAudioSet, tmp_path: Path) -> None:
    videos = list(small.waveforms)[:5]
    noise = np.random.default_rng(0).bytes(5000)
    whole, missing, broken, empty, double = videos
    listed = SmallAudioSet(small.waveforms, {video: small.mids[video] for video in videos})
    segments = listed.segments(tmp_path / "segments.csv")
    given = [(whole, small.flac(whole)), (broken, noise), (empty, b"")] + 2 * [(double, small.flac(double))]
    given += [("not_listed1", small.flac(whole))]
    if form == "folder":
        for number, (video, data) in enumerate(given):
            (tmp_path / "audio" / str(number)).mkdir(parents=True)
            (tmp_path / "audio" / str(number) / f"Y{video}.flac").write_bytes(data)
        places = [tmp_path / "audio"]
    elif form == "tar":
        places = [tmp_path / "audio.tar"]
        with tarfile.open(places[0], "w") as tar:
            for video, data in given:
                member = tarfile.TarInfo(f"{video}.flac")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        places = [tmp_path / "audio.parquet"]
        ids, data = zip(*given, strict=True)
        audio = [{"bytes": item or None, "path": None} for item in data]
        pq.write_table(pa.table({"video_id": ids, "audio": audio, "labels": [["/m/09x0r"]] * len(ids)}), places[0])
    made = prepare(audioset_collection(places, segments), tmp_path / "out.h5", workers=1)
    assert made.clip_count == 2
    assert made.left_out == {"missing": 1, "unreadable": 2, "duplicate": 1}
    assert ClipFile(made.path).audio_names() == [f"Y{whole}.wav", f"Y{double}.wav"]
    with made.left_out_csv.open(newline="") as file:
        table = {(row["clip"], row["reason"]) for row in csv.DictReader(file)}
    assert table == {(missing, "missing"), (broken, "unreadable"), (empty, "unreadable"), (double, "duplicate")}
    with h5py.File(made.path) as file:
        assert (file.attrs["missing"], file.attrs["unreadable"], file.attrs["duplicate"]) == (1, 2, 1)


def test_damaged_containers_cost_what_is_in_them(small: SmallAudioSet, tmp_path: Path) -> None:
    videos = list(small.waveforms)[:6]
    segments = SmallAudioSet({}, {video: small.mids[video] for video in videos}).segments(tmp_path / "segments.csv")
    with tarfile.open(tmp_path / "cut.tar", "w") as tar:
        for video in videos[:3]:
            member = tarfile.TarInfo(f"{video}.flac")
            member.size = len(small.flac(video))
            tar.addfile(member, io.BytesIO(small.flac(video)))
    with tarfile.open(tmp_path / "cut.tar") as tar:
        third = tar.getmembers()[2]
    cut = (tmp_path / "cut.tar").read_bytes()[: third.offset_data + third.size // 2]
    (tmp_path / "cut.tar").write_bytes(cut)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1" + bytes(1000))
    (tmp_path / f"{videos[5]}.flac").write_bytes(small.flac(videos[5]))
    made = prepare(audioset_collection([tmp_path], segments), tmp_path / "out.h5", workers=1)
    assert ClipFile(made.path).audio_names() == [f"Y{videos[number]}.wav" for number in (5, 0, 1)]
    text = made.left_out_csv.read_text()
    assert "cut.tar" in text
    assert "cut.parquet" in text
    assert made.left_out["missing"] == 2
    assert made.left_out["unreadable"] == 3  # the clip that is cut, the rest of the tar, the Parquet file


SEGMENT_FORMS = {
    "AudioSet": "# created\n# num_ytids=2\n# YTID, start_seconds, end_seconds, positive_labels\n"
    '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\nYYYYYYYYYYY, 0.000, 10.000, "/m/04rlf"\n',
    "PANNs": "empty\nempty\nempty\n"
    '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\nYYYYYYYYYYY, 0.000, 10.000, "/m/04rlf"\n',
    "PANNs' names": "empty\nempty\nempty\n"
    'Y--PJHxphWEs.wav, 30.000, 40.000, "/m/09x0r,/t/dd00088"\nYYYYYYYYYYYY, 0.000, 10.000, "/m/04rlf"\n',
    "header": "YTID,start_seconds,end_seconds,positive_labels\n"
    '--PJHxphWEs,30.0,40.0,"/m/09x0r,/t/dd00088"\nYYYYYYYYYYY,0.0,10.0,/m/04rlf\n',
    "hub": "video_id,labels,human_labels\n--PJHxphWEs,\"['/m/09x0r' '/t/dd00088']\",\"['Speech' 'Gush']\"\n"
    "YYYYYYYYYYY,['/m/04rlf'],['Music']\n",
    "hub, byte order mark, Windows": '\ufeffindex,video_id,labels\r\n0,--PJHxphWEs,"[""/m/09x0r"", ""/t/dd00088""]"\r\n'
    '1,YYYYYYYYYYY,"[""/m/04rlf""]"\r\n',
    "unquoted": "--PJHxphWEs, 30.000, 40.000, /m/09x0r,/t/dd00088\nYYYYYYYYYYY, 0.000, 10.000, /m/04rlf",
}


@pytest.mark.parametrize("form", SEGMENT_FORMS)
def test_every_form_of_segment_list(form: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(SEGMENT_FORMS[form].encode())
    index_of = {label.mid: label.index for label in labels()}
    expected = {"--PJHxphWEs": (index_of["/m/09x0r"], index_of["/t/dd00088"]), "YYYYYYYYYYY": (index_of["/m/04rlf"],)}
    segments = read_segments(tmp_path / "list.csv")
    assert segments.classes == expected
    assert list(segments.classes) == list(expected)
    times = {} if "hub" in form else {"--PJHxphWEs": (30.0, 40.0), "YYYYYYYYYYY": (0.0, 10.0)}
    assert segments.times == times
    assert segments.repeated == []


def test_a_clip_listed_twice_is_counted(small: SmallAudioSet, tmp_path: Path) -> None:
    video = next(iter(small.waveforms))
    listed = SmallAudioSet({}, {video: small.mids[video]})
    segments = listed.segments(tmp_path / "list.csv", extra=[f'{video}, 0.000, 10.000, "/m/04rlf"'])
    (tmp_path / f"{video}.flac").write_bytes(small.flac(video))
    made = prepare(audioset_collection([tmp_path / f"{video}.flac"], segments), tmp_path / "out.h5", workers=1)
    assert (made.clip_count, made.left_out["duplicate"], made.left_out["missing"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no segment"),
        ("# only\n# comments\n", "holds no segment"),
        ('--PJHxphWEs, 30.000, 40.000, "/m/nothing"\n', r"list.csv:1: /m/nothing is none of the 527"),
        ("video_id,caption\nx,y\n", "no column positive_labels or labels"),
        ('# c\n--PJHxphWEs, 30.000, 40.000, "Speech"\n', "list.csv:2: not a segment"),
        ("once upon a time, there, was, /m/09x0r\n", "list.csv:1: not a segment"),
        ('--PJHxphWEs, 40.000, 30.000, "/m/09x0r"\n', "list.csv:1: start and end are '40.000' and '30.000'"),
        ('--PJHxphWEs, nan, 30.000, "/m/09x0r"\n', "list.csv:1: start and end"),
        (b"\xff\xfe\x00\x01", "not a CSV"),
    ],
)
def test_other_lists_are_refused_in_one_line(text: str | bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ClipFileError, match=said) as error:
        read_segments(tmp_path / "list.csv")
    assert "\n" not in str(error.value)


def test_usage_errors_are_one_line(tmp_path: Path, sources: dict[str, list[str]]) -> None:
    with pytest.raises(ClipFileError, match="no such file"):
        audioset_collection([tmp_path / "nowhere"], sources["folder"][-1])
    with pytest.raises(ClipFileError, match="needs --segments"):
        audioset_collection([sources["folder"][0]])
    with pytest.raises(ClipFileError, match="no such"):
        folder_collection(tmp_path / "nowhere")


def test_a_crashing_decoder_costs_its_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.ones(1000), 32_000)
    monkeypatch.setattr(audioset, "_BATCH", 1)
    monkeypatch.setattr(audioset, "_decode_batch", _decode_or_die)

    def clips() -> Iterator[Clip | LeftOut]:
        for name in ("a", "dies", "b"):
            yield Clip(name, [0], str(tmp_path / f"{name}.wav"), name)

    made = prepare(Collection(clips, (), 3, ("label",), ""), tmp_path / "out.h5", workers=2)
    assert ClipFile(made.path).audio_names() == ["a", "b"]
    assert made.left_out == {"missing": 0, "unreadable": 1, "duplicate": 0}
    assert "dies,unreadable,dies,the decoder crashed on it" in made.left_out_csv.read_text()


def _decode_or_die(audio: list[tuple[str, Part]], compression: str | None, folder: str) -> list[Decoded | str | None]:
    if "dies" in audio[0][0]:
        os.kill(os.getpid(), signal.SIGSEGV)
    return audioset.__dict__["_decode_batch"](audio, compression, folder)  # the child has the real one


def test_a_full_disk_is_one_line_and_keeps_what_is_done(
    sources: dict[str, list[str]], prepared: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = audioset_collection(sources["folder"][:1], sources["folder"][-1])
    output = tmp_path / "train.h5"
    fsync, calls = os.fsync, iter(range(10**6))

    def full(descriptor: int) -> None:
        if next(calls) == 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ClipFileError, match=r"train\.h5: the disk is full; make room and run the same again"):
            prepare(collection, output, workers=1)
    assert committed(output) > 0
    prepare(collection, output, workers=1)
    assert output.read_bytes() == prepared["folder"].read_bytes()


def test_changed_sources_do_not_go_on(small: SmallAudioSet, tmp_path: Path) -> None:
    videos = list(small.waveforms)[:20]
    segments = SmallAudioSet({}, {video: small.mids[video] for video in videos}).segments(tmp_path / "list.csv")
    (tmp_path / "audio").mkdir()
    for video in videos[:17]:
        (tmp_path / "audio" / f"{video}.flac").write_bytes(small.flac(video))
    collection = audioset_collection([tmp_path / "audio"], segments)
    with audioset.ClipWriter(tmp_path / "out.h5", None, source=collection.source):
        pass
    (tmp_path / "audio" / f"{videos[18]}.flac").write_bytes(small.flac(videos[18]))
    with pytest.raises(ClipFileError, match="begun from other sources"):
        prepare(audioset_collection([tmp_path / "audio"], segments), tmp_path / "out.h5", workers=1)


def test_a_folder_of_classes_and_a_csv_give_the_same_clips(tmp_path: Path) -> None:
    named = {
        "Bark": "dog_bark.ogg",
        "Male speech, man speaking": "speech_front_center.wav",
        "Käuzchen": "wolf_howl.ogg",
    }
    rows = []
    for label, recording in named.items():
        (tmp_path / "own" / label).mkdir(parents=True)
        (tmp_path / "own" / label / recording).write_bytes((RECORDINGS / recording).read_bytes())
        rows.append(f'{label}/{recording},"{label}"' if "," not in label else f'"{label}/{recording}","{label}"')
    (tmp_path / "own" / "Bark" / "notes.txt").write_text("no audio")
    (tmp_path / "own" / "list.csv").write_text("\n".join(["file,labels", *rows, 'Bark/dog_bark.ogg,"Bark;Käuzchen"']))
    by_folder = prepare(folder_collection(tmp_path / "own"), tmp_path / "folder.h5", workers=1)
    by_csv = prepare(folder_collection(tmp_path / "own" / "list.csv"), tmp_path / "csv.h5", workers=1)
    assert by_csv.left_out == {"missing": 0, "unreadable": 0, "duplicate": 1}
    assert by_csv.clip_ids_sha256 == by_folder.clip_ids_sha256
    for made in (by_folder, by_csv):
        clips = ClipFile(made.path)
        assert clips.labels == ("Bark", "Käuzchen", "Male speech, man speaking")
        names = clips.audio_names()
        expected = [
            (f"{name}@0" if f"{name}@0" in names else name, waveform)
            for name in ("Bark/dog_bark.ogg", "Käuzchen/wolf_howl.ogg", f"{list(named)[1]}/speech_front_center.wav")
            for waveform in [padded(first_clip(tmp_path / "own" / name)[0])]
        ]
        for name, waveform in expected:
            row = names.index(name)
            (index,) = np.flatnonzero(clips.read("target", [row])[0])
            assert clips.labels[index] == name.split("/")[0]
            np.testing.assert_array_equal(clips.waveforms([row])[0], waveform)


def test_a_test_set_takes_the_train_sets_labels(tmp_path: Path) -> None:
    for label in ("b", "c"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "dog.ogg").write_bytes((RECORDINGS / "dog_bark.ogg").read_bytes())
    made = prepare(folder_collection(tmp_path, ("a", "b", "c")), tmp_path / "test.h5", workers=1)
    clips = ClipFile(made.path)
    assert clips.labels == ("a", "b", "c")
    np.testing.assert_array_equal(clips.read("target", [0, 1]), [[False, True, False], [False, False, True]])
    with pytest.raises(ClipFileError, match="'c' is none of the 2"):
        folder_collection(tmp_path, ("a", "b"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,labels\na.wav,x\n", "file,labels"),
        ("file,labels\n", "lists no file"),
        ("file,labels\na.wav,\n", r"a\.wav has no label"),
        ("file,labels\na.wav,x,y\n", "list.csv:2: 3 columns"),
    ],
)
def test_other_csvs_of_files_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ClipFileError, match=said):
        folder_collection(tmp_path / "list.csv")


def test_compressed_is_smaller_and_the_same(
    sources: dict[str, list[str]], prepared: dict[str, Path], tmp_path: Path
) -> None:
    collection = audioset_collection(sources["folder"][:1], sources["folder"][-1])
    made = prepare(collection, tmp_path / "small.h5", compression="gzip")
    assert contents(made.path) == contents(prepared["folder"])
    assert made.path.stat().st_size < 0.5 * prepared["folder"].stat().st_size
    assert json.loads(h5py.File(made.path).attrs["labels"])[0] == "Speech"
