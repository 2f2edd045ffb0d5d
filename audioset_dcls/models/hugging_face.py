"""Files of taggers on the Hugging Face Hub, through its own client and cache. Runs without torch.

Two names are asked for, and nothing that a repository says is run: an ONNX file and safetensors, both with the checks
that every file of a stranger gets.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from preprocessing.files import sha256_of
from preprocessing.terminal import first_line

PREFIX = "hf:"
ONNX_FILE, WEIGHTS_FILE = "tagger.onnx", "model.safetensors"  # names in a repository
_SOURCE = re.compile(r"hf:([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w-][\w./-]*))?")
_log = logging.getLogger(__name__)


class HubError(OSError):
    """The Hub does not have what is asked for, or does not answer; one line that says what to do."""


def is_on_hub(source: str | Path) -> bool:
    return isinstance(source, str) and source.startswith(PREFIX)


def fetch(source: str, files: Sequence[str]) -> Path:
    """The first of `files` that a repository has, from the Hub's cache or downloaded into it.

    Args:
        source: "hf:owner/name", or "hf:owner/name@revision": a branch, a tag or, to pin what is used, a commit.

    Content is compared with the checksum that the Hub tells of it, on every use; damaged files are downloaded again.
    With HF_HUB_OFFLINE set the cache alone is asked. Raises HubError.
    """
    found = _SOURCE.fullmatch(source)
    if found is None:
        raise HubError(f"{source}: no name on the Hub; write hf:owner/name or hf:owner/name@revision")
    repository, revision = found.groups()
    with _in_words(source):
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        offline = bool(constants.HF_HUB_OFFLINE)
        for name in files:
            try:
                path = Path(hf_hub_download(repository, name, revision=revision))
                if problem := _difference(path):
                    if offline:
                        raise HubError(f"{path}: {problem}; unset HF_HUB_OFFLINE to download it again")
                    _log.warning("%s: %s; downloading it again", path, problem)
                    path = Path(hf_hub_download(repository, name, revision=revision, force_download=True))
                    if problem := _difference(path):
                        raise HubError(f"{source}: {name} {problem}, as it is sent; try again later")
                return path
            except LocalEntryNotFoundError as error:
                if not offline:
                    raise HubError(f"{source}: not in the cache, and the Hub does not answer; try again") from error
            except EntryNotFoundError:
                continue
    if offline:
        raise HubError(f"{source}: not in the cache; unset HF_HUB_OFFLINE to download it")
    raise HubError(f"{source}: has no {' and no '.join(files)}: no tagger of this project")


@contextmanager
def _in_words(source: str) -> Iterator[None]:
    """What the Hub's client raises becomes a HubError of one line that names `source`."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise HubError(f"{source}: needs {error.name}; pip install 'audioset-dcls[hub]'") from error
    try:
        yield
    except HubError:
        raise
    except errors.GatedRepoError as error:
        raise HubError(f"{source}: asks for an agreement; accept it on its page, then hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f"{source}: no such repository, or a private one; check the name, or hf auth login") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{source}: has no such revision; name a branch, a tag or a commit") from error
    except errors.HfHubHTTPError as error:
        refused = error.response is not None and error.response.status_code in (401, 403)
        hint = "; the Hub needs to know you: hf auth login, or HF_TOKEN" if refused else ""
        raise HubError(f"{source}: {first_line(error)}{hint}") from error
    except errors.HFValidationError as error:
        raise HubError(f"{source}: {first_line(error)}") from error
    except Exception as error:  # a full disk, or one of the HTTP library's, which is another one in other versions
        raise HubError(f"{source}: {first_line(error)}") from error


def upload(folder: Path, repository: str, message: str) -> str:
    """One commit with all files of a folder; the repository is made if it is missing. Its address. Raises HubError."""
    with _in_words(repository):
        from huggingface_hub import HfApi

        api = HfApi()
        made = api.create_repo(repository, exist_ok=True)
        return str(api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message).commit_url)


def _difference(path: Path) -> str | None:
    """How a file differs from its checksum, the name of the blob that the cache's link leads to; None if it does not.

    Large files have their SHA-256, small ones git's SHA-1. A cache without links (some Windows) has no checksums.
    """
    if not path.is_symlink():
        return None
    expected = os.path.basename(os.readlink(path))  # noqa: PTH115, PTH119 - one link, not where that may lead
    if len(expected) == 64:
        found = sha256_of(path)
    elif len(expected) == 40:
        content = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
    else:
        return None
    return None if found == expected else f"has the checksum {found}, expected {expected}"
