"""The ledger on disk: JSON lines, appended as the conversation grows.

One record per span that was added, and one where a branch begins. A *mark* is a length of the file in bytes; the
graph's state holds the mark it belongs to. What lies behind the mark was written by a node that was killed before its
checkpoint: it is dropped, except for a complete turn of the model, which is taken over.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError

from kodkod_agent.errors import SessionDamaged, cause_of
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.ledger_state import BranchPoint, Declaration, LedgerState, Origin, Span
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import ToolSpec


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BranchRecord(_Record):
    """A branch begins with the first `keep` tokens of what was there before."""

    kind: Literal["branch"] = "branch"
    branch_id: str
    branched_from: BranchPoint | None
    keep: NonNegativeInt
    tokenizer: str
    tools: tuple[ToolSpec, ...] = ()
    """Declared once, by the first branch."""


class SpanRecord(_Record):
    """Tokens were added."""

    kind: Literal["span"] = "span"
    origin: Origin
    ids: tuple[NonNegativeInt, ...]


class DeclaredRecord(_Record):
    """Tools were declared at the tail; its tokens are a span of their own."""

    kind: Literal["declared"] = "declared"
    declaration: Declaration


Record: TypeAlias = BranchRecord | SpanRecord | DeclaredRecord
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True)
class LedgerShape:
    """What a ledger was when it was last written."""

    branch_id: str = ""
    ids: tuple[int, ...] = ()
    spans: tuple[Span, ...] = ()

    @classmethod
    def of(cls, ledger: TokenLedger) -> LedgerShape:
        """A ledger's, now."""
        return cls(ledger.branch_id, ledger.token_ids, ledger.spans)

    def shared_with(self, ledger: TokenLedger) -> int:
        """Tokens at the beginning that are the same, whole spans of the same origin alone."""
        length = 0
        for mine, other in zip(self.spans, ledger.spans, strict=False):
            if mine != other or self.ids[length : mine.end] != ledger.token_ids[length : mine.end]:
                break
            length = mine.end
        return length


