"""What every `Engine` keeps: one list of probes, run against each back end of `bench.BACKENDS`.

After each probe the bench closes the engines and finds all blocks returned, the tree intact and no thread left.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest

from engine.backends.bench import (
    EOS_ID,
    FIRST_BYTE_ID,
    VOCAB_SIZE,
    Bench,
    answer_to,
    around_steps,
    ask,
    engine_threads,
    until,
)
from kodkod_engine.api import Completion, Engine, FinishReason, SamplingParams, TokenStream, collect
from kodkod_engine.constraints.token_mask import TokenMask
from kodkod_engine.errors import EngineClosed, PromptTooLong, RequestError, TokenOutOfRange

PROMPT = tuple(range(30, 70))


def spelled(text: str) -> list[int]:
    """The byte tokenizer's ids of a text."""
    return [FIRST_BYTE_ID + byte for byte in text.encode()]


def prompts(count: int, num_tokens: int = 12) -> list[tuple[int, ...]]:
    """Prompts that differ from their first token on."""
    return [tuple((31 * index + 7 * place) % VOCAB_SIZE for place in range(num_tokens)) for index in range(count)]


def assert_one_line(text: str | None) -> None:
    assert text
    assert "\n" not in text


class Gate:
    """Lets the engine thread take one step at a time."""

    def __init__(self, engine) -> None:
        self._permits = threading.Semaphore(0)
        around_steps(engine, before=self._permits.acquire)

    def open(self, num_steps: int = 1) -> None:
        self._permits.release(num_steps)


# --- what a stream is made of ---------------------------------------------------------------------------------------


async def test_it_is_an_engine_and_its_streams_are_streams(bench: Bench):
    engine = bench.make()
    assert isinstance(engine, Engine)
    assert (engine.vocab_size, engine.max_context_tokens) == (VOCAB_SIZE, 4_096)
    stream = engine.generate(ask(PROMPT))
    assert isinstance(stream, TokenStream)
    assert stream.id != engine.generate(ask(PROMPT)).id


async def test_the_last_chunk_alone_has_a_reason_and_the_usage(bench: Bench):
    chunks = [chunk async for chunk in bench.make().generate(ask(PROMPT, 9))]
    *earlier, last = chunks
    assert all((chunk.finish_reason, chunk.usage, chunk.error) == (None, None, None) for chunk in earlier)
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage is not None
    assert last.error is None
    assert sum(len(chunk.token_ids) for chunk in chunks) == last.usage.generated_tokens == 9


async def test_a_stream_that_was_read_has_no_more(bench: Bench):
    stream = bench.make().generate(ask(PROMPT, 2))
    await collect(stream)
    assert [chunk async for chunk in stream] == []


async def test_the_text_is_what_the_ids_decode_to(bench: Bench):
    engine = bench.make()
    done = await answer_to(engine, PROMPT, 60)
    assert done.text == engine.tokenizer.decode(done.token_ids, skip_special=False)


async def test_no_chunk_holds_half_a_character(bench: Bench):
    text = "naïve 猫 🐈‍⬛ end"
    stream = bench.make().generate(ask(PROMPT, len(spelled(text)), answer=spelled(text)))
    texts = [chunk.text async for chunk in stream]
    assert "".join(texts) == text
    assert not any("\ufffd" in part for part in texts)


async def test_an_answer_cut_inside_a_character_ends_with_the_replacement_sign(bench: Bench):
    done = await answer_to(bench.make(), PROMPT, 4, answer=spelled("a猫")[:3] + spelled("b"))
    assert done.text == "a\ufffdb"
    done = await answer_to(bench.make(), PROMPT, 3, answer=spelled("a猫"))
    assert (done.text, done.finish_reason) == ("a\ufffd", FinishReason.LENGTH)


async def test_without_a_tokenizer_there_are_ids_alone(bench: Bench):
    engine = bench.make(with_tokenizer=False)
    done = await answer_to(engine, PROMPT, 5)
    assert (len(done.token_ids), done.text) == (5, "")
    with pytest.raises(RequestError, match="tokenizer"):
        engine.generate(ask(PROMPT, stop_strings=("x",)))


