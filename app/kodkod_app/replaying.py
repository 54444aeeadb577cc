"""Doing a session's recorded decisions again, on a copy of its work tree, and finding where it parts.

The scripted engine says the very tokens that were recorded; everything else is done anew: the prompt is built, the
calls are run. Before each turn the conversation is compared with the recorded one, entry by entry
(`replay_differences.py`).

The person's work tree and the session's folder are only read.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from kodkod_agent.approval import Approval
from kodkod_agent.context import Budget
from kodkod_agent.events import ApprovalAsked, ApprovalRequest, Event
from kodkod_agent.hearing import OBJECTED
from kodkod_agent.journal import Journal
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.moment import is_of_the_moment
from kodkod_agent.policy import PermissionMode
from kodkod_agent.rules import Rule, Rules
from kodkod_agent.session import Session, SessionSetup
from kodkod_agent.session_folder import SessionFolder
from kodkod_agent.skills import SKILL_PAGES
from kodkod_agent.snapshots import WorkTreeSnapshots
from kodkod_app.offline import CONTEXT_TOKENS, open_scripted
from kodkod_app.recorded_moment import RecordedHooks, RecordedMoment
from kodkod_app.recorded_session import Entry, RecordedRun, Recording, entries_of
from kodkod_app.replay_differences import Difference, Sameness
from kodkod_app.replay_places import Replacement
from kodkod_engine.chat.declare_block import words_in
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.ledger_state import Declaration, Origin
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.errors import EngineError
from kodkod_sandbox.base import Sandbox
from kodkod_tools import registry
from kodkod_tools.config import ToolsConfig

_ENDED = "The run ends here"
"""Begins the notice that tells a model so."""
_ADOPTED = "Your changes did not pass and were taken back."
"""Begins the notice that tells a model of another attempt's changes."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a replay."""

    num_turns: int
    """Turns whose prompts were the same."""
    recorded_turns: int
    difference: Difference | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a replay happens: all of it may be thrown away afterwards."""

    root: Path
    """For the new session, and whatever else is kept."""
    work_tree: Path
    """The copy; see `copies.py`."""
    tokenizer: Tokenizer
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    context_tokens: int | None = None
    """None: as recorded, or plenty where that was not written down."""


async def replay(recording: Recording, stage: Stage, sandbox: Sandbox) -> Replayed:
    """Do it, in a box on `stage.work_tree`.

    Raises:
        SessionNotFound: the session was forked from one that is gone.
        SandboxError, GitFault: the box or git failed.
    """
    stage = dataclasses.replace(stage, tokenizer=_as_recorded(recording, stage.tokenizer))
    follower = _Follower(recording, stage)
    context_tokens = stage.context_tokens or recording.context_tokens or CONTEXT_TOKENS
    engine = open_scripted(follower.next_turn, stage.tokenizer, context_tokens)
    try:
        setup = SessionSetup(
            engine=engine,
            tokenizer=stage.tokenizer,
            sandbox=sandbox,
            work_tree=stage.work_tree,
            config=recording.config,
            tools=stage.tools,
            mode=PermissionMode.BYPASS_PERMISSIONS,
            # Everything is asked, and answered as it was recorded.
            rules=Rules(ask=tuple(Rule(tool=name) for name in _every_name(recording))),
            trusted=True,
            # A turn that was searched for was recorded as any other.
            profile=recording.profile.model_copy(update={"searched": False}),
            # As long as it was: what is cut to fit the context is cut at the same place.
            told_work_tree=recording.folder.info.work_tree,
            moment=RecordedMoment(follower),
            more=recording.tools,
            hooks=RecordedHooks(follower),
        )
        async with await _begin(recording, stage, setup) as session:
            return await follower.follow(session)
    finally:
        engine.close()


def _every_name(recording: Recording) -> list[str]:
    return [*(spec.name for spec in registry.specs()), *recording.tools]


def _as_recorded(recording: Recording, tokenizer: Tokenizer) -> Tokenizer:
    """With the words in which tools were declared then; the checkpoint's folder may have got others since."""
    head = recording.segments[0][:1]
    block = tokenizer.decode(head[0].ids, skip_special=False) if head else ""
    words = words_in(block, recording.profile.specs())
    return tokenizer if words is None else tokenizer.with_words(words)


async def _begin(recording: Recording, stage: Stage, setup: SessionSetup) -> Session:
    root = stage.root / "sessions"
    origin = recording.folder.info.forked_from
    if origin is None:
        return await Session.create(root, setup)
    parent = SessionFolder.find(recording.folder.path.parent, origin.session_id)
    shutil.copytree(parent.path, root / origin.session_id, ignore=shutil.ignore_patterns("checkpoints*", "lock"))
    under_way = _was_under_way(recording.folder, parent, origin.step)
    return await Session.fork(root, origin.session_id, origin.step, setup, under_way=under_way)


