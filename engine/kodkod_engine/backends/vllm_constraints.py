"""Constraints inside vLLM: a logits processor that asks a request's constraint for each token.

vLLM makes the processor by its name and gives it the sampling parameters of each request, so a request carries the
name of its `Watch` in `extra_args`. All of it is in one process and on the engine thread.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from kodkod_engine.api import Constraint, TokenLogprob
from kodkod_engine.constraints.asking import ask_constraint
from kodkod_engine.constraints.token_mask import TokenMask
from kodkod_engine.core.step import Restriction

WATCH = "kodkod_watch"
PROCESSOR = f"{__name__}:ConstraintProcessor"

watches: dict[str, Watch] = {}
"""Of the requests that run, by their ids."""


class Watch:
    """One constrained request: what may come next, and what the model thought of it."""

    def __init__(self, constraint: Constraint, vocab_size: int, num_top: int | None) -> None:
        self._constraint = constraint
        self._vocab_size = vocab_size
        self._num_top = num_top
        self._asked = -1
        self._allowed: Collection[int] | None = None
        self._logprobs: torch.Tensor | None = None
        self.restriction: Restriction | None = None
        """Of the token that was sampled last."""
        self.fault: Exception | None = None
        """Of the constraint; the request is to be ended."""

    def apply(self, output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        """Leave what is allowed.

        Args:
            output_ids: generated so far.
            logits: float32 [vocabulary], of the model, unchanged.
        """
        if self.fault is None:
            self._ask(output_ids)
        masked = logits if self.fault is not None or self._allowed is None else self._restrict(logits)
        if self._num_top is not None:
            self._logprobs = masked.log_softmax(dim=-1)
        return masked

    def logprob(self, token_id: int) -> TokenLogprob | None:
        """Of the token that was sampled last, among what was allowed; None when nobody asked for it."""
        if self._logprobs is None or self._num_top is None:
            return None
        values, ids = self._logprobs.topk(max(1, self._num_top))
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        top = tuple((one, value) for one, value in pairs if value > -torch.inf)[: self._num_top]
        return TokenLogprob(token_id, float(self._logprobs[token_id]), top)

    def _ask(self, output_ids: list[int]) -> None:
        # A chunk of the prompt is sampled from too, and the sample dropped: the question is the same, and asked once.
        if self._asked == len(output_ids):
            return
        self._asked = len(output_ids)
        self._allowed, self.restriction = None, None
        try:
            self._allowed = ask_constraint(self._constraint, list(output_ids), self._vocab_size)
        except Exception as fault:  # noqa: BLE001  # a caller's code: its fault ends its own request and no other
            self.fault = fault

    def _restrict(self, logits: torch.Tensor) -> torch.Tensor:
        assert self._allowed is not None
        if len(self._allowed) >= self._vocab_size:
            return logits
        keep = self._mask(len(logits)).to(logits.device)
        mass = float(logits.softmax(dim=-1)[keep].sum())
        self.restriction = Restriction(len(self._allowed), min(1.0, mass), int(logits.argmax()))
        return logits.masked_fill(~keep, -torch.inf)

    def _mask(self, size: int) -> torch.Tensor:
        """bool [size]: what is allowed."""
        mask = torch.zeros(size, dtype=torch.bool)
        if isinstance(self._allowed, TokenMask):
            bits = torch.from_numpy(self._allowed.bits().copy())[:size]
            mask[: len(bits)] = bits
        else:
            mask[torch.tensor(list(self._allowed or ()))] = True
        return mask


class ConstraintProcessor(AdapterLogitsProcessor):
    """What vLLM calls with the logits of a batch."""

    def is_argmax_invariant(self) -> bool:
        """A constraint may forbid the most probable token."""
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        """The request's own part; None for one that is free."""
        watch = watches.get((params.extra_args or {}).get(WATCH, ""))
        return watch.apply if watch is not None else None
