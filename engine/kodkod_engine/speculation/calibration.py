"""What a drafter's confidence is worth: how often tokens of such a confidence were accepted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

_EDGES = 1 - np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005])
"""Confidences at which one bin ends and the next begins; finer towards certainty, where a long draft lives or dies."""

PRIOR_TOKENS = 8.0
"""The confidence itself counts as so many observations."""

MEMORY_TOKENS = 400.0
"""Beyond so many observations in a bin the older ones fade, for a conversation changes its ways."""


_MIDDLES = np.concatenate([[_EDGES[0] / 2], (_EDGES[1:] + _EDGES[:-1]) / 2, [(1 + _EDGES[-1]) / 2]])


class Calibration:
    """Acceptance by bins of confidence, learnt from every verification of one drafter."""

    def __init__(self, before: Calibration | None = None) -> None:
        """`before`: what was learnt elsewhere. It counts no more than a confidence's own word: it is soon overruled."""
        rates: Floats = _MIDDLES if before is None else before._accepted / before._seen
        self._seen: Floats = np.full(len(rates), PRIOR_TOKENS)
        self._accepted: Floats = rates * PRIOR_TOKENS

    def probabilities(self, confidences: Sequence[float]) -> Floats:
        """Of each token's being accepted if those before it are; float64 [tokens]."""
        bins = np.searchsorted(_EDGES, confidences, side="right")
        rates: Floats = self._accepted[bins] / self._seen[bins]
        return rates

    def learn(self, confidences: Sequence[float], num_accepted: int) -> None:
        """A draft was verified: its first `num_accepted` tokens were right, the next one was wrong, if there is one.

        Args:
            confidences: of the tokens that were verified.
        """
        judged = np.searchsorted(_EDGES, confidences[: num_accepted + 1], side="right")
        np.add.at(self._seen, judged, 1.0)
        np.add.at(self._accepted, judged[:num_accepted], 1.0)
        if self._seen[judged].max(initial=0.0) > MEMORY_TOKENS:
            old = self._seen > MEMORY_TOKENS
            self._seen[old] /= 2
            self._accepted[old] /= 2
