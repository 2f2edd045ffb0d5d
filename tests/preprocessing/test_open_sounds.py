import csv
import gzip
import hashlib
import io
import lzma
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import soundfile

from preprocessing import open_sounds, synthetic
from preprocessing.labels import labels
from preprocessing.open_sounds import (
    OpenSoundsError,
    Recording,
    decode,
    download,
    gus_waveform,
    load_packages,
    load_recording_list,
    prepare_open_sounds,
    rcc_members,
    read_member,
    unpack,
)
from tests.processes import signalled_at

RATE = 32_000


def tone(hertz, seconds, rate=RATE):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def wav(hertz, seconds=0.5, rate=RATE):
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(hertz, seconds, rate), rate, format="WAV")
    return buffer.getvalue()


def frequency(waveform):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return spectrum.argmax() * RATE / len(waveform)


# packages ------------------------------------------------------------------------------------------------------------


def deb(files, compress=lambda data: lzma.compress(data), suffix="xz"):
    """A .deb as dpkg-deb makes it: an ar archive of debian-binary, control.tar and data.tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    archive = b"!<arch>\n"
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{suffix}": compress(buffer.getvalue())}
    for name, data in parts.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n"
        archive += header.encode() + data + b"\n" * (len(data) % 2)
    return archive


@pytest.mark.parametrize(("compress", "suffix"), [(lzma.compress, "xz"), (gzip.compress, "gz"), (bytes, "")])
def test_a_package_gives_the_wanted_files_and_its_copyright(tmp_path, compress, suffix):
    files = {"usr/a.wav": b"1", "usr/b.wav": b"22", "usr/share/doc/p/copyright": b"free", "etc/passwd": b"no"}
    (tmp_path / "p.deb").write_bytes(deb(files, compress, suffix))
    unpack(tmp_path / "p.deb", tmp_path / "out", frozenset({"usr/b.wav"}))
    found = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert found == {"usr/b.wav", "usr/share/doc/p/copyright"}
    assert (tmp_path / "out/usr/b.wav").read_bytes() == b"22"


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is on Debian alone")
def test_dpkg_reads_the_packages_of_these_tests_and_unpack_reads_dpkgs(tmp_path):
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text("Package: p\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n")
    (tree / "usr").mkdir()
    (tree / "usr/a.wav").write_bytes(b"sound")
    subprocess.run(["dpkg-deb", "--build", "-Zxz", tree, tmp_path / "made.deb"], check=True, capture_output=True)
    unpack(tmp_path / "made.deb", tmp_path / "out", frozenset({"usr/a.wav"}))
    assert (tmp_path / "out/usr/a.wav").read_bytes() == b"sound"


@pytest.mark.parametrize("content", [b"", b"no archive at all", deb({"a": b"1"})[:200], b"!<arch>\n"])
def test_a_damaged_package_is_an_error(tmp_path, content):
    (tmp_path / "p.deb").write_bytes(content)
    with pytest.raises((OSError, EOFError, tarfile.TarError, lzma.LZMAError)):
        unpack(tmp_path / "p.deb", tmp_path, frozenset({"a"}))


def test_a_path_cannot_leave_the_folder(tmp_path):
    (tmp_path / "p.deb").write_bytes(deb({"../escaped": b"1"}))
    with pytest.raises(tarfile.TarError):
        unpack(tmp_path / "p.deb", tmp_path / "out", frozenset({"../escaped"}))
    assert not (tmp_path / "escaped").exists()


# containers ----------------------------------------------------------------------------------------------------------


def rcc(files):
    """A Qt resource file of format 2 with a folder `sounds` that holds `files`: {name: (data, compressed)}."""
    names, contents, nodes = b"", b"", []

    def name(text):
        nonlocal names
        offset = len(names)
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
        return offset

    nodes.append(struct.pack(">IHII", 0, 2, 1, 1) + bytes(8))
    nodes.append(struct.pack(">IHII", name("sounds"), 2, len(files), 2) + bytes(8))
    for text, (data, compressed) in files.items():
        stored = struct.pack(">I", len(data)) + zlib.compress(data) if compressed else data
        nodes.append(struct.pack(">IHHHI", name(text), compressed, 0, 0, len(contents)) + bytes(8))
        contents += struct.pack(">I", len(stored)) + stored
    head, tree = 20, b"".join(nodes)
    offsets = struct.pack(">IIII", 2, head, head + len(tree), head + len(tree) + len(contents))
    return b"qres" + offsets + tree + contents + names


def test_a_qt_resource_file_gives_its_members():
    members = rcc_members(rcc({"plain.wav": (b"abc", 0), "packed.wav": (b"d" * 99, 1)}))
    assert {name: read() for name, read in members.items()} == {
        "sounds/plain.wav": b"abc",
        "sounds/packed.wav": b"d" * 99,
    }


def gus_patch(waveforms):
    """A GUS patch: (samples, rate, modes) of each waveform; bit 0 of modes is 16 bit, bit 1 unsigned."""
    patch = b"GF1PATCH110\0".ljust(198, b"\0") + bytes([len(waveforms)])
    patch = patch.ljust(239, b"\0")
    for samples, rate, modes in waveforms:
        header = bytearray(96)
        struct.pack_into("<I", header, 8, len(samples))
        struct.pack_into("<H", header, 20, rate)
        header[55] = modes
        patch += bytes(header) + samples
    return patch


@pytest.mark.parametrize(
    ("samples", "modes"),
    [
        (np.array([0, 256, -512], "<i2"), 1),
        (np.array([32_768, 33_024, 32_256], "<u2"), 3),
        (np.array([0, 1, -2], np.int8), 0),
        (np.array([128, 129, 126], np.uint8), 2),
    ],
)
def test_all_four_sample_formats_of_a_gus_patch_decode_alike(samples, modes):
    patch = gus_patch([(b"\1" * 10, 8_000, 2), (samples.tobytes(), 11_025, modes)])
    decoded, rate = soundfile.read(io.BytesIO(gus_waveform(patch, 1)), dtype="int16")
    assert rate == 11_025
    np.testing.assert_array_equal(decoded, [0, 256, -512])


def test_members_are_found_in_every_container(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/y.wav", b"zipped")
    shutil.copy(tmp_path / "a.zip", tmp_path / "b.pk3")
    (tmp_path / "c.rcc").write_bytes(rcc({"y.wav": (b"resource", 1)}))
    assert read_member(tmp_path / "a.zip", "x/y.wav") == b"zipped"
    assert read_member(tmp_path / "b.pk3", "x/y.wav") == b"zipped"
    assert read_member(tmp_path / "c.rcc", "sounds/y.wav") == b"resource"
    for container, member in (("a.zip", "no"), ("c.rcc", "no")):
        with pytest.raises(KeyError):
            read_member(tmp_path / container, member)


def test_a_recording_is_cut_to_its_times(tmp_path):
    """500 Hz for 12 s, then 1 kHz for 2 s: the cut hits the second."""
    sound = np.concatenate([tone(500, 12, 48_000), tone(1_000, 2, 48_000)])
    soundfile.write(tmp_path / "long.flac", sound, 48_000)
    recording = Recording("p", "long.flac", 12.25, 13.25, "g", ("Music",), np.zeros(527))
    waveform = decode(recording, tmp_path)
    assert len(waveform) == RATE
    assert abs(frequency(waveform) - 1_000) < 2


# the whole ------------------------------------------------------------------------------------------------------------

PACKAGES = {  # name: (split, files)
    "alpha": ("train", {"usr/bell.wav": wav(500), "usr/dog.wav": wav(700, 0.8)}),
    "beta": ("validation", {"usr/b.wav": wav(900)}),
    "gamma": ("test", {"usr/g.wav": wav(1_100), "usr/damaged.wav": b"RIFF but nothing more"}),
    "delta": ("train", {}),
}


@pytest.fixture
def corpus(tmp_path):
    """Lists like those of the package and the .debs they speak of, containers included."""
    data, debs = tmp_path / "lists", tmp_path / "debs"
    data.mkdir()
    debs.mkdir()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("in/cat.wav", wav(1_300))
    files = {"delta": {"usr/d.pk3": buffer.getvalue(), "usr/d.rcc": rcc({"d.wav": (wav(1_500), 1)})}}
    rows = [
        ["alpha", "usr/bell.wav", 0, 0.5, "alpha:bell", "Bell", "other", 1],
        ["alpha", "usr/dog.wav", 0.2, 0.8, "alpha:dog", "Animal;Dog", "other", 1],
        ["beta", "usr/b.wav", 0, 0.5, "beta:b", "Bell", "other", 1],
        ["gamma", "usr/g.wav", 0, 0.5, "gamma:g", "Music", "other", 1],
        ["gamma", "usr/damaged.wav", 0, 0.5, "gamma:d", "Music", "other", 1],
        ["delta", "usr/d.pk3!in/cat.wav", 0, 0.5, "delta:c", "Cat", "other", 1],
        ["delta", "usr/d.rcc!sounds/d.wav", 0, 0.5, "delta:d", "Cat", "other", 1],
    ]
    with (data / "recordings.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["package", "path", "start", "end", "group", "labels", "kind", "confirmed"], *rows])
    with (data / "packages.tsv").open("w") as file:
        print("package version architecture bytes installed_kib sha256 split core".replace(" ", "\t"), file=file)
        for name, (split, content) in PACKAGES.items():
            licence = {f"usr/share/doc/{name}/copyright": f"licence of {name}".encode()}
            content = deb(files.get(name, content) | licence)
            (debs / f"{name}_1.0_all.deb").write_bytes(content)
            row = [
                name,
                "1.0",
                "all",
                len(content),
                10,
                hashlib.sha256(content).hexdigest(),
                split,
                int(name != "delta"),
            ]
            print(*row, sep="\t", file=file)
    (data / "soundfonts.csv").write_text("name,package,path,labels,group\n")
    speech = [["s0", "flite", "slt", 0, "Good morning.", "Speech", "tts:slt"]]
    with (data / "speech.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["name", "engine", "voice", "rate", "text", "labels", "group"], *speech])
    scores = np.tile(np.arange(len(rows))[:, None] / 16, (1, 527)).astype(np.float16)
    np.savez(
        data / "teacher_scores.npz", recordings=scores, soundfonts=np.zeros((0, 527)), speech=np.full((1, 527), 0.5)
    )
    return data, debs


@pytest.fixture
def few_scenes(monkeypatch):
    monkeypatch.setattr(open_sounds, "SCENES", 3)


@pytest.fixture
def no_tools(monkeypatch):
    monkeypatch.setattr(open_sounds, "missing_tools", lambda: ["flite"])


def stored(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file} | {"samples": file.attrs.get("samples")}


@pytest.mark.usefixtures("few_scenes", "no_tools")
def test_the_files_hold_what_the_lists_say(corpus, tmp_path):
    data, debs = corpus
    said = []
    made = prepare_open_sounds(tmp_path / "out", debs, say=said.append, data=data)
    assert made.clips == {"train": 4, "validation": 1, "test": 1, "test_scenes": 3}
    assert len(made.left_out) == 1
    assert made.left_out[0].startswith("gamma/usr/damaged.wav: ")
    assert any("0.0 GB to download" in line for line in said)
    assert any("flite not installed" in line for line in said)
    train = stored(tmp_path / "out/train.h5")
    index = {label.display_name: label.index for label in labels()}
    expected = {  # name: (frequency, samples, labels, group, score)
        b"alpha/usr/bell.wav": (500, 16_000, {"Bell"}, b"alpha:bell", 0),
        b"alpha/usr/dog.wav@0.2": (700, 19_200, {"Animal", "Dog"}, b"alpha:dog", 1 / 16),
        b"delta/usr/d.pk3!in/cat.wav": (1_300, 16_000, {"Cat"}, b"delta:c", 5 / 16),
        b"delta/usr/d.rcc!sounds/d.wav": (1_500, 16_000, {"Cat"}, b"delta:d", 6 / 16),
    }
    assert set(train["audio_name"]) == set(expected)
    for row, name in enumerate(train["audio_name"]):
        hertz, samples, names, group, score = expected[name]
        waveform = train["waveform"][row]
        assert train["samples"][row] == samples
        assert not waveform[samples:].any()
        assert abs(frequency(waveform[:samples]) - hertz) < 3
        assert set(np.flatnonzero(train["target"][row])) == {index[label] for label in names}
        assert train["group"][row] == group
        assert (train["teacher"][row] == np.float16(score)).all()
    assert (tmp_path / "out/copyright/gamma").read_text() == "licence of gamma"
    assert not (tmp_path / "out/.packages").exists()
    scenes = stored(tmp_path / "out/test_scenes.h5")
    assert scenes["waveform"].shape == (3, 320_000)
    assert (np.flatnonzero(scenes["target"].any(0)) == index["Music"]).all()


@pytest.mark.usefixtures("few_scenes", "no_tools")
def test_the_core_is_a_part_and_its_files_are_not_taken_for_the_whole(corpus, tmp_path):
    data, debs = corpus
    assert prepare_open_sounds(tmp_path / "out", debs, core=True, data=data).clips["train"] == 2
    with pytest.raises(OpenSoundsError, match=r"train\.h5: made from other lists or packages"):
        prepare_open_sounds(tmp_path / "out", debs, data=data)


@pytest.mark.usefixtures("few_scenes", "no_tools")
def test_a_missing_package_keeps_the_others_and_can_be_added(corpus, tmp_path, monkeypatch):
    data, debs = corpus
    monkeypatch.setenv("PATH", "")
    shutil.move(debs / "delta_1.0_all.deb", tmp_path / "delta_1.0_all.deb")
    with pytest.raises(OpenSoundsError, match=r"1 packages could not be had \(delta\)"):
        prepare_open_sounds(tmp_path / "out", debs, data=data)
    assert (tmp_path / "out/test.h5").exists()
    assert not (tmp_path / "out/train.h5").exists()
    shutil.move(tmp_path / "delta_1.0_all.deb", debs / "delta_1.0_all.deb")
    assert prepare_open_sounds(tmp_path / "out", debs, data=data).clips == {"train": 4, "test_scenes": 3}


@pytest.mark.usefixtures("few_scenes", "no_tools")
def test_a_package_may_lie_there_unpacked(corpus, tmp_path):
    data, debs = corpus
    for archive in debs.glob("*.deb"):
        unpack(
            archive,
            debs / archive.name.partition("_")[0],
            frozenset({"usr/bell.wav", "usr/dog.wav", "usr/b.wav", "usr/g.wav"}),
        )
    made = prepare_open_sounds(tmp_path / "out", debs, core=True, data=data)
    assert made.clips["train"] == 2
    assert (debs / "alpha/usr/bell.wav").exists()  # what was given stays


@pytest.mark.usefixtures("no_tools")
def test_a_disk_that_is_too_small_is_told_of_before_the_start(corpus, tmp_path, monkeypatch):
    data, debs = corpus
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(OpenSoundsError, match=r"0\.0 GB are free, 0\.6 GB are needed; try --core"):
        prepare_open_sounds(tmp_path / "out", debs, data=data)
    assert not (tmp_path / "out/train.h5.part").exists()


RUN = """
import sys
from pathlib import Path
from preprocessing import open_sounds
open_sounds.SCENES = 3
open_sounds.missing_tools = lambda: ["flite"]
open_sounds._BATCH = 1
open_sounds.prepare_open_sounds(Path(sys.argv[1]), Path(sys.argv[2]), data=Path(sys.argv[3]))
"""


def test_killed_again_and_again_it_ends_in_the_same_files(corpus, tmp_path):
    data, debs = corpus
    subprocess.run([sys.executable, "-c", RUN, tmp_path / "whole", debs, data], check=True, capture_output=True)
    for number in (3, 9, 14):
        killed = signalled_at("fsync", number, signal.SIGKILL) + RUN
        done = subprocess.run([sys.executable, "-c", killed, tmp_path / "out", debs, data], capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    subprocess.run([sys.executable, "-c", RUN, tmp_path / "out", debs, data], check=True, capture_output=True)
    for name in ("train", "validation", "test", "test_scenes"):
        assert (tmp_path / f"out/{name}.h5").read_bytes() == (tmp_path / f"whole/{name}.h5").read_bytes()


# apt -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(corpus, tmp_path, monkeypatch):
    """An `apt-get` that serves the .debs of a folder as the real one does: `download NAME=VERSION` into the cwd."""
    data, debs = corpus
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "apt-get").write_text(
        f"""#!{sys.executable}
