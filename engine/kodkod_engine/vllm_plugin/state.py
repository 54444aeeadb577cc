"""vLLM's state of the model, with the context read from committed ids. Imported where vLLM is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.longcat_flash_ngram import LongcatNgramModelState

from kodkod_engine.layers.ngram_hash import NgramHasher
from kodkod_engine.vllm_plugin.context import committed_context, spec_of, step_windows


class CommittedNgramState(LongcatNgramModelState):
    """Keeps nothing from step to step; the rolling `token_context` of the class above is never read."""

    def __init__(self, vllm_config: Any, model: Any, encoder_cache: Any, device: Any) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        spec = spec_of(model.config)
        self._hasher = NgramHasher(spec, device)
        self._first_rows = torch.tensor(spec.row_offsets[:-1], dtype=torch.int64, device=device)
        self._requests: Any = None

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """See vLLM. The requests are at hand while row ids are computed."""
        self._requests = req_states
        try:
            return dict(super().prepare_inputs(input_batch, req_states))
        finally:
            self._requests = None

    def _compute_oe_ids(self, input_batch: Any) -> Tensor:
        """Rows of the tables, which vLLM stores one after another: int64 [tokens, tables]."""
        number = input_batch.num_reqs
        slots = input_batch.idx_mapping[:number].long()
        context = committed_context(
            self._requests.all_token_ids.gpu,
            slots,
            self._requests.num_computed_tokens.gpu[slots],
            self._hasher.spec.context_tokens,
        )
        starts = input_batch.query_start_loc[: number + 1]
        windows = step_windows(context, input_batch.input_ids[: input_batch.num_tokens], starts)
        return self._hasher.row_ids(windows) + self._first_rows
