"""The engine contract: token ids in, token ids out.

Every back end (`native`, `vllm`, `scripted`) implements `Engine`, and passes the same conformance suite.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from numbers import Integral
from typing import Protocol, runtime_checkable


class FinishReason(StrEnum):
    """Why a stream ended. Exactly one per stream, on its last chunk."""

    STOP = "stop"
    """The model ended its turn, or a stop id or stop string was met."""
    LENGTH = "length"
    """`max_tokens` were generated, or the context is full."""
    CANCELLED = "cancelled"
    """`TokenStream.cancel()` was called, or the engine was closed."""
    ERROR = "error"
    """The engine failed on this request; `TokenChunk.error` says why."""


class Speculation(StrEnum):
    """How tokens are guessed ahead of the model. It verifies every guess: only the time of an answer depends on it."""

    AUTO = "auto"
    """Of all drafters that this model has, whichever is expected to be quickest at each step, or none."""
    NONE = "none"
    """One token per step."""
    SUFFIX = "suffix"
    """Copies what followed the last tokens elsewhere: in the prompt, the answer, the draft sources, earlier answers."""
    MTP = "mtp"
    """The model's draft block."""
    NGRAM_HEAD = "ngram_head"
    """A small head on the N-gram embedding, where the checkpoint has one."""


class Constraint(Protocol):
    """What the next token may be. Called on the engine thread, for each token that is generated or drafted."""

    def allowed_ids(self, generated_ids: Sequence[int]) -> Collection[int] | None:
        """Ids that may follow `generated_ids`; None when anything may.

        Pure: the same ids always give the same answer, so it can be asked along a draft. Large sets are best given as
        a `constraints.token_mask.TokenMask`, which is applied in one operation. A set of one id is a *forced* token.
        """
        ...


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. The defaults are greedy.

    Filters apply in the order temperature, top-k, top-p, min-p, as vLLM and transformers do.
    """

    temperature: float = 0.0
    """0 takes the most probable token; the filters below then have no effect."""
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose mass reaches p."""
    min_p: float = 0.0
    """Drop tokens less probable than min_p times the most probable one."""
    seed: int = 0
    """Draws depend on the seed and the position alone, never on what else is in the batch."""
    max_tokens: int = 256
    stop_ids: frozenset[int] = frozenset()
    """Besides the model's end-of-sequence id."""
    stop_strings: tuple[str, ...] = ()
    """Generation ends when one appears; neither it nor what follows is emitted as text."""
    ignore_eos: bool = False
    """Go on past the end-of-sequence id (benchmarks)."""
    logprobs: int | None = None
    """None: no log-probabilities. n: those of the chosen token and of the n most probable."""
    doubt_below: float = 0.1
    """Report a token as a `Doubt` where the model gave all that the constraint allows less than this; 0: never."""

    def __post_init__(self) -> None:
        for name in ("top_k", "seed", "max_tokens", "logprobs"):
            value = getattr(self, name)
            if not isinstance(value, Integral) and (name, value) != ("logprobs", None):
                raise ValueError(f"{name} must be a whole number, not {value!r}")
        checks = (
            (self.temperature >= 0, f"temperature must be >= 0, not {self.temperature}"),
            (self.top_k >= 0, f"top_k must be >= 0, not {self.top_k}"),
            (0 < self.top_p <= 1, f"top_p must be in (0, 1], not {self.top_p}"),
            (0 <= self.min_p <= 1, f"min_p must be in [0, 1], not {self.min_p}"),
            (self.max_tokens >= 1, f"max_tokens must be >= 1, not {self.max_tokens}"),
            (self.logprobs is None or self.logprobs >= 0, f"logprobs must be >= 0, not {self.logprobs}"),
            (0 <= self.doubt_below <= 1, f"doubt_below must be in [0, 1], not {self.doubt_below}"),
            (all(self.stop_strings), "a stop string must not be empty"),
        )
        for holds, message in checks:
            if not holds:
                raise ValueError(message)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One piece of work: the whole prompt as ids, and how to continue it."""

    token_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    constraint: Constraint | None = None
    parent_id: str | None = None
    """The stream (live or finished) this one continues or forks from. What their ids have in common is shared
    copy-on-write, to the token. Only a hint: the ids are the truth, and a parent that is gone costs time alone."""
    draft_sources: tuple[tuple[int, ...], ...] = ()
    """Ids the answer may repeat, such as open files; what the prompt says is a source anyway."""
    speculation: Speculation | None = None
    """None: as the engine is set up."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one generated token under the unfiltered distribution at temperature 1.

    With a constraint: under that distribution over the ids it allows, which together have probability 1.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability), most probable first; fewer than asked for where a constraint allows fewer."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A token at which the model wanted something else than its constraint allows."""

    index: int
    """Of the token, among those generated."""
    token_id: int
    """What was taken."""
    wanted_id: int
    """What the model held most probable of all."""
    allowed_mass: float
    """The probability it gave to all that was allowed, at temperature 1."""


