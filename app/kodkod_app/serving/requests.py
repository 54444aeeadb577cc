"""What clients send: the request bodies of the OpenAI API, as far as the engine can serve them.

A field that is not known is refused, as OpenAI does; so is a value that would have to be ignored. Fields that change
nothing of what is generated are taken and have no effect. Inside messages, where clients send back whatever they got,
and inside functions unknown fields are passed over.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_CHOICES = 16
MAX_LOGPROBS = 20
_MAX_STOPS = 16
_INT64 = 2**63


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 4.0 is as whole as 4."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _no(value: bool) -> bool:  # what a validator is called with
    if value:
        raise ValueError("only false can be served")
    return value


_No = Annotated[bool, AfterValidator(_no), Field(json_schema_extra={"const": False})]
_Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
_Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES), BeforeValidator(_whole)]
_Tops = Annotated[int, Field(ge=0, le=MAX_LOGPROBS), BeforeValidator(_whole)]
_TopK = Annotated[int, Field(ge=-1), BeforeValidator(_whole)]
_Seed = Annotated[int, Field(ge=-_INT64, lt=_INT64), BeforeValidator(_whole)]
_TokenId = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
_One = Annotated[int, Field(ge=1, le=1), BeforeValidator(_whole)]
_Text = Annotated[str, Field(min_length=1)]
_Ids = Annotated[tuple[_TokenId, ...], Field(min_length=1)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, use_attribute_docstrings=True)


class TextPart(_Part):
    """A piece of a message. This model reads text alone."""

    type: Literal["text"]
    text: str


Content = str | tuple[TextPart, ...]
"""Several parts stand for their texts, one under the other."""


class SystemEntry(_Part):
    """Standing instructions."""

    role: Literal["system", "developer"]
    content: Content


class UserEntry(_Part):
    """What the person says."""

    role: Literal["user"]
    content: Content


class CalledFunction(_Part):
    """Name and arguments of a call that was made."""

    name: str = Field(min_length=1)
    arguments: str
    """A JSON object, as text."""


class SentCall(_Part):
    """A call that was made, sent back."""

    id: str = Field(min_length=1)
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantEntry(_Part):
    """What the model said, sent back."""

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[SentCall, ...] | None = None


class ToolEntry(_Part):
    """What a call came to."""

    role: Literal["tool"]
    tool_call_id: str
    content: Content


Entry = Annotated[SystemEntry | UserEntry | AssistantEntry | ToolEntry, Field(discriminator="role")]


class Function(_Part):
    """A function the model may call."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments: an object with `properties`."""
    strict: bool | None = None
    """Calls are always held to their schema."""


class Tool(_Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Body):
    """By its name."""

    name: str


class NamedTool(_Body):
    """Call this one."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class StreamOptions(_Body):
    """How a stream is told."""

    include_usage: bool | None = None
    """A last chunk without choices tells what the request cost."""
    include_obfuscation: bool | None = None
    """Without effect."""


class TextFormat(_Body):
    """Any text."""

    type: Literal["text"]


class JsonFormat(_Body):
    """A JSON object."""

    type: Literal["json_object"]


class NamedSchema(_Body):
    """A JSON schema with a name."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class SchemaFormat(_Body):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")]
_Zero = Annotated[float, Field(ge=0, le=0)]
_Stops = str | Annotated[tuple[str, ...], Field(max_length=_MAX_STOPS)]


class Sampled(_Body):
    """What requests of both kinds have."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Count | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    """0 is greedy. [default: 1]"""
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: _TopK | None = None
    """Keep the k most probable tokens; 0 or -1 keeps all. Not in OpenAI's API."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Drop tokens less probable than this times the most probable one. Not in OpenAI's API."""
    seed: _Seed | None = None
    """Of the draws; the choice with index i draws with the seed plus i. [default: another one each time]"""
    stop: _Stops | None = None
    n: _Choices | None = None
    return_token_ids: bool | None = None
    """Give the ids of prompt and answer. Not in OpenAI's API."""
    presence_penalty: _Zero | None = None
    """There are no penalties here: only 0."""
    frequency_penalty: _Zero | None = None
    """There are no penalties here: only 0."""
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    """There is none here: only an empty one."""
    user: Any = None
    """Without effect."""

    @property
    def stops(self) -> tuple[str, ...]:
        """All stop strings; empty ones, which would stop everything, count as none."""
        given = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        return tuple(stop for stop in given if stop)

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Sampled):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[tuple[Entry, ...], Field(min_length=1)]
    tools: tuple[Tool, ...] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """False: one call at most. [default: true]"""
    max_completion_tokens: _Count | None = None
    """The newer name of `max_tokens`. [default: what the context has room for]"""
    logprobs: bool | None = None
    top_logprobs: _Tops | None = None
    response_format: ResponseFormat | None = None
    metadata: Any = None
    """Without effect, as are those below."""
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None


class CompletionRequest(Sampled):
    """Body of `/v1/completions`."""

    prompt: (
        _Text
        | Annotated[tuple[_Text, ...], Field(min_length=1, max_length=MAX_CHOICES)]
        | _Ids
        | Annotated[tuple[_Ids, ...], Field(min_length=1, max_length=MAX_CHOICES)]
    )
    """Text, which is data (no tag in it is taken for a control token), or token ids; or several of either."""
    logprobs: _Tops | None = None
    best_of: _One | None = None
    """Only 1."""
    echo: _No | None = None
    """The prompt is not given back."""
    suffix: None = None
    """Nothing can come after the answer."""

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """All of them."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        is_ids = isinstance(self.prompt[0], int)
        return (self.prompt,) if is_ids else self.prompt  # type: ignore[return-value]  # told apart by its first part
