"""What a session works with, and what its nodes act on, made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kodkod_agent import trajectory
from kodkod_agent.config import AgentConfig
from kodkod_agent.context import Budget, prompt
from kodkod_agent.guidance import Guide, WorkTreeFiles
from kodkod_agent.hooks import Hooks, NoHooks
from kodkod_agent.journal import Journal
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.moment import Moment
from kodkod_agent.permissions import Permissions
from kodkod_agent.policy import PermissionMode
from kodkod_agent.profile import Profile
from kodkod_agent.ranking import EditRanker
from kodkod_agent.resources import Resources
from kodkod_agent.rules import Rules
from kodkod_agent.session_folder import SessionFolder
from kodkod_agent.skills import Skill
from kodkod_agent.snapshots import WorkTreeSnapshots
from kodkod_agent.spans import NoSpans, Spans
from kodkod_engine.api import Engine
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_sandbox.base import Sandbox
from kodkod_tools.base import ForeignTool, ToolContext
from kodkod_tools.config import ToolsConfig

if TYPE_CHECKING:
    from kodkod_agent.call_grammar import CallGrammar

_CHARS_PER_TOKEN = 3
_MAX_GUIDED_TURN_TOKENS, _GUIDED_SUMMARY_TOKENS = 512, 64
_FAILURES_OF_A_GUIDED_RUN = 1
"""Told in full: a small model reads one well, and its context is short."""


@dataclass(frozen=True, slots=True)
class SessionSetup:
    """What a session works with. The engine and the box are the caller's, started by it and closed by it."""

    engine: Engine
    tokenizer: Tokenizer
    sandbox: Sandbox
    work_tree: Path
    config: AgentConfig = field(default_factory=AgentConfig)
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    mode: PermissionMode = PermissionMode.DEFAULT
    rules: Rules = field(default_factory=Rules)
    trusted: bool = False
    """The person trusts this folder."""
    sandboxed: bool = False
    """The box holds the work tree alone and has no network."""
    reads_ahead: bool = False
    """While nobody asks, have the engine compute what will be asked; a recording would take it for a request."""
    model: str = ""
    """Name of the checkpoint, for the record."""
    profile: Profile = field(default_factory=Profile)
    """How the model is to be worked with."""
    ranker: EditRanker | None = None
    """Names plausible edits to a guided model."""
    told_work_tree: Path | None = None
    """Where the model is told that the project lies, when that is not `work_tree`: in a replay, where it lay."""
    moment: Moment = field(default_factory=Moment)
    """Tells the facts of the moment."""
    more: Mapping[str, ForeignTool] = field(default_factory=dict)
    """Tools of other programs by name, the caller's to open and close; they may come, change and go."""
    skills: tuple[Skill, ...] = ()
    """Written instructions that the model may read."""
    hooks: Hooks = field(default_factory=NoHooks)
    """Who is heard before and after calls, and when a run would end."""
    spans: Spans = field(default_factory=NoSpans)
    """Who watches runs, turns and calls."""
    news: Callable[[], Sequence[str]] = tuple
    """What the person should know of those programs since it was asked last, a line each."""


def started(session_id: str, setup: SessionSetup, *, resumed: bool) -> trajectory.SessionStarted:
    """For the trajectory: what the session works with, as far as it can be told."""
    return trajectory.SessionStarted(
        session_id=session_id,
        version=version("kodkod"),
        model=setup.model,
        seed=setup.config.seed,
        work_tree=str(setup.work_tree),
        resumed=resumed,
        engine=f"{type(setup.engine).__name__}, tokenizer {setup.tokenizer.fingerprint[:12]}",
        context_tokens=setup.engine.max_context_tokens,
        config=setup.config.model_dump(mode="json"),
        profile=setup.profile.model_dump(mode="json"),
        system=_system_text(setup) or "",
        tools=setup.profile.specs(),
    )


def _system_text(setup: SessionSetup) -> str | None:
    work_tree = setup.told_work_tree or setup.work_tree
    return prompt("system", work_tree=work_tree) if setup.profile.system else None


def first_ledger(setup: SessionSetup) -> TokenLedger:
    """A conversation of which nothing was said. Tools that are not declared are known to its parser all the same."""
    declare = setup.profile.declare_tools
    return TokenLedger.open(setup.tokenizer, setup.profile.specs(), _system_text(setup), declare=declare)


def tool_context(folder: SessionFolder, setup: SessionSetup) -> ToolContext:
    """Where a session's calls act. To be entered and left."""
    budget = Budget.of(setup.config, setup.engine)
    max_chars = max(1_000, min(setup.tools.max_result_chars, budget.result * _CHARS_PER_TOKEN))
    update: dict[str, Any] = {"max_result_chars": max_chars}
    if setup.profile.guided:
        update |= {"test_targets": setup.config.test_targets, "max_failures": _FAILURES_OF_A_GUIDED_RUN}
    config = setup.tools.model_copy(update=update)
    # A guided model is offered what it was trained on, and nothing else.
    more = {} if setup.profile.guided else setup.more
    return ToolContext(setup.sandbox, setup.work_tree, config, folder.logs, more=more)


def _agent_config(setup: SessionSetup) -> AgentConfig:
    update: dict[str, Any] = {}
    if not setup.profile.system:
        # Nor would the project's instructions be understood, or what the day is.
        update |= {"max_instruction_chars": 0, "tell_facts": False, "max_skills_chars": 0}
    if setup.profile.guided:
        # It finishes only where nothing else makes sense: asked to go on, it would finish again. A turn of it is one
        # short call and it writes no summary: so nearly all of the context is left for the conversation, which it must
        # not lose, for what is offered next follows from it.
        update["max_verifications"] = 1
        update["max_turn_tokens"] = min(setup.config.max_turn_tokens, _MAX_GUIDED_TURN_TOKENS)
        update["summary_tokens"] = min(setup.config.summary_tokens, _GUIDED_SUMMARY_TOKENS)
    return setup.config.model_copy(update=update)


def _guide(setup: SessionSetup, tools: ToolContext) -> Guide | None:
    if not setup.profile.guided:
        return None
    return Guide(setup.tokenizer, WorkTreeFiles(tools), setup.config.max_tries, setup.ranker)


def _grammar(setup: SessionSetup, tools: ToolContext) -> CallGrammar | None:
    if setup.profile.guided or not setup.config.constraints:
        return None
    from kodkod_agent.call_grammar import CallGrammar  # loads numba and llguidance: half a second

    return CallGrammar(setup.tokenizer, setup.profile.specs(), tools)


def resources(
    folder: SessionFolder, setup: SessionSetup, tools: ToolContext, writer: trajectory.TrajectoryWriter
) -> Resources:
    """What a session's nodes act on."""
    log = LedgerLog(folder.ledger)
    return Resources(
        config=_agent_config(setup),
        engine=setup.engine,
        tokenizer=setup.tokenizer,
        ledger=log.at(setup.tokenizer, log.mark),
        log=log,
        journal=Journal(folder.journal),
        trajectory=writer,
        tools=tools,
        snapshots=WorkTreeSnapshots(setup.work_tree, folder.path.name, folder=folder.path),
        permissions=Permissions(
            setup.work_tree, setup.mode, setup.rules, setup.trusted, setup.sandboxed, more=tools.more
        ),
        emit=lambda _: None,
        guide=_guide(setup, tools),
        grammar=_grammar(setup, tools),
        searched=setup.profile.searched,
        moment=setup.moment,
        news=setup.news,
        spans=setup.spans,
        hooks=setup.hooks,
        session_id=folder.path.name,
        skills=setup.skills,
        is_stale=True,
    )
