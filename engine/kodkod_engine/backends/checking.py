"""What every back end asks of a request before it takes it."""

from __future__ import annotations

from numbers import Integral

from kodkod_engine.api import GenerationRequest
from kodkod_engine.errors import PromptTooLong, RequestError, TokenOutOfRange


def check_request(request: GenerationRequest, *, vocab_size: int, max_context_tokens: int, has_tokenizer: bool) -> None:
    """Let a request pass that can be served.

    Raises:
        TokenOutOfRange, PromptTooLong, RequestError: see `api.Engine.generate`.
    """
    num_tokens = len(request.token_ids)
    if not num_tokens:
        raise RequestError("the prompt is empty; give at least one token")
    if request.sampling.stop_strings and not has_tokenizer:
        raise RequestError("stop strings need a tokenizer; put a tokenizer.json beside the checkpoint")
    lowest, highest = min(request.token_ids), max(request.token_ids)
    if lowest < 0 or highest >= vocab_size:
        worst = lowest if lowest < 0 else highest
        raise TokenOutOfRange(f"token id {worst} is outside the vocabulary of {vocab_size}; check the tokenizer")
    if not all(issubclass(kind, Integral) for kind in set(map(type, request.token_ids))):
        raise RequestError("not all token ids are whole numbers; give them as the tokenizer encodes them")
    if num_tokens >= max_context_tokens:
        limit = f"the model's context of {max_context_tokens:,}"
        raise PromptTooLong(f"the prompt has {num_tokens:,} tokens, {limit} has no room for an answer; shorten it")
