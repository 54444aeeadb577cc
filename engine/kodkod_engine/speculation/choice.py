"""How much of each draft to verify: the lengths with the best expected tokens per second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kodkod_engine.speculation.calibration import Floats


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens to verify of each draft, and what that is expected to bring."""

    num_tokens: tuple[int, ...]
    tokens_per_s: float
    """Of all sequences of the step together."""
    threshold: float
    """Drafted tokens whose whole prefix is less likely than this to be accepted are not worth their verification."""


def best_lengths(probabilities: Sequence[Floats], step_s: Floats, *, num_others: int = 0) -> Lengths:
    """Choose among all lengths of all drafts.

    A draft's k-th token brings one more token with the probability that it and all before it are accepted. These
    probabilities fall along a draft, so the best n tokens of all drafts together are a beginning of each.

    Args:
        probabilities: per sequence, of each drafted token's acceptance if those before it are accepted.
        step_s: seconds of a step with 0, 1, 2, ... drafted tokens in all; no more are chosen than it has times for.
        num_others: sequences that get a token in this step, and wait for it, without a draft.
    """
    if len(probabilities) == 1:
        return _best_length(probabilities[0], step_s, num_others)
    prefixes = [np.minimum.accumulate(np.cumprod(one)) for one in probabilities]
    merged = np.concatenate([np.zeros(0), *prefixes])
    order = np.argsort(-merged, kind="stable")[: len(step_s) - 1]
    expected = num_others + len(probabilities) + np.concatenate([[0.0], np.cumsum(merged[order])])
    rates = expected / step_s[: len(expected)]
    best = int(rates.argmax())
    owners = np.repeat(np.arange(len(prefixes)), [len(prefix) for prefix in prefixes])
    counts = np.bincount(owners[order[:best]], minlength=len(prefixes))
    threshold = float(merged[order[best - 1]]) if best else 1.0
    return Lengths(tuple(counts.tolist()), float(rates[best]), threshold)


def _best_length(probabilities: Floats, step_s: Floats, num_others: int) -> Lengths:
    """As `best_lengths`, of one draft: most steps have no more, and take little longer than this choice."""
    expected = num_others + 1.0
    likely, best, best_rate, threshold = 1.0, 0, expected / float(step_s[0]), 1.0
    for place, (probability, seconds) in enumerate(zip(probabilities.tolist(), step_s[1:].tolist(), strict=False), 1):
        likely *= probability
        expected += likely
        if expected / seconds > best_rate:
            best, best_rate, threshold = place, expected / seconds, likely
    return Lengths((best,), best_rate, threshold)