# --- where an answer ends -------------------------------------------------------------------------------------------


async def test_max_tokens_are_the_length(bench: Bench):
    engine = bench.make()
    for max_tokens in (1, 2, 17):
        done = await answer_to(engine, PROMPT, max_tokens)
        assert (len(done.token_ids), done.finish_reason) == (max_tokens, FinishReason.LENGTH)


async def test_a_stop_id_ends_the_answer_and_is_no_text(bench: Bench):
    engine = bench.make()
    free = await answer_to(engine, PROMPT, 20)
    stop_id = free.token_ids[7]
    end = free.token_ids.index(stop_id) + 1
    done = await answer_to(engine, PROMPT, 20, stop_ids=frozenset({stop_id}))
    assert (done.token_ids, done.finish_reason) == (free.token_ids[:end], FinishReason.STOP)
    assert done.text == engine.tokenizer.decode(free.token_ids[: end - 1], skip_special=False)


async def test_eos_ends_the_answer_unless_it_is_to_be_ignored(bench: Bench):
    engine = bench.make()
    answer = [*spelled("ab"), EOS_ID, *spelled("cd")]
    done = await answer_to(engine, PROMPT, 5, answer=answer, ignore_eos=False)
    assert (done.token_ids, done.text, done.finish_reason) == (tuple(answer[:3]), "ab", FinishReason.STOP)
    done = await answer_to(engine, PROMPT, 5, answer=answer)
    assert (done.token_ids, done.finish_reason) == (tuple(answer), FinishReason.LENGTH)
    done = await answer_to(engine, PROMPT, 5, answer=answer, stop_ids=frozenset({EOS_ID}))
    assert (done.token_ids, done.finish_reason) == (tuple(answer[:3]), FinishReason.STOP)


async def test_eos_as_the_last_token_allowed_is_a_stop(bench: Bench):
    done = await answer_to(bench.make(), PROMPT, 3, answer=[*spelled("ab"), EOS_ID], ignore_eos=False)
    assert done.finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("said", "stops", "text", "num_ids"),
    [
        ("say STO, STOP and more", ("STOP",), "say STO, ", 13),
        ("one</a>two</b>", ("</b>", "</a>"), "one", 7),
        ("ab猫cd", ("猫",), "ab", 5),
        ("STOP", ("STOP",), "", 4),
        ("aab", ("aaab", "ab"), "a", 3),
    ],
)
async def test_a_stop_string_over_several_tokens_ends_the_answer(bench: Bench, said, stops, text, num_ids):
    stream = bench.make().generate(ask(PROMPT, 40, answer=spelled(said), stop_strings=stops))
    done = await collect(stream)
    assert (done.text, done.finish_reason) == (text, FinishReason.STOP)
    assert done.token_ids == tuple(spelled(said)[:num_ids])


async def test_no_beginning_of_a_stop_string_is_shown_before_it_is_refuted(bench: Bench):
    stream = bench.make().generate(ask(PROMPT, 7, answer=spelled("a STOX "), stop_strings=("STOP",)))
    texts = [chunk.text async for chunk in stream]
    assert texts == ["a", " ", "", "", "", "STOX", " ", ""]


async def test_text_held_back_for_a_stop_string_comes_with_the_end(bench: Bench):
    done = await answer_to(bench.make(), PROMPT, 6, answer=spelled("ab STO"), stop_strings=("STOP",))
    assert (done.text, done.finish_reason) == ("ab STO", FinishReason.LENGTH)


async def test_a_full_context_is_the_length(bench: Bench):
    engine = bench.make(max_context_tokens=64)
    assert engine.max_context_tokens == 64
    done = await answer_to(engine, PROMPT, 1_000)
    assert (len(done.token_ids), done.finish_reason) == (64 - len(PROMPT), FinishReason.LENGTH)
    assert len((await answer_to(engine, PROMPT[:1] * 63, 1_000)).token_ids) == 1


