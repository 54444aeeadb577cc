"""One answer as it grows: text, stop conditions, the last chunk."""

from __future__ import annotations

from collections.abc import Sequence as Ids

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.api import Completion, FinishReason, GenerationRequest, SamplingParams, TokenLogprob, collect
from kodkod_engine.core import answer
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.core.step import ChosenToken
from kodkod_engine.core.stream import ThreadedStream

PROMPT = (5, 6, 7)


class Speaker:
    """An answer that is told tokens one by one, as the engine's loop tells them."""

    def __init__(self, tokenizer, *, eos_id: int = 2, **sampling) -> None:
        request = GenerationRequest(PROMPT, SamplingParams(**sampling))
        self.stream = ThreadedStream("s", lambda _: None)
        self.answer = Answer(request, self.stream, eos_id, tokenizer)
        self.sequence = Sequence("s", list(PROMPT), len(PROMPT), 1_000, reused_tokens=1, preemptions=2)

    def say(self, ids: Ids[int], *, is_full: bool = False) -> FinishReason | None:
        """Tokens until a reason comes."""
        for token_id in ids:
            _, reason = self.answer.take([ChosenToken(token_id)], room=1 if is_full else 1_000)
            if reason is not None:
                return reason
        return None

    async def end(self, reason: FinishReason, error: str | None = None) -> Completion:
        self.answer.end(reason, self.sequence, error)
        return await collect(self.stream)


async def test_it_ends_for_a_stop_id_and_that_is_no_text(tokenizer):
    speaker = Speaker(tokenizer, stop_ids=frozenset({9}), ignore_eos=True)
    hi = tokenizer.encode_text("hi")
    assert speaker.say([*hi, 2]) is None
    assert speaker.say([9]) is FinishReason.STOP
    done = await speaker.end(FinishReason.STOP)
    assert (done.token_ids, done.text) == ((*hi, 2, 9), "hi</longcat_s>")


async def test_the_end_of_sequence_is_a_stop_id_unless_ignored(tokenizer):
    assert Speaker(tokenizer).say([2]) is FinishReason.STOP
    assert Speaker(tokenizer, ignore_eos=True).say([2]) is None
    assert Speaker(tokenizer, eos_id=4).say([2]) is None


@pytest.mark.parametrize("max_tokens", [1, 3])
async def test_it_ends_at_max_tokens(tokenizer, max_tokens):
    speaker = Speaker(tokenizer, max_tokens=max_tokens)
    assert speaker.say([50] * (max_tokens - 1)) is None
    assert speaker.say([50]) is FinishReason.LENGTH


async def test_it_ends_when_the_sequence_is_full(tokenizer):
    assert Speaker(tokenizer).say([50], is_full=True) is FinishReason.LENGTH


async def test_a_stop_that_comes_with_the_last_token_counts(tokenizer):
    assert Speaker(tokenizer, max_tokens=1).say([2], is_full=True) is FinishReason.STOP
    speaker = Speaker(tokenizer, max_tokens=1, stop_strings=("x",))
    assert speaker.say(tokenizer.encode_text("x")) is FinishReason.STOP


async def test_the_last_chunk_brings_what_was_held_back(tokenizer):
    speaker = Speaker(tokenizer, stop_strings=("STOP",))
    speaker.say(tokenizer.encode_text("a ST"))
    speaker.say(tokenizer.encode_text("é")[:1])
    assert (await speaker.end(FinishReason.CANCELLED)).text == "a ST\ufffd"


async def test_without_a_tokenizer_there_is_no_text():
    speaker = Speaker(None)
    speaker.say([50, 60])
    assert (await speaker.end(FinishReason.LENGTH)).text == ""


async def test_logprobs_travel_with_their_token(tokenizer):
    speaker = Speaker(tokenizer)
    entries = [TokenLogprob(50, -1.0), TokenLogprob(60, -2.0)]
    for entry in entries:
        speaker.answer.take([ChosenToken(entry.token_id, entry)], room=1_000)
    assert (await speaker.end(FinishReason.LENGTH)).logprobs == tuple(entries)


async def test_the_last_chunk_says_why_and_what_it_cost(tokenizer):
    speaker = Speaker(tokenizer)
    speaker.say([50, 60])
    done = await speaker.end(FinishReason.ERROR, "the cause; the way out")
    assert (done.finish_reason, done.error) == (FinishReason.ERROR, "the cause; the way out")
    usage = done.usage
    assert (usage.prompt_tokens, usage.reused_tokens, usage.generated_tokens, usage.preemptions) == (3, 1, 2, 2)


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 5.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    """The answer's own."""
    clock = Clock()
    monkeypatch.setattr(answer, "time", clock)
    return clock


async def test_seconds_are_told_apart(tokenizer, clock):
    speaker = Speaker(tokenizer)
    clock.now_s += 2.0
    speaker.answer.began(clock.now_s)
    clock.now_s += 4.0
    speaker.answer.began(clock.now_s)  # a later step, after a preemption perhaps: queueing is over
    speaker.say([50])
    clock.now_s += 8.0
    usage = (await speaker.end(FinishReason.LENGTH)).usage
    assert (usage.queue_s, usage.prefill_s, usage.decode_s) == (2.0, 4.0, 8.0)


async def test_a_request_that_never_ran_only_queued(tokenizer, clock):
    speaker = Speaker(tokenizer)
    clock.now_s += 2.0
    usage = (await speaker.end(FinishReason.CANCELLED)).usage
    assert (usage.queue_s, usage.prefill_s, usage.decode_s) == (2.0, 0, 0)


def test_the_first_step_is_first_once(tokenizer):
    answer = Speaker(tokenizer).answer
    assert [answer.is_first_step() for _ in range(3)] == [True, False, False]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(alphabet="abé猫", max_size=30), st.lists(st.text(alphabet="abé猫", min_size=1, max_size=4), max_size=3))
async def test_the_text_ends_before_the_first_stop_string(tokenizer, said, stops):
    speaker = Speaker(tokenizer, stop_strings=tuple(stops))
    reason = speaker.say(tokenizer.encode_text(said))
    done = await speaker.end(reason or FinishReason.LENGTH)
    ends = [(said.find(stop) + len(stop), said.find(stop)) for stop in stops if stop in said]
    assert (reason is FinishReason.STOP) == bool(ends)
    assert done.text == (said[: min(ends)[1]] if ends else said)
