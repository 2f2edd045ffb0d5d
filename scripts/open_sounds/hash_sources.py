"""SHA-256 of the source files of the second corpus, from local clones; optional, before build_lists.py.

    python scripts/open_sounds/hash_sources.py CORPUS WORK CLONES

CLONES holds OWNER+NAME/repo or OWNER+NAME/repo/.git with the listed commit. Writes WORK/source_sha256.tsv: repository,
path, SHA-256; repositories that are not there have no line.
"""

import csv
import hashlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path


def hashes(clone: Path, commit: str, paths: list[str]) -> dict[str, str]:
    """path -> SHA-256 of the paths that the commit has."""
    folder = clone / ".git" if (clone / ".git").exists() else clone
    names = b"".join(f"{commit}:{path}\n".encode() for path in paths)  # no path has a line break
    command = ["git", "--git-dir", str(folder), "-c", "safe.directory=*", "cat-file", "--batch"]
    found, out, at = {}, subprocess.run(command, input=names, capture_output=True, check=True).stdout, 0
    for path in paths:
        end = out.index(b"\n", at)
        header, at = out[at:end], end + 1
        if header.endswith(b" missing"):
            continue
        size = int(header.split()[-1])
        found[path] = hashlib.sha256(out[at : at + size]).hexdigest()
        at += size + 1
    return found


def main(corpus: Path, work: Path, clones: Path) -> None:
    wanted: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    with (corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            wanted[row["repo"], row["commit"]][row["path"]] = None
    lines, missing = [], []
    for (repository, commit), paths in sorted(wanted.items()):
        clone = clones / repository.replace("/", "+") / "repo"
        found = hashes(clone, commit, list(paths)) if clone.exists() else {}
        missing += [repository] if len(found) < len(paths) else []
        lines += [f"{repository}\t{path}\t{digest}\n" for path, digest in found.items()]
    (work / "source_sha256.tsv").write_text("".join(lines))
    print(len(lines), "files of", len(wanted), "repositories; not whole:", *missing)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
