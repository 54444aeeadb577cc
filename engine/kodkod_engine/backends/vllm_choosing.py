"""Our sampler inside vLLM: a logits processor that leaves one token, the one our own engine would choose.

vLLM's draws depend on how a prompt was cut into steps, and it knows nothing of our constraints. So for a request that
draws or is constrained the choice is made here, by `core.sampler`: after seed and position alone, among what the
constraint allows. vLLM then takes the only token that is left.

vLLM makes the processor by its name and gives it the sampling parameters of each request, so a request carries the
name of its `Watch` in `extra_args`. All of it is in one process and on the engine thread.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from kodkod_engine.api import GenerationRequest
from kodkod_engine.constraints.asking import ask_constraint
from kodkod_engine.core.sampler import choose
from kodkod_engine.core.step import Choice, ChosenToken

WATCH = "kodkod_watch"
PROCESSOR = f"{__name__}:ChoosingProcessor"

watches: dict[str, Watch] = {}
"""Of the requests that run, by the names they carry."""


class Watch:
    """One request whose tokens are chosen here."""

    def __init__(self, request: GenerationRequest, vocab_size: int) -> None:
        self._request = request
        self._vocab_size = vocab_size
        self._asked = -1
        self._allowed: Collection[int] | None = None
        self.chosen: ChosenToken | None = None
        """The token of the last step."""
        self.fault: Exception | None = None
        """Of the constraint; the request is to be ended."""

    def apply(self, output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        """Leave the chosen token.

        Args:
            output_ids: generated so far.
            logits: float32 [vocabulary], of the model, unchanged.
        """
        self._ask(output_ids)
        if self.fault is not None:
            return logits
        position = len(self._request.token_ids) + len(output_ids)
        [self.chosen] = choose(logits[None], [Choice(self._request.sampling, position, self._allowed)])
        alone = torch.full_like(logits, -torch.inf)
        alone[self.chosen.token_id] = 0.0
        return alone

    def _ask(self, output_ids: list[int]) -> None:
        constraint = self._request.constraint
        # A chunk of the prompt is sampled from too, and the sample dropped: the question is the same, and asked once.
        if constraint is None or self.fault is not None or self._asked == len(output_ids):
            return
        self._asked = len(output_ids)
        try:
            self._allowed = ask_constraint(constraint, list(output_ids), self._vocab_size)
        except Exception as fault:  # noqa: BLE001  # a caller's code: its fault ends its own request and no other
            self.fault = fault


class ChoosingProcessor(AdapterLogitsProcessor):
    """What vLLM calls with the logits of a batch."""

    def is_argmax_invariant(self) -> bool:
        """What is left need not be the most probable token."""
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        """The request's own part; None for one whose tokens vLLM chooses."""
        watch = watches.get((params.extra_args or {}).get(WATCH, ""))
        return watch.apply if watch is not None else None
