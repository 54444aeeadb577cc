"""What clients are answered: the objects of the OpenAI API, with token ids where they were asked for.

Fields that are not set are left out of the answer, those set to None are `null`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FinishWord = Literal["stop", "length", "tool_calls"]


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def json_text(self) -> str:
        """As it is sent."""
        return self.model_dump_json(exclude_unset=True)


class ErrorBody(_Reply):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(_Reply):
    """The answer to a request that cannot be served."""

    error: ErrorBody


class PromptDetails(_Reply):
    """Of the prompt's tokens."""

    cached_tokens: int
    """Those that were not computed again."""


class UsageReply(_Reply):
    """What a request cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class TopLogprob(_Reply):
    """A token that could have been taken."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobReply(TopLogprob):
    """A token that was taken."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(_Reply):
    """One entry per token that was generated, the last one's end of turn too."""

    content: list[TokenLogprobReply]


class FunctionReply(_Reply):
    """Name and arguments of a call."""

    name: str
    arguments: str
    """A JSON object, as text."""


class CallReply(_Reply):
    """A call the model makes."""

    index: int | None = None
    """In a stream: which call of the message."""
    id: str
    type: Literal["function"]
    function: FunctionReply


class MessageReply(_Reply):
    """What the model said, or, in a stream, more of it."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    """What it thought first."""
    tool_calls: list[CallReply] | None = None


class ChatChoice(_Reply):
    """One answer."""

    index: int
    message: MessageReply
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishWord
    token_ids: list[int] | None = None
    """What was generated, to the very id."""


class ChatReply(_Reply):
    """Answer of `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageReply
    prompt_token_ids: list[int] | None = None


class ChatDelta(_Reply):
    """More of one answer."""

    index: int
    delta: MessageReply
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishWord | None = None
    token_ids: list[int] | None = None


class ChatChunk(_Reply):
    """A piece of a streamed answer of `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatDelta]
    usage: UsageReply | None = None
    prompt_token_ids: list[int] | None = None


class TextLogprobs(_Reply):
    """Lists of one entry per token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(_Reply):
    """One continuation, or, in a stream, more of it."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishWord | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class CompletionReply(_Reply):
    """Answer of `/v1/completions`, and a piece of it where it is streamed."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: UsageReply | None = None


class ModelReply(_Reply):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    """Tokens of prompt and answer together. Not in OpenAI's API."""


class ModelsReply(_Reply):
    """Answer of `/v1/models`."""

    object: Literal["list"]
    data: list[ModelReply]


class HealthReply(_Reply):
    """Answer of `/health`."""

    status: Literal["ok"]
    running: int
    """Requests that are generating."""
    waiting: int
    prompt_tokens: int
    """Since the start, as are those below."""
    reused_tokens: int
    generated_tokens: int
