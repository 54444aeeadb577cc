"""Names plausible edits to the agent's guide. See `kodkod_agent.ranking`."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import Self

from kodkod_agent.line_syntax import LineSyntax
from kodkod_agent.ranking import Evidence, RankedEdit
from kodkod_app.nano.faults import FaultKind
from kodkod_app.nano.faults.sites import Source
from kodkod_app.nano.ranking.evidence import Failure, Located, Place, clues, places
from kodkod_app.nano.ranking.features import FileView, features, hashed
from kodkod_app.nano.ranking.plausible import PlausibleEdit, plausible_edits
from kodkod_app.nano.ranking.weights import Weights
from kodkod_tools.files import syntax_lock

_REMEMBERED = 4
_BOUNDARY_SLIP = 3.0
"""Added to the log-probability of `<` for `<=`, `>` for `>=`, and back. The planted faults that the weights are learnt
from take any comparison for any other; people mostly mistake whether the end belongs to it."""
_MAX_EDITS = 6_000
"""That are looked at, those of the most suspicious functions first."""


class PlausibleEdits:
    """An `EditRanker`. Remembers its last answers: a guide asks several times in one turn."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._answers: OrderedDict[int, list[RankedEdit]] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def bundled(cls) -> Self:
        """With the weights that come with the program."""
        return cls(Weights.bundled())

    def ranked(self, evidence: Evidence, most: int) -> Sequence[RankedEdit]:
        """See `EditRanker`."""
        key = hash((evidence.output, tuple(evidence.suspects), tuple(sorted(evidence.texts.items())), most))
        with self._lock:
            if key not in self._answers:
                self._answers[key] = self._rank(evidence, most)
                if len(self._answers) > _REMEMBERED:
                    self._answers.popitem(last=False)
            return self._answers[key]

    def _rank(self, evidence: Evidence, most: int) -> list[RankedEdit]:
        scored = self.scored(evidence)
        if not scored:
            return []
        total = _log_sum([score for score, _, _ in scored])
        syntax: dict[tuple[str, int], LineSyntax] = {}
        found: list[RankedEdit] = []
        for score, path, edit in sorted(scored, key=lambda entry: -entry[0]):
            place = path, edit.line
            if place not in syntax:
                syntax[place] = LineSyntax(evidence.texts[path], edit.line)
            if syntax[place].accepts(edit.after):
                written = edit.edit
                found.append(RankedEdit(path, edit.line, written.old, written.new, score - total))
            if len(found) == most:
                break
        return found

    def scored(self, evidence: Evidence) -> list[tuple[float, str, PlausibleEdit]]:
        """All of them with their scores and paths, in no order."""
        failure, weights = Failure(evidence.output), self._weights
        found: list[tuple[float, str, PlausibleEdit]] = []
        views: dict[str, FileView] = {}
        for path, edit, place in located(evidence.suspects, evidence.texts):
            source = edit.function.source
            if path not in views:
                views[path] = FileView(source)
            code = weights.of_code(features(views[path], edit))
            told = weights.of_clues(hashed(*clue) for clue in clues(edit, place, failure))
            found.append((weights.share * code + told + _slip(edit), path, edit))
        return found


def located(suspects: Sequence[Located], texts: Mapping[str, str]) -> Iterator[tuple[str, PlausibleEdit, Place]]:
    """The plausible edits in the suspects, with their places, file by file."""
    left = _MAX_EDITS
    for path in dict.fromkeys(suspect.path for suspect in suspects):
        source = _parsed(texts.get(path))
        if source is None:
            continue
        found = places(suspects, path, source)
        for edit in plausible_edits(source, found.keys())[:left]:
            left -= 1
            yield path, edit, found[edit.line]


def plausible_for(suspects: Sequence[Located], texts: Mapping[str, str]) -> list[tuple[str, PlausibleEdit]]:
    """All that a ranker chooses from, by path."""
    return [(path, edit) for path, edit, _ in located(suspects, texts)]


def _slip(edit: PlausibleEdit) -> float:
    is_boundary = edit.kind is FaultKind.COMPARISON and {edit.replaced, edit.rewrite.text} in ({"<", "<="}, {">", ">="})
    return _BOUNDARY_SLIP if is_boundary else 0.0


def _parsed(text: str | None) -> Source | None:
    if text is None or "\r" in text or "\0" in text:
        return None
    try:
        with syntax_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd literals in other people's code
            return Source(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _log_sum(scores: Sequence[float]) -> float:
    most = max(scores)
    return most + math.log(sum(math.exp(score - most) for score in scores))
