"""A session and those forked from it, as a tree of steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kodkod_agent.errors import SessionDamaged
from kodkod_agent.journal import Journal
from kodkod_agent.session_folder import SessionFolder, SessionInfo, list_sessions
from kodkod_app.session_story import StoryStep, read_story
from kodkod_engine.api import Usage
from kodkod_engine.messages import ToolCall

START = 0
"""The step before the model's first turn."""


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the model, and what came of it."""

    number: int
    said: tuple[str, ...] = ()
    """What the person said before it."""
    text: str = ""
    calls: tuple[str, ...] = ()
    """Each as one line: tool, subject, and the outcome where it was not well."""
    new_tokens: int = 0
    reused_tokens: int = 0
    can_return: bool = True
    """The session can be put back to it."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A session's own steps, and the sessions that left it."""

    session_id: str
    title: str
    status: str
    steps: tuple[Step, ...]
    forked_at: int | None = None
    """Step of the session it left."""
    forks: tuple[Branch, ...] = ()

    @property
    def last_step(self) -> int:
        """Where it stands."""
        return self.steps[-1].number if self.steps else self.forked_at or START

    def walk(self) -> Iterator[Branch]:
        """Itself and all below."""
        yield self
        for fork in self.forks:
            yield from fork.walk()


def read_branches(root: Path, session_id: str) -> Branch:
    """The tree a session belongs to, from the oldest ancestor that is still there. Blocking: for threads.

    Raises:
        SessionNotFound, SessionDamaged: the session itself cannot be read. Others that cannot are left out.
    """
    own = SessionFolder.find(root, session_id).info
    infos = {info.id: info for info in [*list_sessions(root), own]}
    children: dict[str, list[SessionInfo]] = defaultdict(list)
    for info in sorted(infos.values(), key=lambda info: info.id):
        if info.forked_from is not None:
            children[info.forked_from.session_id].append(info)
    top, seen = own, {own.id}
    while top.forked_from is not None and (parent := infos.get(top.forked_from.session_id)) and parent.id not in seen:
        top = parent
        seen.add(top.id)
    return _branch(root, top, children, frozenset())


def read_steps(root: Path, session_id: str) -> tuple[Step, ...]:
    """A session's own steps.

    Raises:
        SessionNotFound: there is no such session.
    """
    return _steps(SessionFolder.find(root, session_id))[1]


def _branch(root: Path, info: SessionInfo, children: dict[str, list[SessionInfo]], above: frozenset[str]) -> Branch:
    status, steps = _steps(SessionFolder(root / info.id))
    inside = above | {info.id}
    forks = [_branch(root, child, children, inside) for child in children[info.id] if child.id not in inside]
    point = info.forked_from.step if info.forked_from else None
    return Branch(info.id, info.title, status, steps, point, tuple(forks))


def _steps(folder: SessionFolder) -> tuple[str, tuple[Step, ...]]:
    try:
        story, journal = read_story(folder), Journal(folder.journal)
    except SessionDamaged:
        return "damaged", ()
    known = {record.step for record in journal.steps}
    steps = tuple(_step(step, can_return=step.number in known) for step in story.steps)
    return story.ending.status, steps


def _step(step: StoryStep, *, can_return: bool) -> Step:
    usage = step.turn.usage or Usage()
    return Step(
        number=step.number,
        said=tuple(step.said),
        text=" ".join(step.turn.text.split()),
        calls=tuple(f"{_call(call)}{_ending(step.outcome(call))}" for call in step.turn.calls),
        new_tokens=usage.computed_tokens + usage.generated_tokens,
        reused_tokens=usage.reused_tokens,
        can_return=can_return,
    )


def _call(call: ToolCall) -> str:
    named = (call.arguments.get(key) for key in ("command", "path", "action", "pattern", "summary"))
    subject = next((str(value) for value in named if value), "")
    return f"{call.name} {' '.join(subject.split())}".strip()


def _ending(outcome: str) -> str:
    return "" if outcome == "ok" else f"  {outcome}"
