"""Places on disk. The only file that knows them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import platformdirs

HOME_VARIABLE = "KODKOD_HOME"
"""When set, everything lies in this folder."""


class PlaceFault(Exception):
    """A folder that is needed cannot be made."""

    exit_code = 1


def cache_folder() -> Path:
    """For what can be made again: downloads, converted checkpoints, the demonstration checkpoint."""
    return _made(_home("cache") or platformdirs.user_cache_path("kodkod"))


def kv_folder() -> Path:
    """For what the model computed of conversations, so that nobody waits for it twice; need not be there."""
    return (_home("cache") or platformdirs.user_cache_path("kodkod")) / "kv"


def kernel_folder() -> Path:
    """For compiled kernels that cannot lie beside their source; need not be there."""
    return (_home("cache") or platformdirs.user_cache_path("kodkod")) / "kernels"


def sessions_folder() -> Path:
    """For the sessions, one folder each."""
    return _made(_home("sessions") or platformdirs.user_data_path("kodkod") / "sessions")


def prompt_history() -> Path:
    """What was typed in the terminal app; need not be there."""
    return (_home("history") or platformdirs.user_data_path("kodkod")) / "prompts.jsonl"


def is_first_start() -> bool:
    """Whether the terminal app was never opened here; from now on it was."""
    mark = (_home("sessions") or platformdirs.user_data_path("kodkod")) / ".welcomed"
    if mark.exists():
        return False
    _made(mark.parent)
    with contextlib.suppress(OSError):  # one that cannot be written to is told of when a session is begun
        mark.touch()
    return True


def user_settings() -> Path:
    """The person's settings; need not be there."""
    return (_home("config") or platformdirs.user_config_path("kodkod")) / "config.toml"


def trusted_folders() -> Path:
    """The folders the person trusts to start programs; need not be there."""
    return user_settings().with_name("trusted.json")


def user_skills() -> Path:
    """The person's skills; need not be there."""
    return user_settings().with_name("skills")


def project_skills(work_tree: Path) -> Path:
    """A project's skills; need not be there."""
    return work_tree / ".agents" / "skills"


def project_settings(work_tree: Path) -> Path:
    """A project's settings; need not be there."""
    return work_tree / ".kodkod" / "config.toml"


def expanded(path: Path | str) -> Path:
    """With the home folder for `~`; of somebody who is not here it stays as it is, and no such file will be found."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # pathlib's own fails for them


def _home(name: str) -> Path | None:
    home = os.environ.get(HOME_VARIABLE)
    return Path(home).absolute() / name if home else None


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise PlaceFault(
            f"{folder} cannot be made ({fault.strerror}); set {HOME_VARIABLE} to a folder that can be written to"
        ) from fault
    return folder