async def test_a_full_cache_is_the_length_as_well(bench: Bench):
    engine = bench.make(max_cached_tokens=60, block_size=4)
    assert engine.max_context_tokens == 60
    done = await answer_to(engine, PROMPT, 1_000)
    assert (len(done.token_ids), done.finish_reason, done.error) == (20, FinishReason.LENGTH, None)


# --- cancelling -----------------------------------------------------------------------------------------------------


async def test_cancelled_before_it_starts(bench: Bench):
    engine = bench.make(max_running=1)
    gate = Gate(engine)
    first, second = engine.generate(ask(PROMPT, 3)), engine.generate(ask(PROMPT, 3))
    second.cancel()
    gate.open(3)
    done = await collect(second)
    assert (done.token_ids, done.finish_reason) == ((), FinishReason.CANCELLED)
    assert (done.usage.prompt_tokens, done.usage.generated_tokens) == (len(PROMPT), 0)
    assert (await collect(first)).finish_reason is FinishReason.LENGTH


async def test_cancelled_at_once(bench: Bench):
    stream = bench.make(pace_s=0.002).generate(ask(PROMPT, 2_000))
    stream.cancel()
    assert (await collect(stream)).finish_reason is FinishReason.CANCELLED


async def test_cancelled_in_the_middle_the_blocks_are_free_within_one_step(bench: Bench):
    engine = bench.make(steps_per_visit=1)  # within one visit else: core/test_visits.py
    gate = Gate(engine)
    stream = engine.generate(ask(PROMPT, 2_000))
    gate.open(3)
    await until(lambda: engine.stats().steps == 3)
    assert engine.stats().running == 1
    stream.cancel()
    gate.open(1)  # the step that the engine thread may be in already; nothing lets it begin another
    await until(lambda: engine.stats().running == 0)
    stats = engine.stats()
    assert stats.free_blocks + stats.cached_blocks == stats.total_blocks
    done = await collect(stream)
    assert done.finish_reason is FinishReason.CANCELLED
    assert len(done.token_ids) == done.usage.generated_tokens in (3, 4)
    gate.open(10)


async def test_cancelled_in_the_middle_of_a_long_prompt(bench: Bench):
    engine = bench.make(max_step_tokens=8, max_running=2)
    gate = Gate(engine)
    stream = engine.generate(ask(PROMPT * 5, 5))
    gate.open(2)
    await until(lambda: engine.stats().steps == 2)
    stream.cancel()
    gate.open(1)
    done = await collect(stream)
    assert (done.token_ids, done.finish_reason) == ((), FinishReason.CANCELLED)
    gate.open(100)
    again = await answer_to(engine, PROMPT * 5, 5)
    assert again.usage.reused_tokens in (16, 24)  # what was computed until then is a prefix like any other


async def test_cancelled_after_the_end_nothing_changes(bench: Bench):
    engine = bench.make()
    stream = engine.generate(ask(PROMPT, 3))
    await until(lambda: engine.stats().generated_tokens == 3)
    stream.cancel()
    stream.cancel()
    assert (await collect(stream)).finish_reason is FinishReason.LENGTH
    stream.cancel()
    assert (await answer_to(engine, PROMPT, 3)).finish_reason is FinishReason.LENGTH


async def test_cancelled_twice_and_from_other_threads_it_ends_once(bench: Bench):
    stream = bench.make(pace_s=0.002).generate(ask(PROMPT, 2_000))
    threads = [threading.Thread(target=stream.cancel) for _ in range(8)]
    reasons = []
    async for chunk in stream:
        if len(chunk.token_ids) and threads:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            threads.clear()
        reasons.append(chunk.finish_reason)
    assert reasons[-1] is FinishReason.CANCELLED
    assert set(reasons[:-1]) == {None}


async def read_some(stream: TokenStream, num_chunks: int) -> None:
    """Leave a stream by `break`: its iterator is closed as soon as nobody holds it."""
    async for _ in stream:
        num_chunks -= 1
        if not num_chunks:
            break


