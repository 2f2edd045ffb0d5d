import gzip
import lzma
import shutil
import subprocess
import tarfile

import pytest

from preprocessing.corpora.open_sounds.debian import download, unpack
from preprocessing.corpora.open_sounds.lists import OpenSoundsError, load_packages
from tests.preprocessing.corpora.open_sounds.corpus import deb


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
        download(load_packages(corpus.data)[0], tmp_path)