import shutil, sys
from pathlib import Path
from types import SimpleNamespace
name, _, version = sys.argv[-1].partition("=")
found = list(Path({str(debs)!r}).glob(f"{{name}}_{{version or '*'}}_all.deb"))
if not found:
    sys.exit(f"E: Unable to locate {{name}} {{version}}")
shutil.copy(found[0], ".")
"""
    )
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return {package.name: package for package in load_packages(data)}, debs


def test_apt_gives_a_package_which_is_checked(archive, tmp_path):
    packages, debs = archive
    assert download(packages["alpha"], tmp_path).read_bytes() == (debs / "alpha_1.0_all.deb").read_bytes()


def test_another_content_of_the_listed_version_is_refused(archive, tmp_path):
    packages, debs = archive
    (debs / "alpha_1.0_all.deb").write_bytes(deb({"usr/bell.wav": b"forged"}))
    with pytest.raises(OpenSoundsError, match="alpha: SHA-256 is not"):
        download(packages["alpha"], tmp_path)


def test_a_later_version_is_taken_and_told_of(archive, tmp_path):
    packages, debs = archive
    (debs / "alpha_1.0_all.deb").rename(debs / "alpha_1.1_all.deb")
    said = []
    assert download(packages["alpha"], tmp_path, said.append).name == "alpha_1.1_all.deb"
    assert said == ["alpha: version 1.0 is gone, taking apt's; its clips may differ"]


def test_a_package_that_apt_lacks_is_told_with_apts_reason(archive, tmp_path):
    packages, debs = archive
    (debs / "alpha_1.0_all.deb").unlink()
    with pytest.raises(OpenSoundsError, match=r"alpha: apt cannot get it .*Unable to locate alpha"):
        download(packages["alpha"], tmp_path)


def test_without_apt_it_says_what_to_do(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OpenSoundsError, match=r"there is no apt-get here; run on Debian .* --packages"):
        download(load_packages(corpus[0])[0], tmp_path)


@pytest.mark.usefixtures("archive", "few_scenes", "no_tools")
def test_the_whole_corpus_comes_from_apt(corpus, tmp_path):
    said = []
    made = prepare_open_sounds(tmp_path / "out", data=corpus[0], say=said.append)
    assert made.clips == {"train": 4, "validation": 1, "test": 1, "test_scenes": 3}
    assert not (tmp_path / "out/.packages").exists()


# the synthetic part --------------------------------------------------------------------------------------------------


def test_every_recipe_gives_a_midi_file_that_ends_in_time():
    with (open_sounds.DATA / "soundfonts.csv").open(newline="") as file:
        recipes = list(csv.DictReader(file))
    patterns = Counter()
    for recipe in recipes[::7]:
        events, tempo = synthetic.notes(recipe)
        assert synthetic.midi_file(events, tempo) == synthetic.midi_file(*synthetic.notes(recipe))
        on = sum(message[0] & 0xF0 == 0x90 for _, message in events)
        assert on == sum(message[0] & 0xF0 == 0x80 for _, message in events) > 0
        assert max(at for at, _ in events) < float(recipe["seconds"])
        patterns[recipe["pattern"]] += 1
    assert len(patterns) >= 8


def test_a_midi_file_is_what_the_standard_says():
    """One note of middle C for a second at 60 beats a minute, written out by hand."""
    midi = synthetic.midi_file([(0.0, b"\x90\x3c\x40"), (1.0, b"\x80\x3c\x00")], 60.0)
    track = b"\x00\xff\x51\x03\x0f\x42\x40" + b"\x00\x90\x3c\x40" + b"\x83\x60\x80\x3c\x00" + b"\x83\x60\xff\x2f\x00"
    assert midi == b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk" + struct.pack(">I", len(track)) + track


@pytest.mark.skipif(bool(synthetic.missing_tools()), reason="needs fluidsynth, espeak-ng and flite")
def test_sentences_are_spoken(tmp_path):
    for recipe in ({"engine": "flite", "voice": "slt"}, {"engine": "espeak-ng", "voice": "de", "rate": "150"}):
        waveform = synthetic.synthesize(recipe | {"text": "Good morning to you all."}, tmp_path)
        assert RATE / 2 < len(waveform) < 5 * RATE
        assert np.abs(waveform).max() > 0.05


# the lists of the corpus itself --------------------------------------------------------------------------------------


def test_the_lists_agree_with_each_other():
    packages, recordings = load_packages(), load_recording_list()
    names = {package.name for package in packages}
    known = {label.display_name for label in labels()}
    assert len(recordings) == 3_534
    assert len({recording.name for recording in recordings}) == 3_534
    assert {recording.package for recording in recordings} == {p.name for p in packages if p.split != "synthetic"}
    assert not names & {"openttd-opensfx", "scratch"}
    for recording in recordings:
        assert known.issuperset(recording.labels)
        assert 0 < recording.end - recording.start <= 10.001
        assert recording.teacher.shape == (527,)
    with np.load(open_sounds.DATA / "teacher_scores.npz") as scores:
        for name in ("soundfonts", "speech"):
            with (open_sounds.DATA / f"{name}.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            assert len(rows) == len(scores[name])
            assert known.issuperset(label for row in rows for label in row["labels"].split(";"))


def test_the_split_keeps_packages_apart_and_test_well_covered():
    split = {package.name: package.split for package in load_packages()}
    of_group = defaultdict(set)
    in_packages, groups, rows = defaultdict(set), defaultdict(set), Counter()
    for recording in load_recording_list():
        for label in recording.labels:
            in_packages[label].add(recording.package)
            groups[label].add(recording.group)
            rows[label] += 1
        of_group[recording.group].add(split[recording.package])
    assert {len(splits) for splits in of_group.values()} == {1}
    well = [label for label in rows if rows[label] >= 10 and len(groups[label]) >= 3]
    possible = [label for label in well if len(in_packages[label]) >= 4]
    covered = [label for label in possible if sum(split[name] == "test" for name in in_packages[label]) >= 2]
    assert (len(well), len(possible), len(covered)) == (149, 132, 122)
    for label in well:
        assert any(split[name] == "train" for name in in_packages[label]), label


def test_the_teacher_agrees_with_the_labels_it_confirmed():
    """Rows and scores in the same order: of 90 % of the recordings it has a label among its ten best."""
    recordings = load_recording_list()
    index = {label.display_name: label.index for label in labels()}
    hits = [
        bool({index[label] for label in recording.labels} & set(np.argsort(recording.teacher)[-10:].tolist()))
        for recording in recordings
    ]
    assert np.mean(hits) > 0.85