async def test_a_reader_that_leaves_cancels(bench: Bench):
    engine = bench.make(pace_s=0.002)
    await read_some(engine.generate(ask(PROMPT, 4_000)), 2)
    await until(lambda: engine.stats().running == 0)
    assert engine.stats().generated_tokens < 4_000


async def test_an_iterator_that_is_closed_cancels(bench: Bench):
    engine = bench.make(pace_s=0.002)
    stream = engine.generate(ask(PROMPT, 4_000))
    chunks = aiter(stream)
    await anext(chunks)
    await chunks.aclose()
    await until(lambda: engine.stats().running == 0)
    assert (await collect(stream)).finish_reason is FinishReason.CANCELLED


async def test_a_task_that_is_cancelled_cancels(bench: Bench):
    engine = bench.make(pace_s=0.002)
    task = asyncio.create_task(collect(engine.generate(ask(PROMPT, 4_000))))
    await until(lambda: engine.stats().generated_tokens >= 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: engine.stats().running == 0)


async def test_a_neighbour_that_is_cancelled_changes_nothing(bench: Bench):
    wanted = await answer_to(bench.make(), PROMPT, 40)
    engine = bench.make(pace_s=0.001)
    stream = engine.generate(ask(PROMPT, 40))
    neighbours = [engine.generate(ask(prompt, 2_000)) for prompt in prompts(3)]
    for neighbour in neighbours:
        await read_some(neighbour, 2)
    assert (await collect(stream)).token_ids == wanted.token_ids


# --- company --------------------------------------------------------------------------------------------------------


async def test_many_at_once_say_what_each_says_alone(bench: Bench):
    alone = bench.make()
    wanted = [(await answer_to(alone, prompt, 12)).token_ids for prompt in prompts(10)]
    engine = bench.make(max_running=3, max_step_tokens=16, block_size=4)
    done = await asyncio.gather(*(answer_to(engine, prompt, 12) for prompt in prompts(10)))
    assert [one.token_ids for one in done] == wanted


async def test_in_a_cache_too_small_for_all_they_wait_for_one_another(bench: Bench):
    alone = bench.make()
    wanted = [(await answer_to(alone, prompt, 50)).token_ids for prompt in prompts(4)]
    engine = bench.make(max_cached_tokens=96, block_size=4)
    done = await asyncio.gather(*(answer_to(engine, prompt, 50) for prompt in prompts(4)))
    assert [one.token_ids for one in done] == wanted
    assert {one.finish_reason for one in done} == {FinishReason.LENGTH}
    bench.audit()
    assert engine.stats().preemptions == sum(one.usage.preemptions for one in done) > 0


async def test_a_seed_draws_the_same_in_any_company(bench: Bench):
    drawing = {"temperature": 1.0, "top_p": 0.9, "seed": 11}
    wanted = await answer_to(bench.make(), PROMPT, 30, **drawing)
    engine = bench.make(max_step_tokens=8, max_running=4, block_size=4)
    others = [answer_to(engine, prompt, 20, temperature=1.3, seed=index) for index, prompt in enumerate(prompts(3))]
    done, *_ = await asyncio.gather(answer_to(engine, PROMPT, 30, **drawing), *others)
    assert done.token_ids == wanted.token_ids


async def test_requests_come_from_many_threads(bench: Bench):
    engine = bench.make(max_running=4)
    wanted = [(await answer_to(engine, prompt, 6)).token_ids for prompt in prompts(6)]
    answers: dict[int, Completion] = {}

    def work(index: int) -> None:
        answers[index] = asyncio.run(answer_to(engine, prompts(6)[index], 6))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert [answers[index].token_ids for index in range(6)] == wanted


