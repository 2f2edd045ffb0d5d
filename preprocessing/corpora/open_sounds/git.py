"""Git repositories: the listed files of a repository at a commit, and no other file.

A partial clone without blobs, one commit deep, with a sparse checkout: git asks for the listed files' blobs alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from preprocessing.corpora.open_sounds.containers import close_containers
from preprocessing.corpora.open_sounds.lists import OpenSoundsError, Repository

GITHUB = "https://github.com"
_GONE = (  # what git says of a repository or a commit that is not there, for GitHub and for a path
    "repository not found",
    "does not appear to be a git repository",
    "could not read username",  # GitHub asks who wants to know
    "authentication failed",
    "not our ref",
    "remote error: upload-pack: not our ref",
    "unadvertised object",
    "couldn't find remote ref",
)
_SETTINGS = {
    "core.autocrlf": "false",
    "core.hooksPath": os.devnull,
    "core.symlinks": "false",  # a link becomes a file that holds its target's name: it leads nowhere
    "advice.detachedHead": "false",
    "protocol.version": "2",
}


class GoneError(OpenSoundsError):
    """A repository or commit that its host no longer has: trying again will not help."""


@dataclass
class Repositories:
    """Checks out repositories, one at a time, below the folder `work`.

    Attributes:
        url: what comes before `/owner/name`, e.g. `https://github.com` or `file:///srv/git`.
    """

    work: Path
    url: str = GITHUB

    @contextmanager
    def open(self, repository: Repository, files: frozenset[str]) -> Iterator[Path]:
        """The folder in which those `files` of the commit lie that it has, until the block ends.

        Raises GoneError if the host has no such repository or commit, OpenSoundsError if git fails otherwise.
        """
        root = self.work / repository.name.replace("/", "+")
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        try:
            self._check_out(repository, files, root)
            yield root
        finally:
            close_containers()
            shutil.rmtree(root, ignore_errors=True)

    def _check_out(self, repository: Repository, files: frozenset[str], root: Path) -> None:
        git = _Git(repository.name, root)
        git("init", "-q", ".")
        for key, value in _SETTINGS.items():
            git("config", key, value)
        git("remote", "add", "origin", f"{self.url.rstrip('/')}/{repository.name}")
        git("fetch", "-q", "--depth=1", "--no-tags", "--filter=blob:none", "origin", repository.commit)
        git("config", "remote.origin.promisor", "true")
        git("config", "remote.origin.partialclonefilter", "blob:none")
        git("sparse-checkout", "set", "--no-cone", "--stdin", stdin="".join(f"{_pattern(file)}\n" for file in files))
        git("checkout", "-q", repository.commit)


@dataclass
class _Git:
    repository: str
    root: Path

    def __call__(self, *arguments: str, stdin: str | None = None) -> None:
        """Run git in `root`. Raises GoneError and OpenSoundsError."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        done = subprocess.run(
            ["git", *arguments], cwd=self.root, input=stdin, capture_output=True, text=True, env=environment
        )
        if not done.returncode:
            return
        reason = " ".join(done.stderr.split()) or f"git {arguments[0]} ended with {done.returncode}"
        if any(words in reason.lower() for words in _GONE):
            raise GoneError(f"{self.repository}: is gone, or has lost the listed commit ({reason})")
        raise OpenSoundsError(f"{self.repository}: git cannot get it ({reason})")


def _pattern(path: str) -> str:
    """The sparse-checkout pattern of one file."""
    escaped = "".join(f"\\{letter}" if letter in "\\*?[]!# " else letter for letter in path)
    return f"/{escaped}"
