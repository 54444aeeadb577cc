"""Opening a session without its model: its vocabulary, and an engine that says only what was recorded."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kodkod_agent.session import SessionSetup
from kodkod_agent.session_folder import SessionFolder
from kodkod_app.bootstrap import is_remote, path_of
from kodkod_app.recorded_model import PREFIX
from kodkod_app.session_opening import what_was_asked
from kodkod_app.session_story import read_story
from kodkod_engine.backends.scripted import Script, ScriptedEngine
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.config import EngineConfig
from kodkod_engine.errors import CheckpointMissing
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.none import NoSandbox

CONTEXT_TOKENS = 262_144


def model_of(folder: SessionFolder, given: str | None) -> str:
    """Name of a session's model: as given, else as it was written down; empty when it was not.

    Raises:
        SessionDamaged: the session cannot be read.
    """
    return given or read_story(folder).model or str(what_was_asked(folder.path.name).get("model") or "")


def open_tokenizer(model: str) -> Tokenizer:
    """The vocabulary of a checkpoint folder; that of recorded models when there is no folder.

    Raises:
        CheckpointError: the folder has none, or one that cannot be read.
    """
    if is_remote(model):
        raise CheckpointMissing(f"the session's model is at {model}; give the folder of its tokenizer.json with -m DIR")
    if model and not model.startswith(PREFIX):
        return Tokenizer.from_folder(path_of(model))
    with tempfile.TemporaryDirectory(prefix="kodkod-tokenizer-") as folder:
        write_byte_tokenizer(Path(folder))
        return Tokenizer.from_folder(Path(folder))


def open_scripted(script: Script, tokenizer: Tokenizer, context_tokens: int = CONTEXT_TOKENS) -> ScriptedEngine:
    """An engine with room for `context_tokens`, prompt and answer together. The caller closes it."""
    return ScriptedEngine(
        script,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        max_context_tokens=context_tokens,
        tokenizer=tokenizer,
        config=EngineConfig(max_cached_tokens=2 * context_tokens, max_step_tokens=context_tokens),
    )


def idle_setup(tokenizer: Tokenizer, work_tree: Path, model: str) -> SessionSetup:
    """For a session in which nothing is to be said or run; close its engine afterwards."""
    box = NoSandbox(BoxOptions(work_tree))  # never started: no command is run
    return SessionSetup(open_scripted(_say_nothing, tokenizer), tokenizer, box, work_tree, model=model)


def _say_nothing(_prompt_ids: tuple[int, ...]) -> list[int]:
    raise LookupError("the session was opened without a model")
