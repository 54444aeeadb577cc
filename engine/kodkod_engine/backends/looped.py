"""The part all in-process back ends share: requests are checked, queued to the engine thread, and streamed back."""

from __future__ import annotations

import itertools

from kodkod_engine.api import EngineStats, GenerationRequest, TokenStream
from kodkod_engine.backends.checking import check_request
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.config import EngineConfig
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.block_pool import BlockPool
from kodkod_engine.core.loop import EngineLoop
from kodkod_engine.core.prefix_store import PrefixStore
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.core.step import StepRunner
from kodkod_engine.core.stream import ThreadedStream
from kodkod_engine.errors import EngineClosed, PromptTooLong
from kodkod_engine.speculation.speculator import Speculator


class LoopedEngine:
    """See `api.Engine`."""

    def __init__(
        self,
        runner: StepRunner,
        *,
        vocab_size: int,
        max_context_tokens: int,
        eos_id: int,
        tokenizer: Tokenizer | None,
        config: EngineConfig,
        speculator: Speculator | None = None,
        store: PrefixStore | None = None,
    ) -> None:
        pool = BlockPool(num_blocks_for(config), config.block_size)
        self.tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._cache_tokens = pool.num_slots
        self._max_context_tokens = max_context_tokens
        self._eos_id = eos_id
        self._loop = EngineLoop(
            pool,
            runner,
            vocab_size=vocab_size,
            max_step_tokens=config.step_tokens,
            max_running=min(config.max_running, config.step_tokens),
            speculator=speculator,
            steps_per_visit=config.steps_per_visit or 1,
            store=store,
        )
        self._numbers = itertools.count(1)
        self._is_closed = False

    @property
    def vocab_size(self) -> int:
        """See `Engine`."""
        return self._vocab_size

    @property
    def max_context_tokens(self) -> int:
        """See `Engine`."""
        return min(self._max_context_tokens, self._cache_tokens)

    def generate(self, request: GenerationRequest) -> TokenStream:
        """See `Engine`."""
        if self._is_closed:
            raise EngineClosed("the engine is closed; load it again")
        self._check(request)
        stream = ThreadedStream(f"stream-{next(self._numbers)}", self._loop.cancel)
        sequence = Sequence(
            id=stream.id,
            token_ids=list(request.token_ids),
            num_prompt_tokens=len(request.token_ids),
            max_total_tokens=min(len(request.token_ids) + request.sampling.max_tokens, self.max_context_tokens),
        )
        self._submit(sequence, Answer(request, stream, self._eos_id, self.tokenizer))
        return stream

    def _submit(self, sequence: Sequence, answer: Answer) -> None:
        self._loop.submit(sequence, answer)

    def _check(self, request: GenerationRequest) -> None:
        check_request(
            request,
            vocab_size=self._vocab_size,
            max_context_tokens=self._max_context_tokens,
            has_tokenizer=self.tokenizer is not None,
        )
        num_tokens = len(request.token_ids)
        if num_tokens >= self._cache_tokens:
            limit = f"a KV cache of {self._cache_tokens:,}"
            raise PromptTooLong(f"the prompt has {num_tokens:,} tokens, {limit} is too small; raise max_cached_tokens")

    def stats(self) -> EngineStats:
        """See `Engine`."""
        return self._loop.stats

    def check_integrity(self) -> None:
        """Assert that no block of the KV cache is lost. To be called when nothing runs."""
        self._loop.check_integrity()

    def close(self) -> None:
        """See `Engine`."""
        self._is_closed = True
        self._loop.close()


def num_blocks_for(config: EngineConfig) -> int:
    """Blocks that hold `cached_tokens`."""
    return -(-config.cached_tokens // config.block_size)
