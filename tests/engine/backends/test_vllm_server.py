"""The engine contract kept against a server that speaks as `vllm serve` does."""

from __future__ import annotations

import asyncio
import socket
import threading
from itertools import pairwise

import numpy as np
import pytest

from engine.backends.bench import EOS_ID, Dictation, Rule, ask, engine_threads, until
from engine.backends.fake_vllm_server import VOCAB_SIZE, FakeServer, logprobs_after, serving
from kodkod_engine.api import Engine, FinishReason, TokenStream, collect
from kodkod_engine.backends.vllm_config import VllmConfig
from kodkod_engine.backends.vllm_server import connect
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.errors import EngineClosed, PromptTooLong, RequestError, ServerUnreachable, TokenOutOfRange

PROMPT = tuple(range(30, 70))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_byte_tokenizer(folder)
    (folder / "config.json").write_text(f'{{"vocab_size": {VOCAB_SIZE}}}')
    return folder


@pytest.fixture
def server(folder):
    with serving(FakeServer(folder)) as server:
        yield server


@pytest.fixture
def engine(server):
    engine = connect(server.url, VllmConfig())
    yield engine
    engine.close()
    assert not engine_threads()
    assert engine.stats().running == 0


async def answer_to(engine, prompt=PROMPT, max_tokens=16, **fields):
    return await collect(engine.generate(ask(prompt, max_tokens, **fields)))


def greedy(prompt, count, allowed=None):
    """What the model says by itself, or under a constraint that is kept at every step."""
    ids = list(prompt)
    for _ in range(count):
        values = logprobs_after(ids)
        found = None if allowed is None else allowed(ids[len(prompt) :])
        ids.append(int(values.argmax()) if found is None else max(found, key=lambda one: values[one]))
    return tuple(ids[len(prompt) :])


# --- tokens ---------------------------------------------------------------------------------------------------------


async def test_it_is_an_engine_and_says_what_the_model_says(engine):
    assert isinstance(engine, Engine)
    assert (engine.vocab_size, engine.max_context_tokens) == (VOCAB_SIZE, 4_096)
    stream = engine.generate(ask(PROMPT, 9))
    assert isinstance(stream, TokenStream)
    chunks = [chunk async for chunk in stream]
    *earlier, last = chunks
    assert all((one.finish_reason, one.usage, one.error) == (None, None, None) for one in earlier)
    assert (last.finish_reason, last.error) == (FinishReason.LENGTH, None)
    ids = tuple(token_id for chunk in chunks for token_id in chunk.token_ids)
    assert ids == greedy(PROMPT, 9)
    assert "".join(chunk.text for chunk in chunks) == engine.tokenizer.decode(ids, skip_special=False)
    assert [chunk async for chunk in stream] == []


async def test_what_the_server_had_cached_is_told(engine):
    first, second = await answer_to(engine), await answer_to(engine)
    assert (first.usage.prompt_tokens, first.usage.reused_tokens, first.usage.generated_tokens) == (40, 0, 16)
    assert (second.usage.reused_tokens, second.usage.computed_tokens) == (32, 8)
    assert (engine.stats().reused_tokens, engine.stats().generated_tokens) == (32, 32)


async def test_every_filter_is_named_so_that_the_checkpoints_defaults_do_not_count(engine, server):
    await answer_to(engine, temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, seed=11, max_tokens=2)
    body = server.bodies[-1]
    wanted = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "seed": 11, "repetition_penalty": 1.0}
    assert {name: body[name] for name in wanted} == wanted
    assert body["prompt"] == list(PROMPT)
    await answer_to(engine, max_tokens=2)
    assert "seed" not in server.bodies[-1]


async def test_a_seed_draws_the_same_in_any_company(engine):
    alone = await answer_to(engine, temperature=1.0, seed=3)
    done, *others = await asyncio.gather(*(answer_to(engine, temperature=1.0, seed=seed) for seed in (3, 4, 5)))
    assert done.token_ids == alone.token_ids
    assert done.token_ids != others[0].token_ids


async def test_stop_ids_eos_and_stop_strings_end_an_answer(engine):
    free = await answer_to(engine, max_tokens=40)
    stop_id = free.token_ids[7]
    end = free.token_ids.index(stop_id) + 1
    done = await answer_to(engine, max_tokens=40, stop_ids=frozenset({stop_id}))
    assert (done.token_ids, done.finish_reason) == (free.token_ids[:end], FinishReason.STOP)
    said = [21 + byte for byte in b"one STOP two"]
    done = await answer_to(engine, constraint=Dictation(said), stop_strings=("STOP",))
    assert (done.text, done.finish_reason) == ("one ", FinishReason.STOP)
    done = await answer_to(engine, constraint=Dictation([40, EOS_ID, 41]), ignore_eos=False)
    assert (done.token_ids, done.finish_reason) == ((40, EOS_ID), FinishReason.STOP)


