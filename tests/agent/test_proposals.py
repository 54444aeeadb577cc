"""The most probable turns, against all turns there are."""

from __future__ import annotations

import math
from contextlib import closing

import pytest

from kodkod_agent.proposals import SearchLimits, most_probable_turns
from kodkod_engine import load_engine
from kodkod_engine.api import GenerationRequest, SamplingParams, collect
from kodkod_engine.backends.scripted import ScriptedEngine, replay
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.constraints.acceptors import OneOf
from kodkod_engine.constraints.call_constraint import CallConstraint
from kodkod_engine.constraints.free_text import FreeText
from kodkod_engine.constraints.patterns import CallPattern, call, rows
from kodkod_engine.errors import EngineError
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

from .conftest import call as made
from .conftest import says, turn_ids

PLACES = [("a.py", "1", "12"), ("a.py", "10", "12"), ("ab.py", "1", "3"), ("b.py", "1", "2")]
CALLS = [
    made("test"),
    made("finish", summary="done"),
    made("finish", summary="dull"),
    *(made("view", path=path, start=int(start), end=int(end)) for path, start, end in PLACES),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A model with random weights."""
    folder = write_random_checkpoint(tmp_path_factory.mktemp("tiny"), TINY, seed=5)
    write_byte_tokenizer(folder)
    with closing(load_engine(folder)) as loaded:
        yield loaded


@pytest.fixture
def constraint(tokenizer):
    """The calls of `CALLS` and no others."""
    view = CallPattern("view", rows(tokenizer, ("path", "start", "end"), PLACES))
    finish = call("finish", ("summary", OneOf(tokenizer, ["done", "dull"])))
    return CallConstraint(tokenizer, [call("test"), finish, view])


async def logprob_of(engine, prompt, ids, constraint):
    """Of one turn, token by token, each renormalised over what is allowed."""
    total = 0.0
    for place, token_id in enumerate(ids):
        behind = ids[:place]

        class After:
            def allowed_ids(self, generated_ids, behind=behind):
                return constraint.allowed_ids([*behind, *generated_ids])

        request = GenerationRequest((*prompt, *behind), SamplingParams(max_tokens=1, logprobs=512), After())
        done = await collect(engine.generate(request))
        total += dict(done.logprobs[0].top)[token_id]
    return total


async def test_the_search_finds_all_turns_in_order(engine, tokenizer, constraint):
    prompt = (*tokenizer.encode_text("mend it"), tokenizer.special.assistant_id)
    turns = await most_probable_turns(engine, prompt, constraint, 100)
    wanted = {tuple(turn_ids(tokenizer, says("", one))) for one in CALLS}
    assert {turn.token_ids for turn in turns} == wanted
    assert math.fsum(math.exp(turn.logprob) for turn in turns) == pytest.approx(1, abs=1e-4)
    assert [turn.logprob for turn in turns] == sorted((turn.logprob for turn in turns), reverse=True)
    for turn in turns[:3]:
        assert turn.logprob == pytest.approx(await logprob_of(engine, prompt, turn.token_ids, constraint), abs=1e-3)


async def test_fewer_turns_are_the_first_of_more(engine, tokenizer, constraint):
    prompt = (*tokenizer.encode_text("mend it"), tokenizer.special.assistant_id)
    every = await most_probable_turns(engine, prompt, constraint, 100)
    for num_turns, at_once in ((1, 1), (2, 8), (3, 3)):
        some = await most_probable_turns(engine, prompt, constraint, num_turns, SearchLimits(at_once=at_once))
        assert [turn.token_ids for turn in some] == [turn.token_ids for turn in every[:num_turns]]


async def test_what_is_forced_costs_nothing(engine, tokenizer):
    only = CallConstraint(tokenizer, [call("finish", ("summary", OneOf(tokenizer, ["The failing tests pass now."])))])
    steps = engine.stats().generated_tokens
    [turn] = await most_probable_turns(engine, (1, 2, 3), only, 5)
    assert turn.logprob == 0
    assert engine.stats().generated_tokens == steps


async def test_the_limits_end_the_search(engine, tokenizer):
    free = CallConstraint(
        tokenizer, [call("finish", ("summary", FreeText(tokenizer, 40, lambda text: len(text) > 30)))]
    )
    assert await most_probable_turns(engine, (1, 2, 3), free, 4, SearchLimits(expansions=6)) == []
    long = SearchLimits(turn_tokens=20)
    assert await most_probable_turns(engine, (1, 2, 3), free, 4, long) == []


async def test_a_model_that_is_sure_is_followed(tokenizer, constraint):
    ids = turn_ids(tokenizer, says("", CALLS[2]))

    def script(prompt):
        return ids[len(prompt) - 3 :]

    with closing(
        ScriptedEngine(script, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, tokenizer=tokenizer)
    ) as sure:
        [turn] = await most_probable_turns(sure, (1, 2, 3), constraint, 3)
    assert turn.token_ids == tuple(ids)
    assert turn.logprob == 0


async def test_a_closed_engine_is_told_of(tokenizer, constraint):
    closed = ScriptedEngine(replay([]), vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id)
    closed.close()
    with pytest.raises(EngineError):
        await most_probable_turns(closed, (1, 2, 3), constraint, 1)
