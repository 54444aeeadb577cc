"""What a client is told when it cannot be served."""

from __future__ import annotations

import re

import httpx
import openai
import pytest

from kodkod_app.serving.application import Access
from kodkod_app.serving.transport import MAX_BODY_BYTES

from .conftest import CLOCK, NAME, ask, says, served, slow_model

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def told(fault):
    return (fault.value.status_code, fault.value.body["param"], fault.value.body["message"])


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"extra_body": {"temperatur": 1}}, "temperatur", "there is no such parameter"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "less than or equal to 0"),
        ({"n": 99}, "n", "less than or equal to 16"),
        ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
            "Field required",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"$ref": "#"}}}},
            "response_format",
            "no JSON is as the schema wants it",
        ),
        ({"top_logprobs": 2}, "top_logprobs", "goes with logprobs"),
        ({"tool_choice": "required"}, "tool_choice", "no tools to choose from"),
        ({"tools": [CLOCK, CLOCK]}, "tools.1.function.name", "declared twice"),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "watch"}}},
            "tool_choice",
            "there is no tool 'watch'",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "objekt"}}}]},
            "tools.0.function.parameters",
            "no JSON schema",
        ),
        ({"response_format": {"type": "json_object"}, "tools": [CLOCK]}, "response_format", "goes without tools"),
    ],
)
def test_values_that_cannot_be(serve, options, param, words):
    with pytest.raises(openai.BadRequestError) as fault:
        ask(serve(says("Hi")).client(), [USER], **options)
    status, where, message = told(fault)
    assert (status, where) == (400, param)
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "messages: List should have at least 1 item"),
        ([{"role": "clown", "content": "Hi"}], "messages.0: Input tag 'clown'"),
        ([{"role": "user"}], "messages.0.content: Field required"),
        ([{"role": "user", "content": None}], "messages.0.content: Input should be a valid string"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "content.0.type: Input should be 'text'",
        ),
        ([USER, CALLED], "no message with role 'tool' answers call_1"),
        ([USER, CALLED, USER], "no message with role 'tool' answers call_1"),
        ([USER, {"role": "tool", "tool_call_id": "call_1", "content": "3"}], "answers no call"),
        ([USER, CALLED, {"role": "tool", "tool_call_id": "call_9", "content": "3"}], "answers no call"),
    ],
)
def test_conversations_that_cannot_be(serve, messages, words):
    with pytest.raises(openai.BadRequestError) as fault:
        ask(serve(says("Hi")).client(), messages)
    assert words in told(fault)[2]


@pytest.mark.parametrize("prompt", ["", [], [1, -1], [[1], ["a"]]])
def test_a_prompt_that_cannot_be_is_named_as_it_was_written(serve, prompt):
    with pytest.raises(openai.BadRequestError) as fault:
        serve(says("Hi")).client().completions.create(model=NAME, prompt=prompt)
    status, where, message = told(fault)
    assert (status, bool(re.fullmatch(r"prompt(\.\d+)*", where))) == (400, True)
    assert message.startswith(f"{where}: ")


def test_another_model_is_not_found(serve):
    client = serve(says("Hi")).client()
    with pytest.raises(openai.NotFoundError) as fault:
        client.chat.completions.create(model="gpt-5", messages=[USER])
    assert told(fault) == (404, "model", f"the model 'gpt-5' is not served here; ask for '{NAME}'")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_a_prompt_that_does_not_fit():
    with served(slow_model("x")) as running:
        with pytest.raises(openai.BadRequestError) as chat:
            ask(running.client(), "y" * 40_000)
        with pytest.raises(openai.BadRequestError) as completion:
            running.client().completions.create(model=NAME, prompt="y" * 40_000)
    for fault, param in ((chat, "messages"), (completion, "prompt")):
        assert (fault.value.code, fault.value.param) == ("context_length_exceeded", param)
        assert "maximum context length" in told(fault)[2]


def test_a_fault_of_the_engine_is_told_whole_and_in_a_stream(serve):
    running = serve(says("Hi"))
    running.service.engine._script = lambda _: [running.service.tokenizer.vocab_size + 5]  # no token has this id
    running.service.engine.close()
    with pytest.raises(openai.InternalServerError) as fault:
        ask(running.client(), "Hi")
    assert fault.value.status_code == 503
    assert fault.value.code == "engine_closed"


def test_an_engine_that_closes_ends_its_streams():
    with served(slow_model("x" * 20_000)) as running:
        chunks = iter(ask(running.client(), "Hi", stream=True))
        next(chunks)
        running.service.engine.close()
        with pytest.raises(openai.APIError, match="the server is closing"):
            for _ in chunks:
                pass


def test_a_key_is_asked_for(serve):
    running = serve(says("Hi"), access=Access(api_key="s3cret"))
    for key in ("wrong", "s3cret2"):
        with pytest.raises(openai.AuthenticationError) as fault:
            ask(running.client(api_key=key), "Hi")
        assert fault.value.code == "invalid_api_key"
    assert ask(running.client(api_key="s3cret"), "Hi").choices[0].message.content == "Hi"
    assert httpx.get(running.url + "/models").status_code == 401
    assert httpx.get(running.url.removesuffix("/v1") + "/health").status_code == 200


def test_what_a_web_page_could_send_is_refused(serve):
    running = serve(says("Hi"), access=Access(hosts=frozenset({"127.0.0.1"})))
    url, body = running.url + "/chat/completions", f'{{"model": "{NAME}", "messages": []}}'
    assert httpx.post(url, content=body, headers={"content-type": "text/plain"}).status_code == 415
    assert httpx.get(running.url + "/models", headers={"host": "evil.example:80"}).status_code == 403
    assert httpx.get(running.url + "/models").status_code == 200


def test_bodies_that_cannot_be_read(serve):
    running = serve(says("Hi"))
    url, headers = running.url + "/chat/completions", {"content-type": "application/json"}
    for content in (b"", b"{", b"[]", b'"\xff"', b'{"model": "\\ud800"}', b"[" * 100_000):
        reply = httpx.post(url, content=content, headers=headers)
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert httpx.post(url, content=b" " * (MAX_BODY_BYTES + 1), headers=headers).status_code == 413


def test_paths_and_methods_that_are_not(serve):
    running = serve(says("Hi"))
    missing = httpx.get(running.url + "/embeddings")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "invalid_request_error")
    wrong = httpx.get(running.url + "/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
