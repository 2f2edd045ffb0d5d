"""Debian packages: from a folder or from apt into a working folder, only the files that are wanted."""

from __future__ import annotations

import io
import lzma
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from preprocessing.corpora.open_sounds.containers import close_containers
from preprocessing.corpora.open_sounds.lists import OpenSoundsError, Package
from preprocessing.files import sha256_of


@dataclass
class Packages:
    """Unpacks packages, one at a time, below the folder `work`; their copyright notices are kept in `copyright`.

    Attributes:
        given: a folder of `PACKAGE_*.deb` files or unpacked packages `PACKAGE/usr/...`; what it lacks comes from apt.
        say: is told what the user should know.
    """

    work: Path
    copyright: Path
    given: Path | None
    say: Callable[[str], None]

    @contextmanager
    def open(self, package: Package, files: frozenset[str]) -> Iterator[Path]:
        """The folder in which `files` of the package lie, until the block ends. Raises OpenSoundsError without it."""
        found = self.find(package.name)
        root = found if found is not None and found.is_dir() else self._unpack(package, found, files)
        self.copyright.mkdir(parents=True, exist_ok=True)
        for file in sorted(root.glob("usr/share/doc/*/copyright")):
            shutil.copyfile(file, self.copyright / package.name)
        try:
            yield root
        finally:
            close_containers()
            shutil.rmtree(self.work / package.name, ignore_errors=True)

    def find(self, name: str) -> Path | None:
        """`given/NAME/` or `given/NAME_*.deb`."""
        if self.given is None:
            return None
        if (self.given / name).is_dir():
            return self.given / name
        return next(iter(sorted(self.given.glob(f"{name}_*.deb"))), None)

    def _unpack(self, package: Package, found: Path | None, files: frozenset[str]) -> Path:
        root = self.work / package.name
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        archive = found or download(package, root, self.say)
        if found and sha256_of(found) != package.sha256:
            self.say(f"{found}: not the build that the list was made from; its clips may differ")
        try:
            unpack(archive, root, files)
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
            raise OpenSoundsError(f"{archive}: is not a Debian package that can be unpacked ({error})") from None
        if not found:
            archive.unlink()
        return root


def download(package: Package, folder: Path, say: Callable[[str], None] = print) -> Path:
    """Have apt put the package's .deb into `folder`, in the listed version, or else the one that apt knows.

    Raises OpenSoundsError if there is no apt, if apt fails, or if the listed version has another SHA-256.
    """
    if shutil.which("apt-get") is None:
        raise OpenSoundsError(
            f"{package.name}: there is no apt-get here; run on Debian bookworm (a container will do), or give a folder "
            "with the .deb files by --packages"
        )
    command = ["apt-get", "download", "-q=2"]
    exact = subprocess.run([*command, f"{package.name}={package.version}"], cwd=folder, capture_output=True, text=True)
    if exact.returncode:
        newest = subprocess.run([*command, package.name], cwd=folder, capture_output=True, text=True)
        if newest.returncode:
            reason = (newest.stderr or exact.stderr).strip().splitlines()
            raise OpenSoundsError(f"{package.name}: apt cannot get it ({reason[-1] if reason else 'no reason given'})")
        say(f"{package.name}: version {package.version} is gone, taking apt's; its clips may differ")
    archive = next(folder.glob("*.deb"))
    if not exact.returncode and sha256_of(archive) != package.sha256:
        raise OpenSoundsError(f"{package.name}: SHA-256 is not {package.sha256}; run the same again")
    return archive


def unpack(archive: Path, folder: Path, files: frozenset[str]) -> None:
    """Take `files` and the copyright notice out of a .deb: an ar archive with a data.tar.* in it."""
    with ExitStack() as stack:
        stream = stack.enter_context(archive.open("rb"))
        if stream.read(8) != b"!<arch>\n":
            raise OSError("no ar archive")
        while header := stream.read(60):
            if len(header) < 60:
                raise EOFError("cut short")
            name, size = header[:16].decode("ascii", "replace").strip(" /"), int(header[48:58])
            if name.startswith("data.tar"):
                break
            stream.seek(size + size % 2, io.SEEK_CUR)
        else:
            raise OSError("no data.tar inside")
        tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r|*"))
        for member in tar:
            path = member.name.removeprefix("./")
            if member.isreg() and (
                path in files or (path.startswith("usr/share/doc/") and path.endswith("/copyright"))
            ):
                tar.extract(member, folder, filter="data")
