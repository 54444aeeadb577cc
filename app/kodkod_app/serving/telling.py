"""Small things that answers of both kinds tell: costs, tokens as text, log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from kodkod_app.serving.replies import PromptDetails, UsageReply
from kodkod_app.serving.speaking import Ended
from kodkod_engine.chat.tokenizer import Tokenizer

_LEAST_LOGPROB = -9_999.0
"""Stands for probability 0, for JSON has no infinity."""


def usage_reply(ends: Sequence[Ended], *, prompts: int = 1) -> UsageReply:
    """What a request cost.

    Args:
        ends: of all its choices, those of one prompt after one another.
        prompts: how many it has; each counts once, however many choices it has.
    """
    per_prompt = len(ends) // prompts
    groups = [ends[start : start + per_prompt] for start in range(0, len(ends), per_prompt)]
    prompt = sum(group[0].usage.prompt_tokens for group in groups)
    cached = sum(min(end.usage.reused_tokens for end in group) for group in groups)
    written = sum(end.completion_tokens for end in ends)
    return UsageReply(
        prompt_tokens=prompt,
        completion_tokens=written,
        total_tokens=prompt + written,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
    )


def token_text(tokenizer: Tokenizer, token_id: int) -> tuple[str, list[int]]:
    """A token as text, and the bytes it stands for: a part of a character is no text by itself."""
    data = tokenizer.bytes_of(token_id) if 0 <= token_id < tokenizer.vocab_size else b""
    return data.decode("utf-8", "replace"), list(data)


def finite(logprob: float) -> float:
    """A log-probability that JSON can say."""
    return max(logprob, _LEAST_LOGPROB)