@dataclass(frozen=True, slots=True)
class DraftUsage:
    """What one drafter did for one request. Token counts."""

    drafter: str
    drafted_tokens: int = 0
    """Verified by the model."""
    accepted_tokens: int = 0
    """Of these, confirmed and emitted."""
    fault: str | None = None
    """Why the drafter was switched off for the request, if it failed; one line."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost. Token counts; seconds on the wall clock."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    """Prompt tokens whose KV was already there; prompt_tokens - reused_tokens were computed."""
    generated_tokens: int = 0
    drafts: tuple[DraftUsage, ...] = ()
    """One per drafter that drafted, or failed."""
    constrained_tokens: int = 0
    """Generated tokens for which the request's constraint left out something."""
    forced_tokens: int = 0
    """Those of them for which it left one id alone."""
    doubted_tokens: int = 0
    """Those of them that were reported as a `Doubt`."""
    lowest_allowed_mass: float = 1.0
    """The least probability that the model gave, for any token, to all that was allowed."""
    preemptions: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    plain_decode_s: float = 0.0
    """What `decode_s` would have been without drafts, by the step times measured in this engine."""

    @property
    def drafted_tokens(self) -> int:
        """Of all drafters."""
        return sum(draft.drafted_tokens for draft in self.drafts)

    @property
    def accepted_tokens(self) -> int:
        """Drafted tokens that the model confirmed."""
        return sum(draft.accepted_tokens for draft in self.drafts)

    @property
    def speed_up(self) -> float:
        """Of decoding, against plain decoding measured on the spot; 1 when nothing was drafted."""
        return self.plain_decode_s / self.decode_s if self.drafted_tokens and self.decode_s else 1.0

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that had to be computed."""
        return self.prompt_tokens - self.reused_tokens


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """New tokens of one stream. The last chunk alone carries `finish_reason` and `usage`."""

    token_ids: tuple[int, ...] = ()
    text: str = ""
    """What became readable with these tokens; never half a character. Empty when the engine has no tokenizer."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One per token id when the request asked for them."""
    doubts: tuple[Doubt, ...] = ()
    """Those of these tokens at which constraint and model disagreed."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: str | None = None
    """One line, with finish reason `error` alone."""


@runtime_checkable
class TokenStream(Protocol):
    """The tokens of one request, in order. Ends after the one chunk that has a finish reason."""

    @property
    def id(self) -> str:
        """Name of the stream; a later request may give it as `parent_id`."""
        ...

    def __aiter__(self) -> AsyncIterator[TokenChunk]:
        """Chunks as they come. A stream is read once."""
        ...

    def cancel(self) -> None:
        """Ask the engine to stop; safe from any thread, at any time, more than once.

        The blocks are free within one step, and the stream ends with `FinishReason.CANCELLED` unless it had
        ended already.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the engine: counts at this moment, totals since the start."""

    running: int = 0
    waiting: int = 0
    free_blocks: int = 0
    total_blocks: int = 0
    cached_blocks: int = 0
    """Blocks that hold a prefix nobody runs; they are evicted when needed."""
    steps: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    restored_tokens: int = 0
    """Of prompts, read back from disk; they count among the reused ones."""
    generated_tokens: int = 0
    preemptions: int = 0
    fault: str = ""
    """Why it takes no requests any more and has to be loaded again; empty while it does."""


@runtime_checkable
class Engine(Protocol):
    """A model that continues token ids. Methods are safe to call from any thread."""

    @property
    def vocab_size(self) -> int:
        """Ids are in [0, vocab_size)."""
        ...

    @property
    def max_context_tokens(self) -> int:
        """Prompt and answer together may not be longer."""
        ...

    def generate(self, request: GenerationRequest) -> TokenStream:
        """Queue a request and return its stream at once.

        Raises:
            TokenOutOfRange: an id outside the vocabulary.
            PromptTooLong: no room for the prompt and one token.
            RequestError: an empty prompt.
            EngineClosed: after `close()`, or when the engine thread died.
        """
        ...

    def stats(self) -> EngineStats:
        """Counts of this moment."""
        ...

    def close(self) -> None:
        """Cancel every stream, stop the engine thread, free the memory. May be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class Completion:
    """A stream read to its end."""

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason
    usage: Usage
    error: str | None = None
    doubts: tuple[Doubt, ...] = ()


async def collect(stream: TokenStream) -> Completion:
    """Read a stream to its end."""
    chunks = [chunk async for chunk in stream]
    last = chunks[-1]
    assert last.finish_reason is not None
    assert last.usage is not None
    return Completion(
        token_ids=tuple(token_id for chunk in chunks for token_id in chunk.token_ids),
        text="".join(chunk.text for chunk in chunks),
        logprobs=tuple(entry for chunk in chunks for entry in chunk.logprobs),
        finish_reason=last.finish_reason,
        usage=last.usage,
        error=last.error,
        doubts=tuple(doubt for chunk in chunks for doubt in chunk.doubts),
    )
