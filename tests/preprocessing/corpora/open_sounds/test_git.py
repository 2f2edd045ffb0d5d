from dataclasses import replace
from pathlib import Path

import pytest

from preprocessing.corpora.open_sounds.git import GoneError, Repositories
from preprocessing.corpora.open_sounds.lists import OpenSoundsError, Repository, load_repositories
from tests.preprocessing.corpora.open_sounds.corpus import REPOSITORIES, Corpus, git, git_repository, wav


def repository(corpus: Corpus, name: str) -> Repository:
    return next(repository for repository in load_repositories(corpus.data) if repository.name == name)


def files_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".git" not in p.parts}


def test_only_the_listed_files_are_fetched(corpus: Corpus, tmp_path: Path) -> None:
    wanted = frozenset({"a/ring.wav", "a/odd! [1] name#?!.wav"})
    one = repository(corpus, "owner/one")
    with Repositories(tmp_path / "work", corpus.url).open(one, wanted) as root:
        assert files_in(root) == wanted
        for name in wanted:
            assert (root / name).read_bytes() == REPOSITORIES["owner/one"][1][name]
        objects = git(root, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)").split()
        assert objects.count("blob") == len(wanted)
        assert objects.count("commit") == 1
    assert not any((tmp_path / "work").iterdir())


@pytest.mark.parametrize("name", ["a*.wav", "!a.wav", "#a.wav", "a\\b.wav", " a.wav ", "é/ü.wav", "a?[b]!.wav"])
def test_a_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    other = {"axx.wav": b"1", "b.wav": b"2", "sub/a.wav": b"3", "ab.wav": b"4"}
    commit = git_repository(tmp_path / "git/o/r", other | {name: b"wanted"})
    listed = Repository("o/r", commit, "train", "CC0")
    with Repositories(tmp_path / "work", f"file://{tmp_path}/git").open(listed, frozenset({name})) as root:
        assert files_in(root) == {name}
        assert (root / name).read_bytes() == b"wanted"


def test_files_that_the_commit_lacks_are_not_there_and_the_others_are(corpus: Corpus, tmp_path: Path) -> None:
    two = repository(corpus, "owner/two")
    with Repositories(tmp_path / "work", corpus.url).open(two, frozenset({"v.wav", "lost.wav"})) as root:
        assert files_in(root) == {"v.wav"}


def test_a_link_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(wav(500))
    folder = tmp_path / "git/o/r"
    git_repository(folder, {"a.wav": b"1"})
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "link")
    listed = Repository("o/r", git(folder, "rev-parse", "HEAD"), "train", "CC0")
    with Repositories(tmp_path / "work", f"file://{tmp_path}/git").open(listed, frozenset({"link.wav"})) as root:
        assert not (root / "link.wav").is_symlink()
        assert (root / "link.wav").read_text() == str(tmp_path / "secret.wav")


def test_what_is_gone_is_told_from_what_cannot_be_reached(corpus: Corpus, tmp_path: Path) -> None:
    repositories = Repositories(tmp_path / "work", corpus.url)
    one = repository(corpus, "owner/one")
    for lost in (replace(one, name="owner/none"), replace(one, commit="1" * 40)):
        with pytest.raises(GoneError, match=f"{lost.name}: is gone"), repositories.open(lost, frozenset({"a"})):
            pass
    nowhere = Repositories(tmp_path / "work", "http://127.0.0.1:9")
    with (
        pytest.raises(OpenSoundsError, match="owner/one: git cannot get it") as error,
        nowhere.open(one, frozenset("a")),
    ):
        pass
    assert not isinstance(error.value, GoneError)
    assert "\n" not in str(error.value)


def test_settings_of_the_user_change_nothing(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """autocrlf would change bytes, GIT_DIR the folder, a template's hook could run anything."""
    hook = tmp_path / "template/hooks/post-checkout"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    settings = "[core]\n\tautocrlf = true\n[init]\n\ttemplateDir = " + f"{tmp_path}/template\n"
    (tmp_path / ".gitconfig").write_text(settings)
    commit = git_repository(tmp_path / "git/o/r", {"text.wav": b"a\nb\n"})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    listed = Repository("o/r", commit, "train", "CC0")
    with Repositories(tmp_path / "work", f"file://{tmp_path}/git").open(listed, frozenset({"text.wav"})) as root:
        assert (root / "text.wav").read_bytes() == b"a\nb\n"
    assert not (tmp_path / "ran").exists()