def _was_under_way(fork: SessionFolder, parent: SessionFolder, step: int) -> bool:
    """Whether the fork began with what was said after that step in the session it left."""
    began, there = Journal(fork.journal).rest(step), Journal(parent.journal).step(step)
    if began is None or there is None:
        return False
    return {**began.state, "ledger_mark": there.ledger_mark} == there.state


class _Follower:
    """Leads a session along a recording, and compares."""

    def __init__(self, recording: Recording, stage: Stage) -> None:
        self._recording = recording
        self._tokenizer = stage.tokenizer
        self._snapshots = WorkTreeSnapshots(stage.work_tree, "replay", folder=stage.root / "placing")
        self._new_places = Replacement({str(recording.folder.info.work_tree): str(stage.work_tree)}, stage.tokenizer)
        self._sameness = Sameness(stage.tokenizer, recording.folder.info.work_tree, stage.work_tree)
        self._session: Session | None = None
        self._left: list[tuple[int, ...]] = []
        """Turns of the run that were not said yet."""
        self._is_over = False
        """The session wanted another turn, and the recorded run has none."""
        self._num_cut = 0
        """Calls of the last turn that were cut short: nothing came of them, and their run ended."""
        self._segment = 0
        self._branch_id = ""
        self._checked = 0
        """Entries of the segment that are the same."""
        self._turns = 0
        self._difference: Difference | None = None

    async def follow(self, session: Session) -> Replayed:
        """Run after run, to the first difference."""
        self._session = session
        self._take_skills(session)
        log = LedgerLog(session.folder.ledger)
        self._segment, self._branch_id = len(log.before_rebuilds(log.mark)), session.ledger.branch_id
        note = ""
        for number, run in enumerate(self._recording.runs):
            if number and self._is_over:
                if self._was_ended:
                    note = f"the run was ended after step {run.first_step}; what follows is not replayed"
                    break
                await session.rewind(session.steps[-1], under_way=True)
            await self._follow_run(session, run)
            if self._was_compacted():
                await self._compact(session)
            if self._adopts():
                step = self._recording.first_step + self._turns
                note = f"another attempt's changes were taken after step {step}; what follows is not replayed"
            if note or self._difference is not None:
                break
        else:
            if not self._is_over:
                self._difference = self._compare(entries_of(self._ledger), is_whole=True)
        return Replayed(self._turns, self._recording.num_turns, self._difference, note)

    def _take_skills(self, session: Session) -> None:
        """The pages that the model was told of lie among the logs."""
        logs, fresh = self._recording.folder.logs, session.folder.logs
        self._new_places = self._new_places.and_also({str(logs): str(fresh)})
        for page in logs.glob(SKILL_PAGES):
            fresh.mkdir(parents=True, exist_ok=True)
            shutil.copy(page, fresh)

    async def _follow_run(self, session: Session, run: RecordedRun) -> None:
        self._left, self._is_over, self._num_cut = list(run.turns), False, 0
        try:
            async for event in self._begun(session, run):
                if isinstance(event, ApprovalAsked):
                    session.answer(*map(self._answered, event.requests))
        except EngineError:
            if not self._is_over and self._difference is None:
                raise
        if self._left and self._difference is None:
            self._difference = Difference(
                self._turns + 1, "turn", 0, f"another {len(self._left)} turns", "the run ended before them"
            )

    def _begun(self, session: Session, run: RecordedRun) -> AsyncGenerator[Event, None]:
        """A run, with the files and the mode as they were at its beginning."""
        if run.text is None:
            return session.go_on()  # where the fork has put the files
        state = self._recording.states.get(run.first_step, {})
        if state.get("base_snapshot"):
            self._snapshots.restore(state["base_snapshot"])
        plan_only = bool(state.get("plan_only"))
        session.permissions.mode = PermissionMode.PLAN if plan_only else PermissionMode.BYPASS_PERMISSIONS
        return session.send(run.text, goes_on=bool(state.get("goes_on")))

    def _answered(self, request: ApprovalRequest) -> Approval:
        step = self._recording.first_step + self._turns
        known = self._recording.answers.get(step, {}).get(request.call.id)
        self._num_cut += known is None
        return known or Approval(call_id=request.call.id, allowed=False)

    def _was_compacted(self) -> bool:
        """The person had the conversation shortened here, between two runs."""
        is_at_end = len(entries_of(self._ledger)) >= len(self._recorded)
        is_whole = is_at_end and not self._is_over and self._difference is None
        return is_whole and self._segment < len(self._recording.summaries)

    async def _compact(self, session: Session) -> None:
        try:
            async with aclosing(session.compact()) as told:
                async for _ in told:
                    pass
        except EngineError:
            if self._difference is None:
                raise

    @property
    def _ledger(self) -> TokenLedger:
        """The conversation. Where it was rebuilt, its next segment is the one that is followed."""
        assert self._session is not None
        ledger = self._session.ledger
        if ledger.branch_id != self._branch_id:
            self._branch_id = ledger.branch_id
            if ledger.branched_from is not None and ledger.branched_from.kind == "rebuild":
                self._segment, self._checked = self._segment + 1, 0
        return ledger

    @property
    def _recorded(self) -> tuple[Entry, ...]:
        """The segment that is followed; empty behind the last."""
        return self._recording.segments[self._segment] if self._segment < len(self._recording.segments) else ()

    def is_full(self, budget: Budget, ledger: TokenLedger) -> bool:
        """Whether the recorded conversation was compacted here; the copy's place may take more tokens, or fewer."""
        place = len(entries_of(self._ledger))
        if self._segment < len(self._recording.summaries):
            return place >= len(self._recorded)
        return place > len(self._recorded) and budget.is_near_full(ledger)

    def facts(self) -> list[str]:
        """What was told of the moment at this place."""
        told, place = [], len(entries_of(self._ledger))
        for entry in self._recorded[place:]:
            text = self._tokenizer.decode(entry.ids[1:], skip_special=False)
            if entry.origin is not Origin.NOTICE or not is_of_the_moment(text):
                break
            told.append(text)
        return told

    def declared(self) -> Declaration | None:
        """What was declared at this place."""
        place = len(entries_of(self._ledger))
        entry = self._recorded[place] if place < len(self._recorded) else None
        found = self._recording.declarations.get(entry.ids) if entry is not None else None
        if found is not None:
            self._recording.tools.declare(found)
        return found

    def objection(self) -> str | None:
        """What a hook said against the end of the run at this place."""
        place = len(entries_of(self._ledger))
        if place >= len(self._recorded) or self._recorded[place].origin is not Origin.NOTICE:
            return None
        text = self._tokenizer.decode(self._recorded[place].ids[1:], skip_special=False)
        return text.removeprefix(f"{OBJECTED} ") if text.startswith(OBJECTED) else None

    def next_turn(self, prompt_ids: tuple[int, ...]) -> list[int]:
        """The script: what was said to this prompt, if it is the recorded one."""
        ledger = self._ledger
        if prompt_ids != ledger.token_ids:
            return self._next_summary(ledger)
        self._difference = self._compare(entries_of(ledger)[: -1 - self._num_cut], is_whole=False)
        if self._difference is not None:
            raise LookupError("the replay has parted")
        if not self._left or self._num_cut:
            self._is_over = True
            raise LookupError("the recorded run is over")
        self._turns += 1
        return self._new_places.in_ids(self._left.pop(0))

    def _next_summary(self, ledger: TokenLedger) -> list[int]:
        """What was said when the conversation was to be summed up."""
        if self._segment >= len(self._recording.summaries):
            raise EngineError("the conversation was not compacted here, and is to be now; give more --context-tokens")
        self._difference = self._compare(entries_of(ledger), is_whole=True)
        if self._difference is not None:
            raise LookupError("the replay has parted")
        ids = self._tokenizer.encode_text(self._recording.summaries[self._segment])
        return [*self._new_places.in_ids(ids), self._tokenizer.eos_id]

    def _compare(self, replayed: Sequence[Entry], *, is_whole: bool) -> Difference | None:
        """The first difference, to the end of what was replayed; `is_whole`: of both."""
        recorded = self._recorded if is_whole else self._recorded[: len(replayed)]
        for place, pair in enumerate(zip_longest(recorded, replayed)):
            if place >= self._checked:
                if not self._sameness.holds(*pair):
                    return self._sameness.difference(self._turns + 1, self._recorded[:place], *pair)
                self._checked = place + 1
        return None

    @property
    def _was_ended(self) -> bool:
        """Whether the recorded run was ended at what was compared last: by a limit, or by the person."""
        return self._is_followed_by(_ENDED)

    def _adopts(self) -> bool:
        """Whether the run that was followed ended as recorded, and then took the changes of another attempt."""
        if self._is_over or self._difference is not None:
            return False
        replayed = entries_of(self._ledger)
        if self._compare(replayed, is_whole=False) is not None:
            return False  # told when the whole is compared
        return self._is_followed_by(_ADOPTED)

    def _is_followed_by(self, notice: str) -> bool:
        """Whether a notice that begins so comes after what was compared last, and what is told of calls cut short."""
        place = self._checked + self._num_cut
        following = self._recorded[place : place + 1]
        return any(
            entry.origin is Origin.NOTICE and self._tokenizer.decode(entry.ids[1:]).startswith(notice)
            for entry in following
        )
