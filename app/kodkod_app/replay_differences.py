"""What counts as the same in a replay, and where it parts from its recording.

Token ids must be equal; where they are not, entries still count as the same when they differ only in what cannot be
the same again: the place of the copy, the seconds a command took, the reason why a call was refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from kodkod_app.recorded_session import Entry
from kodkod_engine.chat.ledger_state import Origin
from kodkod_engine.chat.tokenizer import Tokenizer

_SECONDS = re.compile(r"\b\d+(\.\d+)? ?s\b")
_REFUSAL = re.compile(r"\A((?:<\w+>|\s)*)not run: .*", re.DOTALL)
_HOOKS = re.compile(r"\n\[a hook (?:says|objects): .*\]", re.DOTALL)
"""What hooks said behind a result: none is run again."""
_SHOWN_CHARS = 600


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a replay parted from its recording."""

    turn: int
    """The first turn whose prompt is not the recorded one; one more than there are turns for what follows the last."""
    what: str
    """The entry's origin: `tool_result`, `system`, `notice`, ..."""
    token: int
    """Number of the first id that differs, in the recorded conversation."""
    recorded: str
    replayed: str


@dataclass(frozen=True, slots=True)
class Sameness:
    """Compares recorded entries with those of a replay."""

    tokenizer: Tokenizer
    recorded_tree: Path
    replayed_tree: Path

    def holds(self, recorded: Entry | None, replayed: Entry | None) -> bool:
        """Whether two entries are the same; none is the same as none."""
        if recorded is None or replayed is None or recorded.origin is not replayed.origin:
            return recorded is replayed
        return recorded.ids == replayed.ids or self._comparable(recorded) == self._comparable(replayed)

    def difference(
        self, turn: int, before: Sequence[Entry], recorded: Entry | None, replayed: Entry | None
    ) -> Difference:
        """Of two entries that are not the same, behind the recorded ones `before`; one of the two at least is there."""
        entry = recorded or replayed
        assert entry is not None
        sides = [() if side is None else side.ids for side in (recorded, replayed)]
        token = sum(len(one.ids) for one in before) + _common(*sides)
        texts = [self._comparable(side) if side else "(nothing)" for side in (recorded, replayed)]
        what = "turn" if entry.origin is Origin.PROMPT else str(entry.origin)
        return Difference(turn, what, token, *_around_difference(*texts))

    def _comparable(self, entry: Entry) -> str:
        text = self.tokenizer.decode(entry.ids, skip_special=False)
        text = text.replace(str(self.replayed_tree), str(self.recorded_tree))
        text = re.sub(r"\S*/sessions/[\w-]+/logs/", "LOGS/", text)
        if entry.origin is Origin.TOOL_RESULT:
            text = _REFUSAL.sub(r"\1not run", _HOOKS.sub("", text))
        return _SECONDS.sub("0 s", text) if entry.origin in (Origin.TOOL_RESULT, Origin.NOTICE) else text


def _common(recorded: Sequence[object], replayed: Sequence[object]) -> int:
    """How much two sequences begin with alike."""
    return next((at for at, (a, b) in enumerate(zip_longest(recorded, replayed)) if a != b), 0)


def _around_difference(recorded: str, replayed: str) -> tuple[str, str]:
    """The parts of two texts where they begin to differ."""
    start = max(0, _common(recorded, replayed) - _SHOWN_CHARS // 3)
    return recorded[start : start + _SHOWN_CHARS], replayed[start : start + _SHOWN_CHARS]