async def test_a_stop_string_of_a_free_answer_leaves_the_server(engine, server):
    free = await answer_to(engine, max_tokens=60)
    readable = next(place for place in range(5, 50) if free.text[place : place + 1].isascii())
    server.pace_s = 0.002
    word = free.text[readable : readable + 1]
    done = await answer_to(engine, max_tokens=4_000, stop_strings=(word,))
    assert done.finish_reason is FinishReason.STOP
    assert done.text == free.text[: free.text.index(word)]
    await until(lambda: server.running == 0)


async def test_a_full_context_is_the_length(engine):
    done = await answer_to(engine, (5,) * 4_090, 1_000)
    assert (len(done.token_ids), done.finish_reason) == (6, FinishReason.LENGTH)


async def test_logprobs_come_one_per_token(engine):
    assert (await answer_to(engine)).logprobs == ()
    for num_top in (0, 3):
        done = await answer_to(engine, max_tokens=4, logprobs=num_top)
        assert [entry.token_id for entry in done.logprobs] == list(done.token_ids)
        ids = list(PROMPT)
        for entry in done.logprobs:
            assert entry.logprob == pytest.approx(logprobs_after(ids)[entry.token_id])
            assert len(entry.top) == num_top
            assert all(left[1] >= right[1] for left, right in pairwise(entry.top))
            ids.append(entry.token_id)


# --- constraints ----------------------------------------------------------------------------------------------------


async def test_a_constraint_is_kept_as_if_at_every_step_and_asked_once_per_token(engine, server):
    rule = Rule(lambda said: {40, 50, 60} if len(said) % 3 == 1 else None)
    done = await answer_to(engine, max_tokens=12, constraint=rule)
    assert done.token_ids == greedy(PROMPT, 12, rule.function)
    assert rule.asked == [list(done.token_ids[:count]) for count in range(12)]
    assert done.usage.constrained_tokens == 4
    assert all(body.get("allowed_token_ids") in (None, [40, 50, 60]) for body in server.bodies)


async def test_what_the_model_would_say_anyway_is_one_stream(engine, server):
    free = await answer_to(engine, max_tokens=12)
    server.bodies.clear()
    allowing = Rule(lambda said: {free.token_ids[len(said)], 5, 6})
    done = await answer_to(engine, max_tokens=12, constraint=allowing)
    assert done.token_ids == free.token_ids
    assert len(server.bodies) == 1
    assert (done.usage.constrained_tokens, done.usage.forced_tokens) == (12, 0)


async def test_where_one_id_is_allowed_nobody_is_asked(engine, server):
    done = await answer_to(engine, max_tokens=5, constraint=Dictation([40, 41, 42, 43, 44]))
    assert done.token_ids == (40, 41, 42, 43, 44)
    assert (done.usage.constrained_tokens, done.usage.forced_tokens) == (5, 5)
    assert server.bodies == []


async def test_disagreement_is_told(engine):
    values = logprobs_after(PROMPT)
    wanted, worst = int(values.argmax()), [int(one) for one in values.argsort()[:2]]
    done = await answer_to(engine, max_tokens=1, constraint=Rule(lambda _: set(worst)), doubt_below=0.999)
    [doubt] = done.doubts
    assert (doubt.index, doubt.wanted_id) == (0, wanted)
    seen = np.exp(np.sort(values)[-5:]).sum()
    assert doubt.allowed_mass == pytest.approx(1 - seen)
    assert done.usage.lowest_allowed_mass == doubt.allowed_mass


async def test_drawn_answers_keep_to_the_constraint_and_its_distribution(engine):
    allowed = [int(one) for one in logprobs_after(PROMPT).argsort()[-12:-2]]
    rule = Rule(lambda _: allowed)
    done = await asyncio.gather(
        *(answer_to(engine, max_tokens=1, constraint=rule, temperature=1.0, seed=seed) for seed in range(150))
    )
    drawn = [one.token_ids[0] for one in done]
    weights = np.exp(logprobs_after(PROMPT)[allowed])
    expected = 150 * weights / weights.sum()
    counts = np.array([drawn.count(one) for one in allowed])
    assert counts.sum() == 150
    # Chi-square with 9 degrees of freedom: 33.7 is passed once in ten thousand times, and the seeds are fixed.
    assert ((counts - expected) ** 2 / expected).sum() < 33.7


def crash():
    raise RuntimeError("the grammar\n  is broken")


@pytest.mark.parametrize(
    "fail", [crash, list, lambda: [5, VOCAB_SIZE], lambda: 7], ids=["raises", "nothing", "beyond", "no collection"]
)
async def test_a_constraint_that_fails_ends_its_own_request_alone(engine, fail):
    neighbour = engine.generate(ask(PROMPT, 12))
    done = await answer_to(engine, constraint=Rule(lambda said: fail() if len(said) == 3 else None))
    assert (len(done.token_ids), done.finish_reason) == (3, FinishReason.ERROR)
    assert "constraint" in done.error
    assert "\n" not in done.error
    assert (await collect(neighbour)).finish_reason is FinishReason.LENGTH


