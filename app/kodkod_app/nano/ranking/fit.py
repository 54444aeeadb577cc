"""Learns the weights: of a case's edits the repair is to be the most probable, by a softmax over their scores.

First the table of code, from simulated cases; then, with that fixed, the table of clues and the code's share in the
whole, from real ones. Both by AdaGrad, a case at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from kodkod_app.nano.ranking.cases import CaseArrays
from kodkod_app.nano.ranking.weights import Weights

CODE_BITS, CLUE_BITS = 20, 13
_CODE_RATE, _CODE_DECAY, _CODE_EPSILON = 0.15, 1e-5, 1e-2
_CLUE_RATE, _CLUE_DECAY, _CLUE_EPSILON = 0.2, 1e-4, 0.1
_FIRST_SHARE = 0.7

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int8]


def fit_code(cases: CaseArrays, epochs: int = 2, seed: int = 0) -> Floats:
    """The table of code [2 ** CODE_BITS]."""
    rng = np.random.default_rng(seed)
    weights, squares = np.zeros(1 << CODE_BITS), np.full(1 << CODE_BITS, _CODE_EPSILON)
    code, counts = _masked(cases.code, len(weights)), cases.counts
    ends, case_ends, repair = cases.code_ends, cases.case_ends, cases.repair
    nothing = np.zeros(len(ends) - 1)
    for epoch in range(epochs):
        order = rng.permutation(np.flatnonzero(repair >= 0))
        rate = _CODE_RATE * (1 - 0.7 * epoch / epochs)
        _learn(code, counts, ends, case_ends, repair, order, nothing, np.zeros(1), weights, squares, rate, _CODE_DECAY)
    return weights


def fit_clues(cases: CaseArrays, scores: Floats, epochs: int = 12, seed: int = 0) -> tuple[Floats, float]:
    """The table of clues [2 ** CLUE_BITS], and the code's share.

    Args:
        cases: real ones.
        scores: of their edits' code, by `code_scores`.
        epochs: over all of them.
        seed: of the order.
    """
    rng = np.random.default_rng(seed)
    weights, squares = np.zeros(1 << CLUE_BITS), np.full(1 << CLUE_BITS, _CLUE_EPSILON)
    clues = _masked(cases.clues, len(weights))
    ends, case_ends, repair = cases.clue_ends, cases.case_ends, cases.repair
    share, counts = np.array([_FIRST_SHARE]), np.ones(len(clues), np.int8)
    for _ in range(epochs):
        order = rng.permutation(np.flatnonzero(repair >= 0))
        _learn(clues, counts, ends, case_ends, repair, order, scores, share, weights, squares, _CLUE_RATE, _CLUE_DECAY)
    return weights, float(share[0])


def left_out_ranks(cases: CaseArrays, code: Floats, seed: int = 0) -> Integers:
    """Ranks of each package's repairs with clues that were learnt from the other packages."""
    scores, found = code_scores(cases, code), np.full(len(cases), -1)
    for package in np.unique(cases.packages):
        is_own = cases.packages == package
        others = replace(cases, repair=np.where(is_own, -1, cases.repair))
        weights = Weights(code, *fit_clues(others, scores, seed=seed))
        found[is_own] = ranks(cases, weights)[is_own]
    return found


def code_scores(cases: CaseArrays, code: npt.NDArray[np.floating[Any]]) -> Floats:
    """By edit."""
    return _sums(_masked(cases.code, len(code)), cases.counts, cases.code_ends, code.astype(np.float64))


def ranks(cases: CaseArrays, weights: Weights) -> Integers:
    """By case, how many edits score at least as high as the repair; -1 where it is not among them."""
    return ranks_of(cases, scores_of(cases, weights))


def scores_of(cases: CaseArrays, weights: Weights) -> Floats:
    """By edit, of code and clues together."""
    told = _masked(cases.clues, len(weights.clues))
    of_clues = _sums(told, np.ones(len(told), np.int8), cases.clue_ends, weights.clues.astype(np.float64))
    return weights.share * code_scores(cases, weights.code) + of_clues


def _masked(hashes: npt.NDArray[np.uint32], size: int) -> Integers:
    return (hashes & np.uint32(size - 1)).astype(np.int64)


def ranks_of(cases: CaseArrays, scores: Floats) -> Integers:
    """The same for scores that are known."""
    found = np.full(len(cases), -1)
    ends = cases.case_ends
    for number, repair in enumerate(cases.repair):
        if repair >= 0:
            own = scores[ends[number] : ends[number + 1]]
            found[number] = np.count_nonzero(own >= own[repair]) - 1
    return found


def recall(found: Integers, most: int) -> float:
    """Share of the cases with the repair among so many."""
    return float(np.mean((found >= 0) & (found < most))) if len(found) else 0.0


def blind_recall(cases: CaseArrays, most: int) -> float:
    """The same for edits in random order, expected."""
    sizes = np.diff(cases.case_ends)
    return float(np.mean(np.where(cases.repair >= 0, np.minimum(1.0, most / np.maximum(1, sizes)), 0.0)))


def by_kind(cases: CaseArrays, found: Integers, most: Sequence[int]) -> dict[str, tuple[int, list[float]]]:
    """Number of cases and recall, by class of fault."""
    kinds = cases.kinds
    return {
        kind: (int(np.sum(kinds == kind)), [recall(found[kinds == kind], number) for number in most])
        for kind in np.unique(kinds)
    }


@numba.njit(cache=True)
def _sums(hashes: Integers, counts: Counts, ends: Integers, weights: Floats) -> Floats:
    found = np.zeros(len(ends) - 1)
    for edit in range(len(found)):
        for place in range(ends[edit], ends[edit + 1]):
            found[edit] += weights[hashes[place]] * counts[place]
    return found


@numba.njit(cache=True)
def _learn(
    hashes: Integers, counts: Counts, ends: Integers, case_ends: Integers, repair: Integers, order: Integers,
    scores: Floats, share: Floats, weights: Floats, squares: Floats, rate: float, decay: float,
) -> None:  # fmt: skip
    """One pass over the cases in this order: changes weights, their squares and the share of the given scores."""
    share_squares = 1.0
    for case in order:
        first, last = case_ends[case], case_ends[case + 1]
        chances = np.empty(last - first)
        for edit in range(first, last):
            total = share[0] * scores[edit]
            for place in range(ends[edit], ends[edit + 1]):
                total += weights[hashes[place]] * counts[place]
            chances[edit - first] = total
        chances = np.exp(chances - chances.max())
        chances /= chances.sum()
        chances[repair[case]] -= 1.0
        slope = np.sum(chances * scores[first:last])
        share_squares += slope * slope
        share[0] -= 0.3 * rate * slope / np.sqrt(share_squares)
        for edit in range(first, last):
            error = chances[edit - first]
            if abs(error) < 1e-5:
                continue
            for place in range(ends[edit], ends[edit + 1]):
                at = hashes[place]
                step = error * counts[place] + decay * weights[at]
                squares[at] += step * step
                weights[at] -= rate * step / np.sqrt(squares[at])