# --- requests that cannot be served ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "prompt", "error"),
    [
        ({}, (), RequestError),
        ({}, (5, -1), TokenOutOfRange),
        ({}, (VOCAB_SIZE, 5), TokenOutOfRange),
        ({}, (5, 6.0), RequestError),
        ({"max_context_tokens": 64}, (5,) * 64, PromptTooLong),
        ({"max_context_tokens": 64}, (5,) * 400, PromptTooLong),
        ({"max_cached_tokens": 32}, (5,) * 32, PromptTooLong),
    ],
)
async def test_what_cannot_be_served_is_refused_at_once(bench: Bench, options, prompt, error):
    engine = bench.make(**options)
    with pytest.raises(error) as refusal:
        engine.generate(ask(prompt))
    assert_one_line(str(refusal.value))
    assert ";" in str(refusal.value), "a cause without a way out"
    assert (await answer_to(engine, (5, 6), 2)).finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("name", "value"), [("top_k", 2.5), ("seed", None), ("seed", "2"), ("max_tokens", 2.5), ("logprobs", 1.5)]
)
def test_what_is_counted_in_whole_numbers_is_given_so(name, value):
    """It would break a step, and with it the answers of all that are in it."""
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        SamplingParams(**{name: value})
    assert SamplingParams(**{name: np.int64(2)}) == SamplingParams(**{name: 2})


# --- constraints ----------------------------------------------------------------------------------------------------


class Recorder:
    """Allows some ids and remembers what it was asked."""

    def __init__(self, allowed) -> None:
        self.allowed = allowed
        self.asked: list[list[int]] = []

    def allowed_ids(self, generated_ids):
        self.asked.append(list(generated_ids))
        return self.allowed


async def test_a_constraint_is_asked_once_per_token_and_obeyed(bench: Bench):
    constraint = Recorder(frozenset({40, 50, 60}))
    done = await answer_to(bench.make(max_step_tokens=8, max_running=1), PROMPT, 6, constraint=constraint)
    assert set(done.token_ids) <= {40, 50, 60}
    assert constraint.asked == [list(done.token_ids[:count]) for count in range(6)]


async def test_a_constraint_is_obeyed_when_drawing(bench: Bench):
    done = await answer_to(bench.make(), PROMPT, 20, constraint=Recorder([7, 8]), temperature=2.0, seed=3)
    assert set(done.token_ids) <= {7, 8}


async def test_an_id_that_a_constraint_names_twice_is_one_id(bench: Bench):
    engine, fields = bench.make(), {"temperature": 2.0, "seed": 3}
    once = await answer_to(engine, PROMPT, 30, constraint=Recorder([7, 8]), **fields)
    twice = await answer_to(engine, PROMPT, 30, constraint=Recorder([8, 7, 7, 7, 7, 7]), **fields)
    assert twice.token_ids == once.token_ids
    forced = await answer_to(engine, PROMPT, 2, constraint=Recorder([7, 7]))
    assert (forced.usage.forced_tokens, forced.token_ids) == (2, (7, 7))


async def test_a_constraint_that_allows_all_changes_nothing(bench: Bench):
    engine = bench.make()
    free = await answer_to(engine, PROMPT, 8)
    for allowed in (None, range(VOCAB_SIZE), TokenMask.of(range(VOCAB_SIZE), VOCAB_SIZE)):
        done = await answer_to(engine, PROMPT, 8, constraint=Recorder(allowed))
        assert (done.token_ids, done.usage.constrained_tokens) == (free.token_ids, 0)


async def test_what_a_constraint_did_is_counted_and_disagreement_is_told(bench: Bench):
    engine = bench.make()
    free = await answer_to(engine, PROMPT, 4)
    assert (free.usage.constrained_tokens, free.usage.lowest_allowed_mass, free.doubts) == (0, 1.0, ())
    other = (free.token_ids[0] + 1) % VOCAB_SIZE
    told = await answer_to(engine, PROMPT, 4, answer=(other,), doubt_below=0.999)
    assert (told.usage.constrained_tokens, told.usage.forced_tokens, told.usage.doubted_tokens) == (1, 1, 1)
    [doubt] = told.doubts
    assert (doubt.index, doubt.token_id, doubt.wanted_id) == (0, other, free.token_ids[0])
    assert doubt.allowed_mass == told.usage.lowest_allowed_mass < 0.999
    silent = await answer_to(engine, PROMPT, 4, answer=(other,), doubt_below=0)
    assert (silent.usage.constrained_tokens, silent.usage.doubted_tokens, silent.doubts) == (1, 0, ())


