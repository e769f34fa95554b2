"""Weight files of the Hugging Face Hub, by the package huggingface_hub of the extra ``hub``.

A name is ``hf://OWNER/NAME``, then ``@REVISION`` for another one than the newest, then ``/FILE``
for another file than `FILES` has. The package keeps files in its own cache, reads its own
environment variables (HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE), and uses what it has in the
cache where there is no network.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

PREFIX = "hf://"
FILES = ("model.safetensors", "model.npz")  # In this order; `upload` writes one of them.
SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".pkl")
MAX_BYTES = 4 << 30  # Far more than a detector has.

_NAME = re.compile(
    r"hf://(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?"
)


class Place(NamedTuple):
    """A repository, or a file in it."""

    repository: str  # OWNER/NAME.
    revision: str | None  # A branch, tag or commit; None for the newest.
    file: str | None  # Its path in the repository; None for the first of `FILES` that is there.


def is_name(name: str) -> bool:
    """Whether a name stands for a file of the hub."""
    return name.startswith(PREFIX)


def parse(name: str) -> Place:
    """Takes a name apart. Raises ValueError if it is not of the form above."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"a model of the hub is hf://OWNER/NAME, got {name!r}")
    return Place(f"{match['owner']}/{match['name']}", match["revision"], match["file"])


def fetch(name: str) -> Path:
    """Returns the path of a weight file in the cache, and downloads it if necessary.

    Raises:
        ValueError: huggingface_hub is not installed, or the name is not of the form above.
        OSError: The repository, revision or file does not exist, may not be read or cannot be
            downloaded.
    """
    place, hub = parse(name), _package()
    unreachable = None
    with _explained(hub, place):
        for file in (place.file,) if place.file else FILES:
            try:
                return _download(hub, place, file, only_cached=unreachable is not None)
            except hub.errors.RemoteEntryNotFoundError:
                continue
            except hub.errors.LocalEntryNotFoundError as error:
                unreachable = unreachable or error
        if unreachable is not None:
            raise unreachable
        files = hub.HfApi().list_repo_files(place.repository, revision=place.revision)
    found = [file for file in files if file.endswith(SUFFIXES)]
    wanted = place.file or f"{FILES[0]} nor {FILES[1]}"
    names = ", ".join(f"hf://{place.repository}/{file}" for file in found[:10])
    advice = f"its weight files are {names}" if found else "and no other weight file"
    raise FileNotFoundError(f"{place.repository} on the hub has no {wanted}: {advice}")


def _download(hub: ModuleType, place: Place, file: str, *, only_cached: bool) -> Path:
    where = {"repo_id": place.repository, "filename": file, "revision": place.revision}
    where["local_files_only"] = only_cached
    size = hub.hf_hub_download(**where, dry_run=True).file_size or 0
    if size > MAX_BYTES:
        raise OSError(f"{file} of {place.repository} has {size:,} bytes, which is no detector")
    return Path(hub.hf_hub_download(**where))


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads the files of a folder in one commit, and creates the repository if necessary.

    Args:
        folder: The folder; files of the repository that it lacks stay there.
        repository: OWNER/NAME.
        private: Whether a repository that is created here is private.

    Returns:
        The address of the repository.

    Raises:
        ValueError: huggingface_hub is not installed, or the name is not OWNER/NAME.
        OSError: The upload failed, or there is no token that may write there.
    """
    place, hub = parse(PREFIX + repository), _package()
    if place != Place(repository, None, None):
        raise ValueError(f"a repository of the hub is OWNER/NAME, got {repository!r}")
    if hub.get_token() is None:
        raise OSError("uploads need a token of the hub: `hf auth login` stores it, or set HF_TOKEN")
    with _explained(hub, place):
        address = hub.create_repo(repository, private=private or None, exist_ok=True)
        message = "Upload a model of maskrcnn_jax"
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return str(address)


@contextlib.contextmanager
def _explained(hub: ModuleType, place: Place) -> Iterator[None]:
    """Raises OSError with one line for the errors of the package."""
    name, errors = place.repository, hub.errors
    try:
        yield
    except errors.GatedRepoError as error:
        raise OSError(f"{name} on the hub is gated: ask for access on its page, log in") from error
    except errors.RepositoryNotFoundError as error:
        # The hub does not say whether a repository is private or absent.
        raise FileNotFoundError(
            f"there is no {name} on the hub that you may read: check the name; "
            "for a private one, `hf auth login` or HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{name} on the hub has no revision {place.revision}") from error
    except errors.LocalEntryNotFoundError as error:
        raise OSError(
            f"cannot reach the hub, and the cache has no weight file of {name}: {_first(error)}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "; the token may lack the right to write" if status in (401, 403) else ""
        raise OSError(f"the hub answered {status} for {name}: {_first(error)}{advice}") from error
    except errors.HFValidationError as error:
        raise ValueError(f"{name} is no name of the hub: {_first(error)}") from error
    except (errors.HTTPError, errors.FileMetadataError, errors.OfflineModeIsEnabled) as error:
        raise OSError(f"cannot reach the hub for {name}: {_first(error)}") from error
    except RuntimeError as error:  # Of a file; the reason is its cause.
        reason = _first(error.__cause__ or error)
        raise OSError(f"the upload to {name} failed: {_first(error)} {reason}") from error


def _first(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


def _package() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ValueError(
            "hf:// needs huggingface_hub: install it by `pip install 'maskrcnn-jax[hub]'`"
        ) from error
    return huggingface_hub
