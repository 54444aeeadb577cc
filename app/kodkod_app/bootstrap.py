"""Where the parts meet: builds the engine a command works with."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from kodkod_agent.profile import Profile, read_profile
from kodkod_app import paths
from kodkod_app.progress import bytes_progress
from kodkod_app.render import for_terminal
from kodkod_engine.config import EngineConfig
from kodkod_engine.errors import CheckpointMissing

if TYPE_CHECKING:
    from kodkod_agent.ranking import EditRanker
    from kodkod_engine.api import Engine
    from kodkod_engine.backends.native import NativeEngine
    from kodkod_engine.chat.tokenizer import Tokenizer

DEMONSTRATION = "demonstration-1"
"""Folder of the random checkpoint; the number changes when its content does."""
RECORDING = "script:"
"""Begins the name of a recorded model."""
SERVED = "vllm:"
"""Begins the name of a model that vLLM runs: a server's address follows, or a folder."""

SMALL_MODEL_NOTE = (
    "no model given (-m DIR): the small one that comes along runs the tests and mends what fails, whatever it is asked"
)


@dataclass(frozen=True, slots=True)
class Model:
    """An engine that runs, and the vocabulary it speaks. Whoever opened it closes the engine."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    profile: Profile = field(default_factory=Profile)
    """How it is to be worked with."""
    ranker: EditRanker | None = None
    """Names plausible edits to a guided model."""
    config: EngineConfig = field(default_factory=EngineConfig)
    """How a checkpoint's engine was set up, everything decided."""

    @property
    def is_recording(self) -> bool:
        """Whether its turns were written beforehand."""
        return self.name.startswith(RECORDING)


def require_model(name: str | None) -> str:
    """The model's name, looked at before anything is loaded; the bundled model's where none is given.

    Raises:
        CheckpointMissing: there is no such folder or recording, or no bundled model.
    """
    if name is None:
        bundled = bundled_model()
        if bundled is None:
            raise CheckpointMissing(
                "no model: the one that comes with kodkod is not in this installation; give the folder of a checkpoint "
                f'with -m DIR, or set model = "DIR" in {paths.user_settings()}'
            )
        return str(bundled)
    if is_remote(name):
        return name
    path = path_of(name)
    if name.startswith(RECORDING) and not path.is_file():
        raise CheckpointMissing(f"there is no recording {path}; give a file of turns as {RECORDING}FILE")
    if not name.startswith(RECORDING) and not path.is_dir():
        raise CheckpointMissing(f"there is no checkpoint folder {path}; give another with -m DIR")
    return name


def require_folder(name: str | None, what: str) -> Path:
    """The checkpoint folder of a model that our own engine loads, for what nothing else will do.

    Raises:
        CheckpointMissing: it is no such model.
    """
    name = require_model(name)
    if name.startswith((RECORDING, SERVED)):
        raise CheckpointMissing(
            f"{what} needs a checkpoint that kodkod's own engine loads; give its folder with -m DIR"
        )
    return paths.expanded(name)


def is_remote(name: str) -> bool:
    """Whether a server has the model: nothing of it needs to be on this machine."""
    return name.startswith((f"{SERVED}http://", f"{SERVED}https://"))


def _prefix_of(name: str) -> str:
    return next((prefix for prefix in (RECORDING, SERVED) if name.startswith(prefix)), "")


def path_of(name: str) -> Path:
    """Where a model that is on this machine lies: its folder, or its recording."""
    return paths.expanded(name.removeprefix(_prefix_of(name)))


def bundled_model() -> Path | None:
    """Folder of the small model that comes with kodkod; None where its files are not there."""
    if importlib.util.find_spec("kodkod_engine.nano") is None:
        return None
    folder: Path = importlib.import_module("kodkod_engine.nano").folder()
    return folder if (folder / "config.json").is_file() else None


def absolute_name(name: str) -> str:
    """The same model, named so that it is found from any folder."""
    return name if is_remote(name) else f"{_prefix_of(name)}{path_of(name).resolve()}"


Tell = Callable[[str], object]
"""Takes a line for the person, from any thread."""


