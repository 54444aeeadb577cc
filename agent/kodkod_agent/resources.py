"""What the nodes of one session act on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kodkod_agent import events
from kodkod_agent import trajectory as trajectories
from kodkod_agent.config import AgentConfig
from kodkod_agent.context import Budget
from kodkod_agent.guidance import Guide
from kodkod_agent.hooks import Hooks, NoHooks
from kodkod_agent.journal import Journal
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.limits import Stopwatch
from kodkod_agent.loop_detection import LoopDetector
from kodkod_agent.model_turn import Emit
from kodkod_agent.moment import Moment
from kodkod_agent.permissions import Permissions
from kodkod_agent.skills import Skill
from kodkod_agent.spans import NoSpans, Spans
from kodkod_engine.api import Engine
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.call_constraint import CallConstraint
from kodkod_engine.messages import ToolSpec
from kodkod_tools.base import ToolContext

if TYPE_CHECKING:
    from kodkod_agent.call_grammar import CallGrammar
    from kodkod_engine.constraints.turn_constraint import TurnConstraint


@dataclass(slots=True)
class DoubtCount:
    """Where model and constraint disagreed, over a run."""

    constrained_tokens: int = 0
    doubted_tokens: int = 0
    loosened: dict[str, None] = field(default_factory=dict)
    """What could not be held to, one line each."""


class Snapshots(Protocol):
    """The work tree through time."""

    def take(self, step: int) -> str:
        """Record it; returns the record's name."""
        ...

    def restore(self, snapshot: str) -> None:
        """Put the files back as they were."""
        ...

    def hold(self, snapshot: str, step: int) -> None:
        """Keep a record that another session made."""
        ...

    def diff(self, before: str, after: str) -> str:
        """Unified diff between two records."""
        ...

    def apply(self, undone: str, done: str) -> None:
        """Take one patch back and put another in its place."""
        ...


class Trajectory(Protocol):
    """Where what happens is written down."""

    def append(self, event: trajectories.Event, *, step: int) -> object:
        """Add an event, after so many turns."""
        ...


@dataclass(slots=True)
class Resources:
    """See the module. One session's, used from one asyncio loop."""

    config: AgentConfig
    engine: Engine
    tokenizer: Tokenizer
    ledger: TokenLedger
    log: LedgerLog
    journal: Journal
    trajectory: Trajectory
    tools: ToolContext
    snapshots: Snapshots
    permissions: Permissions
    emit: Emit
    guide: Guide | None = None
    """Says which calls make sense, to a model that cannot tell by itself."""
    grammar: CallGrammar | None = None
    """Holds the calls of any other model to what can be done; None where it writes freely."""
    searched: bool = False
    """See `Profile.searched`."""
    moment: Moment = field(default_factory=Moment)
    news: Callable[[], Sequence[str]] = tuple
    """See `SessionSetup.news`."""
    skills: tuple[Skill, ...] = ()
    """See `SessionSetup.skills`."""
    hooks: Hooks = field(default_factory=NoHooks)
    """See `SessionSetup.hooks`."""
    session_id: str = ""
    spans: Spans = field(default_factory=NoSpans)
    """See `SessionSetup.spans`."""
    loops: LoopDetector = field(default_factory=LoopDetector)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    stream_id: str | None = None
    """The model's last turn, which the next one continues."""
    world: str = ""
    """Names the state of the work tree when it was last recorded."""
    step: int = 0
    """Turns of the model so far, as the trajectory was told last."""
    given_turns: list[tuple[int, ...]] = field(default_factory=list)
    """Ids of the turns that come next, written before the model is asked again."""
    asked: dict[str, frozenset[str]] = field(default_factory=dict)
    """What the person was shown of each call that is asked about (`Decision.asked`), by its id: `gate` runs again."""
    crowded: bool = False
    """The person was told of tools that do not fit the model's context."""
    doubts: DoubtCount = field(default_factory=DoubtCount)
    is_stale: bool = False
    """A node was left half done: the ledger in memory is to be read again."""

    @property
    def budget(self) -> Budget:
        """How the engine's context is shared out."""
        return Budget.of(self.config, self.engine)

    @property
    def foreign_specs(self) -> tuple[ToolSpec, ...]:
        """Tools of other programs that are there and that the model was told of, as they are."""
        return tuple(spec for spec in self.ledger.known_tools if self._offers(spec))

    def _offers(self, spec: ToolSpec) -> bool:
        tool = self.tools.more.get(spec.name)
        return tool is not None and tool.spec == spec

    async def constraint(self) -> CallConstraint | TurnConstraint | None:
        """What the model's next turn may be; None where it writes freely."""
        if self.guide is not None:
            return await asyncio.to_thread(self.guide.constraint, self.ledger.view())
        return self.grammar.constraint(self.foreign_specs) if self.grammar is not None else None

    def close(self) -> None:
        """End the threads that work for the session. What was opened for it is for its opener to close."""
        if self.grammar is not None:
            self.grammar.close()

    def record(self, event: trajectories.Event, step: int) -> None:
        """Write down what happened, after so many turns."""
        self.step = step
        self.trajectory.append(event, step=step)

    def tell_model(self, text: str, step: int) -> None:
        """Append a notice to the conversation."""
        self.ledger.append_notice(text)
        self.record(trajectories.Notice(text=text), step)

    async def take_snapshot(self, step: int) -> str:
        """Record the work tree, and tell."""
        snapshot = await asyncio.to_thread(self.snapshots.take, step)
        self.world = snapshot
        self.record(trajectories.SnapshotTaken(snapshot=snapshot), step)
        self.emit(events.SnapshotTaken(step, snapshot))
        return snapshot
