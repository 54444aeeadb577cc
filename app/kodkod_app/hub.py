"""Fetching a repository from a hub with huggingface_hub; what arrives is kept over a cut, and checked, by us.

A file is called `NAME.part` until it is whole, so whoever pulls again asks for the rest of it alone.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Self

from pydantic import BaseModel, ValidationError

from kodkod_app.render import one_line
from kodkod_engine.only_writer import only_writer

WANTED = ("*.json", "*.safetensors", "*.jinja", "LICENSE*", "README.md")
CHUNK_BYTES = 8 * 1024**2
MAX_TRIES = 2
"""For a file that arrives with another hash than the hub's."""
ORIGIN_NAME = "pulled.json"
MAX_CAUSE_CHARS = 120


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


class Origin(BaseModel):
    """`pulled.json`: where a folder's files are from. Files of a folder without it are not ours to replace."""

    repository: str
    commit: str


class Meter:
    """Counts bytes that are here, on disk and checked or on their way."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.done, self._total, self._progress = 0, total, progress

    def move(self, num_bytes: int) -> None:
        """So many more; fewer when negative."""
        self.done += num_bytes
        if self._progress is not None:
            self._progress(self.done, self._total)


def pull(hub: Hub, folder: Path, progress: Callable[[int, int], None] | None = None) -> Pulled:
    """Fetch what is not there, check all of it.

    Args:
        progress: called with (bytes that are here, bytes in all).

    Raises:
        PullFault: no such repository, no connection, no room, a file stays damaged, or the folder holds other files.
        FolderBusy: another process pulls to it.
    """
    commit, files = _listing(hub)
    total = sum(file.num_bytes for file in files)
    meter = Meter(total, progress)
    with _told_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder):
            left = [file for file in files if not _is_whole(folder / file.name, file, meter)]
            _require_own(hub, folder, left)
            _require_room(folder, left)
            origin = Origin(repository=hub.repository, commit=commit)
            (folder / ORIGIN_NAME).write_text(origin.model_dump_json(indent=1) + "\n", encoding="utf-8")
            for file in left:
                _fetch_checked(hub, commit, file, folder, meter)
    return Pulled(commit, len(files), total)


@contextmanager
def _told_of(folder: Path) -> Iterator[None]:
    """Faults of the disk as one line."""
    try:
        yield
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PullFault(f"{folder}: the disk is full; make room and pull again, it goes on where it was") from fault
        raise PullFault(f"{fault.filename or folder}: {fault.strerror}; give another folder") from fault


def _listing(hub: Hub) -> tuple[str, list[HubFile]]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi(endpoint=hub.endpoint).model_info(hub.repository, revision=hub.revision, files_metadata=True)
    except RevisionNotFoundError as fault:
        raise PullFault(f"{hub.repository} has no revision {hub.revision}; check --revision") from fault
    except (RepositoryNotFoundError, HFValidationError) as fault:
        raise PullFault(f"{hub.repository}: the hub has no such repository; check the name") from fault
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
    for file in files:
        _require_inside(hub, file)
    return info.sha, files


def _require_inside(hub: Hub, file: HubFile) -> None:
    """A hub's names are a stranger's words: none may lead out of the folder."""
    path = PurePosixPath(file.name)
    if path.is_absolute() or ".." in path.parts or "\0" in file.name:
        name = one_line(file.name, MAX_CAUSE_CHARS)
        raise PullFault(
            f"{hub.repository} names a file outside the folder ({name}); nothing was fetched, do not use it"
        )


def _require_own(hub: Hub, folder: Path, files: Sequence[HubFile]) -> None:
    """That nothing is replaced but what an earlier pull of the same repository brought."""
    try:
        origin = Origin.model_validate_json((folder / ORIGIN_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        origin = None
    if origin is not None and origin.repository == hub.repository:
        return
    foreign = next((file.name for file in files if (folder / file.name).exists()), None)
    if foreign is not None:
        raise PullFault(
            f"{folder} has a file {foreign} of its own, which differs from the hub's; "
            "move it away, or give another folder"
        )


def _require_room(folder: Path, files: Sequence[HubFile]) -> None:
    here = sum(min(_size(_part(folder, file)), file.num_bytes) for file in files)
    missing = sum(file.num_bytes for file in files) - here - shutil.disk_usage(folder).free
    if missing > 0:
        raise PullFault(
            f"{folder}: the disk is too full, {missing / 1e9:.2f} GB more are needed; make room, pull again"
        )


def _fetch_checked(hub: Hub, commit: str, file: HubFile, folder: Path, meter: Meter) -> None:
    path, part, before = folder / file.name, _part(folder, file), meter.done
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(MAX_TRIES):
        meter.move(before - meter.done)
        if number or not _copied_from_cache(hub, commit, file, part, meter):
            _fetch(hub, commit, file, part, meter)
        if _is_whole(part, file):
            part.replace(path)
            return
        part.unlink()
    raise PullFault(f"{path}: arrived damaged {MAX_TRIES} times and was not kept; pull again later")


def _copied_from_cache(hub: Hub, commit: str, file: HubFile, part: Path, meter: Meter) -> bool:
    """Whether the person's own cache of the hub had the file."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(hub.repository, file.name, revision=commit)
    if not isinstance(cached, str):
        return False
    shutil.copyfile(cached, part)
    meter.move(file.num_bytes)
    return True


def _fetch(hub: Hub, commit: str, file: HubFile, part: Path, meter: Meter) -> None:
    """Bring what is missing of a file; the library asks again by itself when a connection breaks."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented to be there

    if _size(part) > file.num_bytes:
        part.unlink()
    meter.move(_size(part))
    url = hf_hub_url(hub.repository, file.name, revision=commit, endpoint=hub.endpoint)
    try:
        # Not `hf_hub_download`: as of version 2.4 it keeps nothing of a file that was cut off.
        with part.open("ab", buffering=0) as handle:
            http_get(
                url,
                handle,
                resume_size=handle.tell(),
                headers=build_hf_headers(),
                expected_size=file.num_bytes,
                tqdm_class=_bar_of(meter),  # which need not be one
            )
    except Exception as fault:  # the HTTP library's own family too
        if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise PullFault(f"{file.name}: cut off ({_short(fault)}); pull again, it goes on where it was") from fault


def _bar_of(meter: Meter) -> type:
    """A progress bar as huggingface_hub wants one, which moves the meter and draws nothing."""

    class Bar:
        def __init__(self, **_what_to_draw: object) -> None: ...

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_fault: object) -> None: ...

        def update(self, num_bytes: float = 1) -> None:
            meter.move(int(num_bytes))

    return Bar


def _part(folder: Path, file: HubFile) -> Path:
    return folder / f"{file.name}.part"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_whole(path: Path, file: HubFile, meter: Meter | None = None) -> bool:
    """Whether a file is the hub's; moves the meter while it is read, and back when it is not."""
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    digest = hashlib.sha256()
    if file.sha256 is None:
        digest = hashlib.sha1(b"blob %d\0" % file.num_bytes, usedforsecurity=False)
    for chunk in _chunks(path):
        digest.update(chunk)
        if meter is not None:
            meter.move(len(chunk))
    is_same = digest.hexdigest() == (file.git_hash if file.sha256 is None else file.sha256)
    if meter is not None and not is_same:
        meter.move(-file.num_bytes)
    return is_same


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            yield chunk


def _short(fault: BaseException) -> str:
    return one_line((str(fault).splitlines() or [type(fault).__name__])[0], MAX_CAUSE_CHARS)