class LedgerLog:
    """One session's ledger file. Not safe to write from two processes; the session's lock sees to that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = LedgerShape()
        """What the file holds, replayed up to `_size`."""
        self._size: int | None = None
        """Bytes; what lies behind goes with the next `sync`. None: all there is."""

    @property
    def mark(self) -> int:
        """Length of the file in bytes."""
        return self._path.stat().st_size if self._path.exists() else 0

    def sync(self, ledger: TokenLedger) -> int:
        """Append what the ledger has and the file has not; returns the new mark."""
        records: list[_Record] = []
        start = len(self._written.ids)
        if ledger.branch_id != self._written.branch_id:
            start = self._written.shared_with(ledger)
            records.append(_branch_record(ledger, start, with_tools=not self._written.branch_id))
        records += [DeclaredRecord(declaration=one) for one in ledger.declarations if one.at > start]
        records += _span_records(ledger, start)
        if self._size is not None:
            self._cut(self._size)
        if records:
            self._append("".join(f"{record.model_dump_json()}\n" for record in records))
        return self._stand_at(ledger, self.mark)

    def load(self, tokenizer: Tokenizer, mark: int, *, cut: bool = True) -> TokenLedger:
        """The ledger as of a mark, to go on from there; the file is cut, or what lies behind is left for `turn_behind`.

        Raises:
            SessionDamaged: the file is shorter than the mark, or cannot be read.
            LedgerFault: it was written with another tokenizer.
        """
        if self.mark < mark:
            raise SessionDamaged(f"{self._path} is shorter than its session; fork an earlier step")
        if cut:
            self._cut(mark)
        ledger = self._replayed(tokenizer, mark)
        self._stand_at(ledger, mark)
        return ledger

    def at(self, tokenizer: Tokenizer, mark: int) -> TokenLedger:
        """The ledger as it was at an earlier mark, for a branch to leave from; the file stays whole.

        Raises:
            SessionDamaged, LedgerFault: as `load`.
        """
        return self._replayed(tokenizer, mark)

    def before_rebuilds(self, mark: int) -> list[int]:
        """Marks of the conversation at `mark` as it was just before each of its rebuilds, the first one first.

        Raises:
            SessionDamaged: the file cannot be read.
        """
        begun: dict[str, tuple[BranchRecord, int]] = {}
        branch_id = ""
        for record, start in self._records(mark):
            if isinstance(record, BranchRecord):
                branch_id = record.branch_id
                begun[branch_id] = (record, start)
        marks: list[int] = []
        while branch_id in begun:
            record, start = begun[branch_id]
            left = record.branched_from
            if left is not None and left.kind == "rebuild":
                marks.insert(0, start)
            branch_id = left.parent_id if left is not None else ""
        return marks

    def all_tokens(self) -> list[list[int]]:
        """The tokens of every branch there was, at its longest.

        Raises:
            SessionDamaged: the file cannot be read.
        """
        branches: list[list[int]] = []
        for record, _ in self._records(self.mark):
            if isinstance(record, BranchRecord):
                branches.append(branches[-1][: record.keep] if branches else [])
            elif isinstance(record, SpanRecord) and branches:
                branches[-1].extend(record.ids)
        return branches

    def turn_behind(self, tokenizer: Tokenizer, mark: int) -> TokenLedger | None:
        """The ledger with the turn that was written behind the mark. None when there is no complete one; then the file
        is cut at the mark.
        """
        if self.mark <= mark:
            return None
        before, after = self._replayed(tokenizer, mark), self._replayed(tokenizer, self.mark)
        added = [span.origin for span in after.spans if span.start >= len(before)]
        is_turn = added[:1] == [Origin.PROMPT] and all(
            origin is Origin.CLOSING or origin.is_written for origin in added[1:]
        )
        is_torn = not self._path.read_bytes().endswith(b"\n")
        if is_torn or after.branch_id != before.branch_id or after.turn_open or not is_turn:
            self._cut(mark)
            self._stand_at(before, mark)
            return None
        self._stand_at(after, self.mark)
        return after

    def copy_to(self, other: Path, mark: int) -> None:
        """Write the file as of a mark to a new place."""
        with self._path.open("rb") as file:
            other.write_bytes(file.read(mark))

    def _stand_at(self, ledger: TokenLedger, mark: int) -> int:
        self._written, self._size = LedgerShape.of(ledger), mark
        return mark

    def _cut(self, mark: int) -> None:
        if self.mark > mark:
            os.truncate(self._path, mark)

    def _append(self, text: str) -> None:
        """Behind the last whole line: what a kill or a power cut left torn must not become part of a new one."""
        with self._path.open("a+b") as file:
            file.seek(max(0, self.mark - 1))
            if file.read(1) not in (b"", b"\n"):
                file.truncate(self._path.read_bytes().rfind(b"\n") + 1)
            file.write(text.encode())

    def _replayed(self, tokenizer: Tokenizer, mark: int) -> TokenLedger:
        opened: BranchRecord | None = None
        branch: BranchRecord | None = None
        ids: list[int] = []
        spans: list[Span] = []
        declared: list[Declaration] = []
        for record, _ in self._records(mark):
            if isinstance(record, BranchRecord):
                opened, branch = opened or record, record
                ids, spans = ids[: record.keep], _cut(spans, record.keep)
                declared = [one for one in declared if one.at <= record.keep]
            elif isinstance(record, DeclaredRecord):
                declared.append(record.declaration)
            else:
                _extend(ids, spans, record)
        if opened is None or branch is None:
            raise SessionDamaged(f"{self._path} holds no conversation; start a new session")
        state = LedgerState(
            branch_id=branch.branch_id,
            branched_from=branch.branched_from,
            tokenizer=opened.tokenizer,
            tools=opened.tools,
            spans=tuple(spans),
            token_ids=tuple(ids),
            # One whose tokens a kill kept from the file was not declared.
            declarations=tuple(one for one in declared if one.at <= len(ids)),
        )
        return TokenLedger.from_state(tokenizer, state)

    def _records(self, mark: int) -> Iterator[tuple[Record, int]]:
        """Whole lines up to the mark, and where each begins; a last line torn by a kill is no record."""
        start = 0
        try:
            with self._path.open("rb") as file:
                lines = file.read(mark).split(b"\n")
            for line in lines[:-1]:
                yield _RECORD.validate_json(line), start
                start += len(line) + 1
        except (OSError, ValidationError) as fault:
            raise SessionDamaged(f"{self._path} cannot be read ({cause_of(fault)}); fork an earlier step") from fault


def _branch_record(ledger: TokenLedger, keep: int, *, with_tools: bool) -> BranchRecord:
    return BranchRecord(
        branch_id=ledger.branch_id,
        branched_from=ledger.branched_from,
        keep=keep,
        tokenizer=ledger.state().tokenizer if with_tools else "",
        tools=ledger.tools if with_tools else (),
    )


def _span_records(ledger: TokenLedger, start: int) -> list[SpanRecord]:
    ids, spans = ledger.token_ids, ledger.spans
    first = bisect_right(spans, start, key=attrgetter("end"))
    return [SpanRecord(origin=span.origin, ids=ids[max(span.start, start) : span.end]) for span in spans[first:]]


def _cut(spans: Sequence[Span], keep: int) -> list[Span]:
    return [Span(span.origin, span.start, min(span.end, keep)) for span in spans if span.start < keep]


def _extend(ids: list[int], spans: list[Span], record: SpanRecord) -> None:
    start = len(ids)
    ids += record.ids
    last = spans[-1] if spans else None
    if last is not None and last.origin is record.origin and record.origin.is_generated:
        spans[-1] = Span(last.origin, last.start, len(ids))
    else:
        spans.append(Span(record.origin, start, len(ids)))