def tell_on_stderr(line: str) -> None:
    """The line, where there still is somebody to read it."""
    with suppress(OSError):
        click.echo(f"kodkod: {for_terminal(line)}", err=True)


Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Shows long work under a title; hands out what moves it: bytes done and bytes in all."""


COMPILING = "kernels are compiled for this machine at their first use: up to a minute in all, and kept for later starts"


def open_session_model(
    name: str | None, config: EngineConfig, progress: Progress = bytes_progress, tell: Tell = tell_on_stderr
) -> Model:
    """`open_model` for sessions that are gone back to: see `keeping_prefixes`."""
    return open_model(name, config, progress, tell, keeps_prefixes=True)


def open_model(
    name: str | None,
    config: EngineConfig,
    progress: Progress = bytes_progress,
    tell: Tell = tell_on_stderr,
    *,
    keeps_prefixes: bool = False,
) -> Model:
    """Load the model an agent works with, with a progress bar.

    Args:
        name: as `require_model` takes it.
        config: of the engine; what it leaves open is decided, and told.
        progress: shows how far loading is.
        tell: takes what the person should know, while it loads and while it works.
        keeps_prefixes: see `keeping_prefixes`.

    Raises:
        CheckpointError, BackendUnavailable, EngineError: it cannot be used.
    """
    name = require_model(name)
    if name.startswith(SERVED):
        return _open_served(name, config, progress)
    path = path_of(name)
    if name.startswith(RECORDING):
        from kodkod_app.recorded_model import open_recording

        recorded = open_recording(path)
        assert recorded.tokenizer is not None
        return Model(name, recorded, recorded.tokenizer)
    profile = read_profile(path)
    config = settled_and_told(path, config, tell)
    require_tokenizer(path)
    engine = open_engine(path, keeping_prefixes(config) if keeps_prefixes else config, progress, tell)
    assert engine.tokenizer is not None
    return Model(name, engine, engine.tokenizer, profile, _ranker() if profile.guided else None, config)


def require_tokenizer(folder: Path) -> None:
    """That a checkpoint can read text; asked before its weights are read.

    Raises:
        CheckpointMissing: it has no tokenizer.
    """
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointMissing(f"{folder} has no tokenizer.json, so the model cannot read text; fetch that file too")


def settled_and_told(folder: Path, config: EngineConfig, tell: Tell) -> EngineConfig:
    """What is left open of where the model goes, decided; in one line where the plan decided it.

    Raises:
        CheckpointError, EngineError: it cannot be used, or not like that.
    """
    from kodkod_engine.placement.settling import settled

    config, placement = settled(folder, config)
    if placement is not None:
        notes = [f"{folder.name}: {placement.story}"]
        if config.precision is not None and not placement.is_converted:
            notes.append(packing_note(folder, config.precision))
        elif not placement.is_comfortable:
            notes.append(f"kodkod doctor -m {quote(str(folder))} says what else would fit")
        tell("; ".join(notes))
    return config


def packing_note(folder: Path, precision: str | None) -> str:
    """How to spare the work of packing a checkpoint at every start."""
    once = f"kodkod convert {quote(str(folder))} {quote(f'{folder}-{precision}')} --precision {precision}"
    return f"it is packed while it loads, which {once} does once"


def keeping_prefixes(config: EngineConfig) -> EngineConfig:
    """Prefixes are kept on disk where reading is far quicker than computing.

    Args:
        config: with its device decided.
    """
    if config.kv_folder is not None or config.device != "cpu":
        return config
    return replace(config, kv_folder=str(paths.kv_folder()))


def _open_served(name: str, config: EngineConfig, progress: Progress) -> Model:
    from kodkod_engine.backends.vllm import open_vllm

    place = name.removeprefix(SERVED) if is_remote(name) else str(path_of(name))
    with progress("opening vLLM"):
        engine = open_vllm(place, config.vllm)
    if engine.tokenizer is None:
        engine.close()
        raise CheckpointMissing(f"{place} has no tokenizer.json; say where one is: engine.vllm.tokenizer")
    return Model(name, engine, engine.tokenizer)


def _ranker() -> EditRanker:
    from kodkod_app.nano.ranking.ranker import PlausibleEdits  # reads its weights

    return PlausibleEdits.bundled()


def open_engine(
    model: Path | None = None,
    config: EngineConfig | None = None,
    progress: Progress = bytes_progress,
    tell: Tell = tell_on_stderr,
) -> NativeEngine:
    """Load a checkpoint folder with a progress bar; the demonstration checkpoint when none is given.

    Raises:
        CheckpointError, EngineError: the folder cannot be used, or not like that.
    """
    from kodkod_engine.backends.native import load_native

    with progress("loading weights") as move:
        engine = load_native(model or demonstration_checkpoint(), config or EngineConfig(), move)
    engine.runner.on_compile = lambda: tell(COMPILING)
    return engine


def demonstration_checkpoint() -> Path:
    """A tiny checkpoint with random weights and a byte tokenizer, written at the first call."""
    from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
    from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

    folder = paths.cache_folder() / DEMONSTRATION
    is_complete = folder / "tokenizer.json"
    if not is_complete.exists():
        write_random_checkpoint(folder, TINY)
        write_byte_tokenizer(folder)
    return folder