@pytest.mark.parametrize("beyond", [VOCAB_SIZE, VOCAB_SIZE + 40])
async def test_a_mask_is_obeyed_and_checked(bench: Bench, beyond):
    mask = TokenMask.of({40, 50, 60}, VOCAB_SIZE)
    done = await answer_to(bench.make(), PROMPT, 6, constraint=Recorder(mask), temperature=2.0)
    assert set(done.token_ids) <= mask
    refused = await answer_to(bench.make(), PROMPT, 6, constraint=Recorder(TokenMask.of({4, beyond}, beyond + 1)))
    assert refused.finish_reason is FinishReason.ERROR


class Broken:
    """Fails when it is asked for the fourth token."""

    def __init__(self, fail) -> None:
        self.fail = fail

    def allowed_ids(self, generated_ids):
        return self.fail() if len(generated_ids) == 3 else None


def crash():
    raise RuntimeError("the grammar\n  is broken")


@pytest.mark.parametrize(
    "fail",
    [crash, list, lambda: [5, VOCAB_SIZE], lambda: [5, -1], lambda: ["a"], lambda: [5, 6.5], lambda: 7],
    ids=["raises", "nothing", "beyond", "negative", "no ids", "no whole ids", "no collection"],
)
async def test_a_constraint_that_fails_ends_its_own_request_alone(bench: Bench, fail):
    engine = bench.make(pace_s=0.001)
    neighbour = engine.generate(ask(PROMPT, 12))
    done = await answer_to(engine, PROMPT[::-1], 12, constraint=Broken(fail))
    assert (len(done.token_ids), done.finish_reason) == (3, FinishReason.ERROR)
    assert_one_line(done.error)
    assert "constraint" in done.error
    assert (await collect(neighbour)).token_ids == (await answer_to(engine, PROMPT, 12)).token_ids


# --- faults ---------------------------------------------------------------------------------------------------------


async def test_a_step_that_fails_is_told_to_every_reader_and_the_engine_goes_on(bench: Bench):
    wanted = await answer_to(bench.make(), PROMPT, 10)
    engine = bench.make(max_running=2)
    faults = iter([None, None, RuntimeError("out of memory:\n  tried 3 GiB")])

    def fail_once() -> None:
        fault = next(faults, None)
        if fault is not None:
            raise fault

    around_steps(engine, before=fail_once)
    streams = [engine.generate(ask(prompt, 10)) for prompt in (PROMPT, PROMPT[::-1], PROMPT)]
    done = [await collect(stream) for stream in streams]
    failed = [one for one in done if one.finish_reason is FinishReason.ERROR]
    assert failed
    for one in failed:
        assert_one_line(one.error)
        assert "out of memory: tried 3 GiB" in one.error
    assert all(one.token_ids == wanted.token_ids for one in done[2:] if one not in failed)
    again = await answer_to(engine, PROMPT, 10)
    assert (again.token_ids, again.finish_reason) == (wanted.token_ids, FinishReason.LENGTH)


async def test_after_a_failed_step_no_prefix_is_trusted(bench: Bench):
    engine = bench.make()
    await answer_to(engine, PROMPT, 4)
    around_steps(engine, before=crash)
    assert (await answer_to(engine, PROMPT, 4)).finish_reason is FinishReason.ERROR
    await until(lambda: engine.stats().cached_blocks == 0)
    assert engine.stats().free_blocks == engine.stats().total_blocks


async def test_when_every_step_fails_everyone_is_told(bench: Bench):
    engine = bench.make(max_running=2)
    around_steps(engine, before=crash)
    done = await asyncio.gather(*(answer_to(engine, prompt, 10) for prompt in prompts(6)))
    assert {one.finish_reason for one in done} == {FinishReason.ERROR}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_when_the_engine_thread_dies_everyone_is_told(bench: Bench):
    engine = bench.make(max_running=1)
    gate = Gate(engine)
    streams = [engine.generate(ask(prompt, 10)) for prompt in prompts(3)]
    around_steps(engine, before=sys.exit)
    gate.open(2)
    for stream in streams:
        done = await collect(stream)
        assert done.finish_reason is FinishReason.ERROR
        assert_one_line(done.error)
    await until(lambda: not engine_threads())
    with pytest.raises(EngineClosed, match="died") as refusal:
        engine.generate(ask(PROMPT))
    assert isinstance(refusal.value.__cause__, SystemExit)
    assert engine.stats().fault == str(refusal.value)


