"""Plain completions, models, health and the document."""

from __future__ import annotations

import httpx
import pytest

from kodkod_engine.api import EngineStats

from .conftest import NAME, says, served, slow_model


@pytest.fixture(scope="module")
def running():
    with served(slow_model("one, two, three", seconds_per_step=0)) as found:
        yield found


def complete(running, prompt="Count:", **options):
    return running.client().completions.create(model=NAME, prompt=prompt, **options)


def test_a_text_is_continued(running):
    reply = complete(running)
    assert (reply.object, reply.choices[0].text, reply.choices[0].finish_reason) == (
        "text_completion",
        "one, two, three",
        "stop",
    )
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (6, 16)
    assert complete(running, max_tokens=3).choices[0].finish_reason == "length"


def test_ids_and_several_prompts(running):
    ids = running.service.tokenizer.encode_text("Count:")
    asked = {"extra_body": {"return_token_ids": True}}
    (choice,) = complete(running, ids, **asked).choices
    assert choice.model_extra["prompt_token_ids"] == ids
    assert running.service.tokenizer.decode(choice.model_extra["token_ids"]) == choice.text
    several = complete(running, ["a", "bc"], n=2)
    assert [(choice.index, choice.text) for choice in several.choices] == [
        (number, "one, two, three") for number in range(4)
    ]
    assert (several.usage.prompt_tokens, several.usage.completion_tokens) == (3, 4 * 16)
    assert len(complete(running, [ids, ids]).choices) == 2


def test_a_stream(running):
    chunks = list(complete(running, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "one, two, three"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 16


def test_stop_strings_end_it(running):
    reply = complete(running, stop=[", th", "nine"])
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("one, two", "stop")


def test_log_probabilities(running):
    logprobs = complete(running, max_tokens=3, logprobs=1).choices[0].logprobs
    assert (logprobs.tokens, logprobs.token_logprobs) == (["o", "n", "e"], [0, 0, 0])
    assert logprobs.top_logprobs == [{"o": 0}, {"n": 0}, {"e": 0}]
    assert logprobs.text_offset == [0, 1, 2]
    chunks = list(complete(running, max_tokens=3, logprobs=0, stream=True))
    assert [chunk.choices[0].logprobs.text_offset for chunk in chunks[:-1]] == [[0], [1], [2]]


def test_the_model_is_listed(running):
    client = running.client()
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (NAME, "model", "kodkod")
    assert model.model_extra["max_model_len"] == running.service.engine.max_context_tokens
    assert client.models.retrieve(NAME) == model


def test_health_counts(running):
    before = httpx.get(running.url.removesuffix("/v1") + "/health").json()
    complete(running)
    after = httpx.get(running.url.removesuffix("/v1") + "/health").json()
    assert (after["status"], after["running"]) == ("ok", 0)
    assert after["generated_tokens"] == before["generated_tokens"] + 16


def test_health_is_none_when_the_engine_has_ended(serve, monkeypatch):
    running = serve(says("Hi"))
    ended = EngineStats(fault="the GPU was lost; load it again")
    monkeypatch.setattr(running.service.engine, "stats", lambda: ended)
    reply = httpx.get(running.url.removesuffix("/v1") + "/health")
    assert (reply.status_code, reply.json()["error"]["message"]) == (503, ended.fault)


def test_names_may_hold_slashes(serve):
    running = serve(says("Hi"))
    running.service.name = "org/wildcat"
    assert running.client().models.retrieve("org/wildcat").id == "org/wildcat"
