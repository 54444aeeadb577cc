"""Fetching a repository from a hub with huggingface_hub: its resumption, our verification."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

WANTED = ("*.json", "*.safetensors", "*.jinja", "LICENSE*", "README.md")
CHUNK_BYTES = 8 * 1024**2
MAX_TRIES = 2
"""For a file that arrives with another hash than the hub's."""


class PullFault(Exception):
    """The repository could not be fetched; one line with a way out."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository at a revision."""

    repository: str
    revision: str = "main"
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class HubFile:
    """What the hub says of a file."""

    name: str
    num_bytes: int
    sha256: str | None
    """None for small files, which are kept in git: their git hash stands in."""
    git_hash: str


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was fetched."""

    commit: str
    num_files: int
    num_bytes: int


def pull(hub: Hub, folder: Path, progress: Callable[[int, int], None] | None = None) -> Pulled:
    """Fetch what is not there, check all of it.

    Raises:
        PullFault: no such repository, no connection, no room, or a file stays damaged.
    """
    commit, files = _listing(hub)
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(file.num_bytes for file in files)
    left = [file for file in files if not _is_whole(folder, file)]
    missing = sum(file.num_bytes for file in left) - _already(folder) - shutil.disk_usage(folder).free
    if missing > 0:
        raise PullFault(
            f"{folder}: the disk is too full, {missing / 1e9:.2f} GB more are needed; make room, pull again"
        )
    done = total - sum(file.num_bytes for file in left)
    for file in left:
        _fetch_checked(hub, commit, file, folder)
        done += file.num_bytes
        if progress is not None:
            progress(done, total)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return Pulled(commit, len(files), total)


def _listing(hub: Hub) -> tuple[str, list[HubFile]]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi(endpoint=hub.endpoint).model_info(hub.repository, revision=hub.revision, files_metadata=True)
    except (RepositoryNotFoundError, RevisionNotFoundError) as fault:
        raise PullFault(
            f"{hub.repository} at {hub.revision}: the hub has no such repository; check the name"
        ) from fault
    except (HfHubHTTPError, OSError, ValueError) as fault:
        raise PullFault(f"{hub.repository}: the hub cannot be asked ({_short(fault)}); check the network") from fault
    except Exception as fault:  # the HTTP library's own family, which huggingface_hub lets through
        raise PullFault(f"{hub.repository}: the hub cannot be reached ({_short(fault)}); check the network") from fault
    files = [
        HubFile(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else None, one.blob_id or "")
        for one in info.siblings or []
        if any(fnmatch(one.rfilename, pattern) for pattern in WANTED)
    ]
    if not files or info.sha is None:
        raise PullFault(f"{hub.repository} holds no checkpoint; check the name")
    return info.sha, files


def _fetch_checked(hub: Hub, commit: str, file: HubFile, folder: Path) -> None:
    for _ in range(MAX_TRIES):
        _fetch(hub, commit, file, folder)
        if _is_whole(folder, file):
            return
        (folder / file.name).unlink(missing_ok=True)
        shutil.rmtree(folder / ".cache", ignore_errors=True)
    raise PullFault(f"{folder / file.name}: arrived damaged {MAX_TRIES} times and was removed; pull again later")


def _fetch(hub: Hub, commit: str, file: HubFile, folder: Path) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        hf_hub_download(hub.repository, file.name, revision=commit, local_dir=folder, endpoint=hub.endpoint)
    except (HfHubHTTPError, OSError) as fault:
        raise PullFault(f"{file.name}: cut off ({_short(fault)}); pull again, it goes on where it was") from fault
    except Exception as fault:  # as above
        raise PullFault(f"{file.name}: cut off ({_short(fault)}); pull again, it goes on where it was") from fault


def _already(folder: Path) -> int:
    """Bytes of files that were begun."""
    return sum(path.stat().st_size for path in (folder / ".cache").rglob("*.incomplete"))


def _is_whole(folder: Path, file: HubFile) -> bool:
    path = folder / file.name
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    if file.sha256 is not None:
        return _digest(path, hashlib.sha256()) == file.sha256
    return _digest(path, hashlib.sha1(b"blob %d\0" % file.num_bytes, usedforsecurity=False)) == file.git_hash


def _digest(path: Path, digest: hashlib._Hash) -> str:
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            yield chunk


def _short(fault: BaseException) -> str:
    return (str(fault).splitlines() or [type(fault).__name__])[0][:120]
