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


def best_lengths(probabilities: Sequence[Floats], step_s: Floats, draft_s: float = 0.0) -> Lengths:
    """Choose among all lengths of all drafts.

    A draft's k-th token brings one more token with the probability that it and all before it are accepted. These
    probabilities fall along a draft, so the best n tokens of all drafts together are a beginning of each.

    Args:
        probabilities: per sequence, of each drafted token's acceptance if those before it are accepted.
        step_s: seconds of a step with 0, 1, 2, ... drafted tokens in all; no more are chosen than it has times for.
        draft_s: seconds that drafting took or will take.
    """
    prefixes = [np.minimum.accumulate(np.cumprod(one)) for one in probabilities]
    merged = np.concatenate([np.zeros(0), *prefixes])
    order = np.argsort(-merged, kind="stable")[: len(step_s) - 1]
    expected = len(probabilities) + np.concatenate([[0.0], np.cumsum(merged[order])])
    rates = expected / (step_s[: len(expected)] + draft_s)
    best = int(rates.argmax())
    owners = np.repeat(np.arange(len(prefixes)), [len(prefix) for prefix in prefixes])
    counts = np.bincount(owners[order[:best]], minlength=len(prefixes))
    threshold = float(merged[order[best - 1]]) if best else 1.0
    return Lengths(tuple(counts.tolist()), float(rates[best]), threshold)
