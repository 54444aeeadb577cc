"""A session as it was recorded, read from its folder: what was said, what the model answered, under which settings.

A conversation that was compacted is read in segments, one for each branch of its ledger: a segment ends where the next
one was rebuilt from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from kodkod_agent import trajectory as t
from kodkod_agent.approval import Approval
from kodkod_agent.config import AgentConfig
from kodkod_agent.errors import SessionDamaged, cause_of
from kodkod_agent.journal import Journal
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.profile import Profile
from kodkod_agent.session_folder import SessionFolder
from kodkod_app.recorded_tools import RecordedTools
from kodkod_app.session_story import StoryStep, read_story
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.ledger_state import Declaration, Origin
from kodkod_engine.chat.tokenizer import Tokenizer

_NO_LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a conversation, as ids: a turn of the model from its tag to its EOS, or anything else."""

    origin: Origin
    """A turn's is `prompt`."""
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """What the person said, and the turns the model took."""

    text: str | None
    """None in a fork, where the run goes on that was under way."""
    first_step: int
    turns: tuple[tuple[int, ...], ...]
    """Generated ids."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A session as it stands, read from its folder."""

    folder: SessionFolder
    segments: tuple[tuple[Entry, ...], ...]
    summaries: tuple[str, ...]
    """The model's, one at the end of each segment but the last."""
    runs: tuple[RecordedRun, ...]
    states: Mapping[int, Mapping[str, Any]]
    """The graph's state in each run, by the run's first step."""
    answers: Mapping[int, Mapping[str, Approval]]
    """What became of each call, as a person's answer, by step and call id."""
    config: AgentConfig
    profile: Profile
    context_tokens: int | None
    """None where it was not written down."""
    first_step: int
    """Turns of the session it was forked from."""
    num_turns: int
    """Turns of the session's own."""
    declarations: Mapping[tuple[int, ...], Declaration]
    """What was declared of tools by other programs, by the ids of the entry that says so."""
    tools: RecordedTools
    """They answer what was recorded."""


def read_recording(folder: SessionFolder, tokenizer: Tokenizer, config: AgentConfig | None = None) -> Recording:
    """What is to be done again.

    Args:
        folder: the session's.
        tokenizer: of the model it was recorded with.
        config: what the runs were set to, where the session does not tell; their limits do not matter.

    Raises:
        SessionDamaged: a file cannot be read, or nothing was said in the session.
        LedgerFault: another tokenizer than the session's.
    """
    steps = Journal(folder.journal).steps
    if not steps:
        raise SessionDamaged(f"session {folder.path.name} has no step that could be replayed; choose another")
    told = t.read(folder.trajectory)
    started = _started(told)
    ledgers = _ledgers(LedgerLog(folder.ledger), tokenizer, steps[-1].ledger_mark)
    segments = tuple(map(entries_of, ledgers))
    declarations = dict(pair for ledger in ledgers for pair in _declarations(ledger))
    story = read_story(folder)
    first_step = 0 if story.info.forked_from is None else story.info.forked_from.step
    turns_without_call = {step.number for step in story.steps if not step.turn.calls}
    states = {int(step.state.get("first_step", 0)): step.state for step in steps}
    known = _read(AgentConfig, started.config, folder) if started and started.config else config or AgentConfig()
    is_known = bool(started and started.config)
    return Recording(
        folder=folder,
        segments=segments,
        summaries=_summaries(told, len(segments) - 1),
        runs=_runs(segments, tokenizer, first_step),
        states=states,
        answers={step.number: _answers(step) for step in story.steps},
        config=_config(known, states.values(), turns_without_call, is_known=is_known),
        profile=_read(Profile, started.profile, folder) if started else Profile(),
        context_tokens=started.context_tokens if started else None,
        first_step=first_step,
        num_turns=steps[-1].step - first_step,
        declarations=declarations,
        tools=RecordedTools(declarations.values(), story.steps),
    )


def _started(told: t.Trajectory) -> t.SessionStarted | None:
    return next((entry.event for entry in told if isinstance(entry.event, t.SessionStarted)), None)