async def test_logprobs_under_a_constraint_are_refused(engine):
    with pytest.raises(RequestError, match="log-probabilities under a constraint"):
        engine.generate(ask(PROMPT, logprobs=1, constraint=Dictation([5])))


# --- the end comes early --------------------------------------------------------------------------------------------


async def test_cancelling_closes_the_stream_so_that_the_server_gives_up(engine, server):
    server.pace_s = 0.002
    stream = engine.generate(ask(PROMPT, 4_000))
    async for chunk in stream:
        if chunk.token_ids:
            stream.cancel()
            stream.cancel()
        last = chunk
    assert last.finish_reason is FinishReason.CANCELLED
    await until(lambda: server.running == 0)
    assert server.abandoned == 1
    assert engine.stats().running == 0


async def test_cancelled_before_it_began_and_after_it_ended(engine, server):
    server.pace_s = 0.002
    stream = engine.generate(ask(PROMPT, 4_000))
    stream.cancel()
    assert (await collect(stream)).finish_reason is FinishReason.CANCELLED
    stream = engine.generate(ask(PROMPT, 2))
    assert (await collect(stream)).finish_reason is FinishReason.LENGTH
    stream.cancel()


async def test_a_reader_that_leaves_cancels(engine, server):
    server.pace_s = 0.002
    chunks = aiter(engine.generate(ask(PROMPT, 4_000)))
    await anext(chunks)
    await chunks.aclose()
    await until(lambda: server.running == 0)


async def test_closing_cancels_what_runs_and_takes_nothing_after(engine, server):
    server.pace_s = 0.002
    streams = [engine.generate(ask(PROMPT, 4_000)) for _ in range(4)]
    await until(lambda: engine.stats().generated_tokens >= 4)
    threads = [threading.Thread(target=engine.close) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert {(await collect(stream)).finish_reason for stream in streams} == {FinishReason.CANCELLED}
    with pytest.raises(EngineClosed):
        engine.generate(ask(PROMPT))
    await until(lambda: server.running == 0)


async def test_cancelling_while_the_engine_closes_is_nothing(engine, monkeypatch):
    engine.close()
    monkeypatch.setattr(engine._loop, "is_closed", lambda: False)  # as it was a moment ago
    engine._cancel("stream-1")


async def test_a_constraint_may_close_the_engine(engine):
    rule = Rule(lambda said: engine.close() if len(said) == 3 else None)
    assert (await answer_to(engine, max_tokens=4_000, constraint=rule)).finish_reason is FinishReason.CANCELLED


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "error"),
    [((), RequestError), ((5, -1), TokenOutOfRange), ((VOCAB_SIZE,), TokenOutOfRange), ((5,) * 4_096, PromptTooLong)],
)
async def test_what_cannot_be_served_never_reaches_the_server(engine, server, prompt, error):
    with pytest.raises(error):
        engine.generate(ask(prompt))
    assert server.bodies == []


@pytest.mark.parametrize(
    ("knobs", "fields", "said"),
    [
        ({"say_error": "EngineCore\nencountered an issue"}, {}, "EngineCore encountered an issue"),
        ({"break_off_after": 3}, {}, "broke the answer off"),
        ({}, {"logprobs": 21}, "status 400: Requested sample logprobs of 21, which is greater than 20"),
        ({"names_ids": False}, {}, "no token ids"),
    ],
)
async def test_what_goes_wrong_at_the_server_is_one_line(engine, server, knobs, fields, said):
    for name, value in knobs.items():
        setattr(server, name, value)
    done = await answer_to(engine, **fields)
    assert done.finish_reason is FinishReason.ERROR
    assert said in done.error
    assert "\n" not in done.error
    assert server.url in done.error
    for name in knobs:
        setattr(server, name, getattr(FakeServer(server.model), name))
    assert (await answer_to(engine)).finish_reason is FinishReason.LENGTH


async def test_a_server_that_is_gone_is_told(folder):
    with serving(FakeServer(folder)) as server:
        engine = connect(server.url, VllmConfig())
    try:
        done = await answer_to(engine)
    finally:
        engine.close()
    assert done.finish_reason is FinishReason.ERROR
    assert "does not answer" in done.error


def test_who_does_not_answer_or_is_no_server_is_told(server, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerUnreachable, match="vllm serve MODEL") as refusal:
        connect(f"http://127.0.0.1:{port}/v1", VllmConfig())
    assert refusal.value.exit_code == 4
    with pytest.raises(ServerUnreachable, match="404"):
        connect(server.url.removesuffix("/v1"), VllmConfig())
    server.key = "s3cret"
    with pytest.raises(ServerUnreachable, match="401"):
        connect(server.url, VllmConfig())
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    connect(server.url, VllmConfig()).close()
    server.model = tmp_path
    with pytest.raises(ServerUnreachable, match=r"engine\.vllm\.tokenizer"):
        connect(server.url, VllmConfig())


def test_the_tokenizer_may_be_elsewhere(server, folder, tmp_path):
    server.model = tmp_path
    engine = connect(server.url, VllmConfig(tokenizer=folder))
    engine.close()
    assert engine.tokenizer is not None
