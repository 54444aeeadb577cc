"""A project with a fault, a scripted model, and a session that works on it. Nothing here is a mock of our own parts:
the engine replays recorded tokens through its real scheduler, git and the tests are real.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kodkod_agent.config import AgentConfig
from kodkod_agent.policy import PermissionMode
from kodkod_agent.session import Session, SessionSetup
from kodkod_engine.backends.scripted import ScriptedEngine, replay
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.template import assistant_pieces, encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, ToolCall
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint
from kodkod_sandbox.base import BoxOptions, Sandbox
from kodkod_sandbox.none import NoSandbox
from kodkod_tools.config import ToolsConfig

from .guided import make_faulty

FAULTY = "def add(a, b):\n    return a - b\n"
MENDED = "def add(a, b):\n    return a + b\n"
TESTS = "from calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"


def call(name: str, /, **arguments: Any) -> ToolCall:
    """A call as a model writes it."""
    return ToolCall(id="", name=name, arguments=arguments)


def says(text: str = "", *calls: ToolCall, reasoning: str = "") -> AssistantMessage:
    """A turn."""
    return AssistantMessage(text=text, calls=calls, reasoning=reasoning)


def turn_ids(tokenizer: Tokenizer, message: AssistantMessage) -> list[int]:
    """The very ids a model would write for a turn, EOS included."""
    return [*encode_pieces(tokenizer, assistant_pieces(message)), tokenizer.eos_id]


def git(folder: Path, *arguments: str) -> str:
    """Run git; its output."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def make_project(folder: Path) -> Path:
    """A repository with one fault and a test that shows it."""
    folder.mkdir(parents=True)
    folder = folder.resolve()
    (folder / "calc.py").write_text(FAULTY)
    (folder / "test_calc.py").write_text(TESTS)
    (folder / ".gitignore").write_text("__pycache__/\n.pytest_cache/\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def close_folder(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let nobody look at what is in a folder, root neither, for whom modes do not count."""
    stat = os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if not isinstance(path, int) and folder in Path(os.fsdecode(path)).parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return stat(path, **options)

    patch.setattr(os, "stat", refuse)


MEND = call("edit", path="calc.py", old="return a - b", new="return a + b")
FINISH = call("finish", summary="add adds")
PYTEST = ToolsConfig(
    test_command=(sys.executable, "-m", "pytest", "--disable-plugin-autoload", "-p", "no:cacheprovider")
)
QUICK_TESTS = ToolsConfig(test_command=(sys.executable, "-c", "import test_calc; test_calc.test_add()"))
"""The same test without a runner: an exit code, in a fraction of the time."""


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token per byte."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(folder)
    return Tokenizer.from_folder(folder)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """See `make_project`."""
    return make_project(tmp_path / "project")


@pytest.fixture
def faulty(project: Path) -> Path:
    """A project with a fault that one of its tests shows; committed, as a person would have it."""
    make_faulty(project)
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "clip")
    return project


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights and the byte tokenizer."""
    folder = write_random_checkpoint(tmp_path_factory.mktemp("tiny"), TINY, seed=3)
    write_byte_tokenizer(folder)
    return folder


@pytest.fixture
async def sandbox(project: Path) -> AsyncIterator[Sandbox]:
    """A box that is none, started."""
    box = NoSandbox(BoxOptions(work_tree=project))
    await box.start()
    yield box
    await box.close()


Script = Iterable[AssistantMessage | Sequence[int]]


@pytest.fixture
def engine_of(tokenizer: Tokenizer) -> Iterable[Callable[..., ScriptedEngine]]:
    """Makes an engine that says these turns, one after another."""
    engines: list[ScriptedEngine] = []

    def make(script: Script, **options: Any) -> ScriptedEngine:
        turns = (turn_ids(tokenizer, turn) if isinstance(turn, AssistantMessage) else turn for turn in script)
        options = {"vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id, **options}
        engines.append(ScriptedEngine(replay(turns), tokenizer=tokenizer, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def setup_of(
    tokenizer: Tokenizer, project: Path, sandbox: Sandbox, engine_of: Callable[..., ScriptedEngine]
) -> Callable[..., SessionSetup]:
    """Makes what a session works with; everything is allowed unless said otherwise."""

    def make(script: Script, **options: Any) -> SessionSetup:
        engine_options = options.pop("engine", {})
        defaults: dict[str, Any] = {
            "config": AgentConfig(baseline_tests=False),
            "mode": PermissionMode.BYPASS_PERMISSIONS,
            "tools": QUICK_TESTS,
            "work_tree": project,
            "sandbox": sandbox,
            "trusted": True,
        }
        return SessionSetup(engine=engine_of(script, **engine_options), tokenizer=tokenizer, **{**defaults, **options})

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where sessions are kept."""
    return tmp_path / "sessions"


async def all_events(session: Session, text: str) -> list[Any]:
    """Say something; everything that happened, to the end of the run."""
    return [event async for event in session.send(text)]