def _read(kind: type[Any], values: Mapping[str, Any], folder: SessionFolder) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as fault:
        cause = cause_of(fault)
        raise SessionDamaged(f"{folder.trajectory} was written by another version ({cause})") from fault


def _ledgers(log: LedgerLog, tokenizer: Tokenizer, mark: int) -> list[TokenLedger]:
    """One for each segment."""
    return [log.at(tokenizer, each) for each in (*log.before_rebuilds(mark), mark)]


def _declarations(ledger: TokenLedger) -> Iterator[tuple[tuple[int, ...], Declaration]]:
    starts = {span.end: span.start for span in ledger.spans}
    for declaration in ledger.declarations:
        yield ledger.token_ids[starts[declaration.at] : declaration.at], declaration


def _summaries(told: t.Trajectory, number: int) -> tuple[str, ...]:
    """The last so many: what was rebuilt and then gone back behind is not among them."""
    rebuilt: dict[int, str] = {}
    for entry in told:
        if isinstance(entry.event, t.AssistantTurn):
            rebuilt = {step: text for step, text in rebuilt.items() if step < entry.step}
        elif isinstance(entry.event, t.Rebuilt):
            rebuilt[entry.step] = entry.event.summary
    kept = tuple(rebuilt.values())
    return kept[len(kept) - number :]


def _answers(step: StoryStep) -> dict[str, Approval]:
    return {
        call_id: Approval(call_id=call_id, allowed=not outcome.refused, arguments=step.changed.get(call_id))
        for call_id, outcome in step.outcomes.items()
    }


def entries_of(ledger: TokenLedger) -> tuple[Entry, ...]:
    """A conversation cut into its entries."""
    entries: list[Entry] = []
    for span in ledger.spans:
        ids = ledger.token_ids[span.start : span.end]
        if span.origin.is_written or span.origin is Origin.CLOSING:
            entries[-1] = Entry(entries[-1].origin, entries[-1].ids + ids)
        else:
            entries.append(Entry(span.origin, ids))
    return tuple(entries)


def _runs(segments: Sequence[Sequence[Entry]], tokenizer: Tokenizer, first_step: int) -> tuple[RecordedRun, ...]:
    """The runs after the first `first_step` turns, which are those of the session this one was forked from."""
    turns: list[tuple[int, ...]] = []
    begun: list[tuple[str | None, int]] = []
    for number, entries in enumerate(segments):
        is_repeated = number > 0  # a rebuilt conversation says again what the person said, then comes its summary
        for entry in entries:
            if entry.origin is Origin.PROMPT:
                turns.append(entry.ids[1:])
            elif entry.origin is Origin.NOTICE:
                is_repeated = False
            elif entry.origin is Origin.USER and not is_repeated and len(turns) >= first_step:
                begun.append((tokenizer.decode(entry.ids[1:], skip_special=False), len(turns)))
    if len(turns) > first_step and (not begun or begun[0][1] > first_step):
        begun.insert(0, (None, first_step))
    ends = [*(start for _, start in begun[1:]), len(turns)][: len(begun)]
    return tuple(
        RecordedRun(text, start, tuple(turns[start:end])) for (text, start), end in zip(begun, ends, strict=True)
    )


def _config(
    known: AgentConfig, states: Iterable[Mapping[str, Any]], turns_without_call: set[int], *, is_known: bool
) -> AgentConfig:
    """Settings under which the runs go on as long as the recorded ones, and check what those checked."""
    kept = list(states)
    ends = [(state.get("status"), state.get("step")) for state in kept]
    inferred = {
        "constraints": False,  # what was written is said again as it is
        "max_turns": _NO_LIMIT,
        "max_tokens": _NO_LIMIT,
        "timeout_s": _NO_LIMIT,
        "max_nudges": _NO_LIMIT,
        "max_malformed_calls": _NO_LIMIT,
        "max_loop_warnings": _NO_LIMIT,
        "attended": any(status == "done" and step in turns_without_call for status, step in ends),
        "baseline_tests": any(state.get("tests_before") for state in kept),
        "verify": any(state.get("tests_after") for state in kept),
    }
    if not is_known:
        inferred["max_turn_tokens"] = _NO_LIMIT
    return known.model_copy(update=inferred)