# --- closing --------------------------------------------------------------------------------------------------------


async def test_closing_cancels_what_runs_and_what_waits(bench: Bench):
    engine = bench.make(max_running=2, pace_s=0.002)
    tasks = [asyncio.create_task(answer_to(engine, prompt, 3_000)) for prompt in prompts(4)]
    await until(lambda: engine.stats().generated_tokens >= 4)
    engine.close()
    assert not engine_threads()
    done = await asyncio.gather(*tasks)
    assert {one.finish_reason for one in done} == {FinishReason.CANCELLED}
    assert [one.usage.generated_tokens for one in done] == [len(one.token_ids) for one in done]


async def test_closing_twice_and_at_the_same_time(bench: Bench):
    engine = bench.make()
    stream = engine.generate(ask(PROMPT, 3_000))
    threads = [threading.Thread(target=engine.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    stream.cancel()
    assert (await collect(stream)).finish_reason is FinishReason.CANCELLED


async def test_after_closing_nothing_is_taken(bench: Bench):
    engine = bench.make()
    engine.close()
    with pytest.raises(EngineClosed) as refusal:
        engine.generate(ask(PROMPT))
    assert_one_line(str(refusal.value))
    assert engine.stats().running == 0


async def test_an_engine_may_be_closed_from_its_own_thread(bench: Bench):
    engine = bench.make()
    closing = Broken(engine.close)
    assert (await answer_to(engine, PROMPT, 50, constraint=closing)).finish_reason is FinishReason.CANCELLED
    await until(lambda: not engine_threads())


# --- what it cost ---------------------------------------------------------------------------------------------------


async def test_usage_counts_tokens_and_seconds(bench: Bench):
    engine = bench.make()
    for reused_tokens in (0, len(PROMPT) - 1):  # the last token is always computed, for its logits
        usage = (await answer_to(engine, PROMPT, 5)).usage
        assert (usage.prompt_tokens, usage.generated_tokens) == (len(PROMPT), 5)
        assert (usage.reused_tokens, usage.computed_tokens) == (reused_tokens, len(PROMPT) - reused_tokens)
        assert (usage.drafted_tokens, usage.accepted_tokens, usage.preemptions) == (0, 0, 0)
        assert min(usage.queue_s, usage.prefill_s, usage.decode_s) >= 0
        assert usage.prefill_s + usage.decode_s > 0


@pytest.mark.parametrize("block_size", [1, 16, 48])
async def test_twenty_new_tokens_on_a_prefix_of_two_thousand_cost_twenty(bench: Bench, block_size):
    engine = bench.make(block_size=block_size)
    prefix = [(index * 13) % 300 for index in range(2_000)]
    await answer_to(engine, prefix, 1)
    turn = await answer_to(engine, prefix + list(range(100, 120)), 1)
    assert (turn.usage.prompt_tokens, turn.usage.computed_tokens) == (2_020, 20)


async def test_a_second_turn_costs_its_new_tokens_and_the_last_generated_one(bench: Bench):
    engine = bench.make()
    first = await answer_to(engine, PROMPT, 30)
    turn = await answer_to(engine, (*PROMPT, *first.token_ids, 5, 6, 7), 1)
    assert turn.usage.computed_tokens == 3 + 1


async def test_stats_add_up(bench: Bench):
    engine = bench.make(max_running=2, block_size=8)
    done = await asyncio.gather(*(answer_to(engine, PROMPT[:count], 4) for count in (40, 40, 17, 3)))
    engine.close()
    stats = engine.stats()
    assert stats.prompt_tokens == sum(one.usage.prompt_tokens for one in done) == 100
    assert stats.reused_tokens == sum(one.usage.reused_tokens for one in done) > 0
    assert stats.generated_tokens == sum(one.usage.generated_tokens for one in done) == 16
    assert 8 <= stats.steps <= 16
    assert (stats.total_blocks, stats.preemptions) == (bench.num_blocks(8), 0)


async def test_stats_show_who_runs_and_who_waits(bench: Bench):
    engine = bench.make(max_running=2, block_size=8)
    gate = Gate(engine)
    streams = [engine.generate(ask(prompt, 50)) for prompt in prompts(5)]
    gate.open(4)
    await until(lambda: engine.stats().steps == 4)
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (2, 3)
    assert stats.free_blocks < stats.total_blocks
    for stream in streams:
        stream.cancel()
    gate.open(1)
    await until(lambda: (engine.stats().running, engine.stats().waiting) == (0, 0))
    gate.open(5)


# --- log-probabilities ----------------------------------------------------------------------------------------------


async def test_logprobs_come_one_per_token_when_asked_for(bench: Bench):
    engine = bench.make()
    assert (await answer_to(engine, PROMPT, 4)).logprobs == ()
    for num_top in (0, 1, 5):
        done = await answer_to(engine, PROMPT, 4, logprobs=num_top)
        assert [entry.token_id for entry in done.logprobs] == list(done.token_ids)
        for entry in done.logprobs:
            assert entry.logprob <= 0
            assert len(entry.top) <= num_top
            assert all(left[1] >= right[1] for left, right in pairwise(entry.top))
            assert not entry.top or entry.top[0] == (entry.token_id, entry.logprob)  # greedy takes the best


# --- forks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 7, 16])
async def test_a_fork_of_a_live_stream_shares_to_the_token(bench: Bench, block_size):
    engine = bench.make(block_size=block_size)
    gate = Gate(engine)
    parent = engine.generate(ask(PROMPT, 500))
    chunks = aiter(parent)
    gate.open(13)
    said: list[int] = []
    while len(said) < 13:
        said += (await anext(chunks)).token_ids
    other = (said[8] + 1) % VOCAB_SIZE
    fork_prompt = (*PROMPT, *said[:8], other, 5)
    fork = engine.generate(ask(fork_prompt, 6, parent_id=parent.id))
    gate.open(1_000)
    done = await collect(fork)
    assert done.usage.reused_tokens == len(PROMPT) + 8
    parent.cancel()
    await chunks.aclose()
    assert done.token_ids == (await answer_to(bench.make(), fork_prompt, 6)).token_ids


async def test_a_fork_of_a_finished_stream_shares_to_the_token(bench: Bench):
    engine = bench.make(block_size=16)
    parent = engine.generate(ask(PROMPT, 20))
    said = (await collect(parent)).token_ids
    fork_prompt = (*PROMPT, *said[:9], (said[9] + 1) % VOCAB_SIZE)
    done = await answer_to(engine, fork_prompt, 6, parent_id=parent.id)
    assert done.usage.computed_tokens == 1
    assert done.token_ids == (await answer_to(bench.make(), fork_prompt, 6)).token_ids


async def test_branches_of_one_prompt_do_not_disturb_one_another(bench: Bench):
    drawing = [{"temperature": 1.0, "seed": seed} for seed in range(5)]
    alone = bench.make()
    wanted = [(await answer_to(alone, PROMPT, 15, **one)).token_ids for one in drawing]
    engine = bench.make(block_size=16)
    parent = engine.generate(ask(PROMPT, 15))
    branches = [answer_to(engine, PROMPT, 15, parent_id=parent.id, **one) for one in drawing]
    assert [one.token_ids for one in await asyncio.gather(*branches)] == wanted


async def test_an_unknown_parent_costs_time_alone(bench: Bench):
    engine = bench.make()
    done = await answer_to(engine, PROMPT, 3, parent_id="stream-of-yesterday")
    assert (done.finish_reason, done.usage.reused_tokens) == (FinishReason.LENGTH, 0)
