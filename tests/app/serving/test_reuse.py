"""What a client sends back is known again: fifty turns, changed messages, and all that makes text and tokens differ."""

from __future__ import annotations

import json
import random

import pytest

from kodkod_app.bootstrap import Model, open_engine
from kodkod_app.serving.memory import GeneratedTurns, PromptBuilder, _TokenStore
from kodkod_engine.chat.declare_block import ToolWords
from kodkod_engine.chat.template import render
from kodkod_engine.messages import AssistantMessage, ToolCall, ToolSpec, UserMessage

from .conftest import WEATHER, ask, says, served

TURNS = 50
SYSTEM = "You answer shortly and to the point. " * 10


@pytest.fixture
def random_model(home):
    """Writes what no tokenizer would: half characters, tags where none belong."""
    engine = open_engine(None)
    assert engine.tokenizer is not None
    return Model("random", engine, engine.tokenizer)


def session(client, turns=TURNS):
    """A client that sends everything with every turn; its usage, turn by turn."""
    dice = random.Random(0)
    messages = [{"role": "system", "content": SYSTEM}]
    usages = []
    for number in range(turns):
        words = " ".join(dice.choice(["paw", "claw", "tail", "ear"]) for _ in range(4))
        messages.append({"role": "user", "content": f"{number}: {words}?"})
        reply = ask(client, messages, tools=[WEATHER], seed=number, max_tokens=6)
        usages.append(reply.usage)
        message = reply.choices[0].message
        messages.append(json.loads(message.model_dump_json(exclude_none=True)))
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "none"} for call in message.tool_calls or ()]
    return usages


def reused_share(usages):
    prompt = sum(usage.prompt_tokens for usage in usages)
    return sum(usage.prompt_tokens_details.cached_tokens for usage in usages) / prompt


def went_on(usages):
    """In how many turns nothing was computed again but the token that ended the turn before, which never was."""
    told = [usage.prompt_tokens + usage.completion_tokens - 1 for usage in usages]
    return sum(
        after.prompt_tokens_details.cached_tokens >= before for before, after in zip(told, usages[1:], strict=False)
    )


def test_fifty_turns_cost_their_new_tokens(random_model):
    with served(random_model) as running:
        usages = session(running.client())
        counts = running.service.engine.stats()
    assert len(usages) == TURNS
    assert reused_share(usages) >= 0.95
    assert counts.reused_tokens / counts.prompt_tokens >= 0.95
    assert went_on(usages) == TURNS - 1


def test_without_the_memory_they_cost_more(random_model):
    """The control: text alone does not lead back to the tokens that were generated."""
    with served(random_model) as running:
        running.service.turns.remember = lambda *_: None
        assert went_on(session(running.client(), turns=10)) < 3


def test_a_changed_message_is_rendered_anew(serve):
    running = serve(says("One."), says("Two."), says("Three."))
    client, asked = running.client(), {"extra_body": {"return_token_ids": True}}
    first = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "One."}]
    again = [*first, {"role": "user", "content": "b"}]
    ask(client, first[:1])
    same = ask(client, again, **asked)
    changed = ask(client, [first[0], {"role": "assistant", "content": "Uno."}, again[2]], **asked)
    text = running.service.tokenizer.decode(changed.model_extra["prompt_token_ids"], skip_special=False)
    assert text == "<longcat_user>a<longcat_assistant>Uno.</longcat_s><longcat_user>b<longcat_assistant>"
    assert changed.usage.prompt_tokens_details.cached_tokens == 3
    assert same.usage.prompt_tokens_details.cached_tokens == len("<a>One.")


def test_an_answer_cut_by_a_stop_string_is_known_without_what_the_client_never_saw(serve):
    running = serve(says("one, two, three"), says("Yes."))
    client, question = running.client(), {"role": "user", "content": "Count"}
    first = ask(client, [question], stop="wo")
    assert first.choices[0].message.content == "one, t"
    messages = [question, {"role": "assistant", "content": "one, t"}, question]
    second = ask(client, messages, extra_body={"return_token_ids": True})
    text = running.service.tokenizer.decode(second.model_extra["prompt_token_ids"], skip_special=False)
    assert text == ("<longcat_user>Count<longcat_assistant>one, t</longcat_s><longcat_user>Count<longcat_assistant>")
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens + len("one, t")


# The memory itself


@pytest.fixture(scope="module")
def tokenizer():
    from kodkod_app.offline import open_tokenizer

    return open_tokenizer("")


@pytest.fixture
def turns():
    return GeneratedTurns()


@pytest.fixture
def prompts(tokenizer, turns):
    return PromptBuilder(tokenizer, turns)


ASKED = [UserMessage(text="Hi")]
STRANGE = (20, 21, 5, 2)
"""Ids that no text is encoded to."""


def test_what_is_said_counts_not_how_it_was_written_down(prompts, turns):
    def called(call_id, **arguments):
        return AssistantMessage(text="Go.", calls=(ToolCall(id=call_id, name="f", arguments=arguments),))

    prompt = prompts.build(ASKED, ())
    turns.remember(prompt, called("call_1", a=1, b=[2]), STRANGE)
    same = prompts.build([*ASKED, called("other", b=[2], a=1)], ()).token_ids
    assert same[: len(prompt.token_ids) + 4] == (*prompt.token_ids, *STRANGE)
    for different in (called("call_1", a=1, b=[3]), called("call_1", a=1), AssistantMessage(text="Go.")):
        ids = prompts.build([*ASKED, different], ()).token_ids
        assert ids[len(prompt.token_ids) : len(prompt.token_ids) + 4] != STRANGE


def test_reasoning_may_be_left_out_but_not_changed(prompts, turns):
    prompt = prompts.build(ASKED, ())
    turns.remember(prompt, AssistantMessage(text="Yes.", reasoning="Hm."), STRANGE)

    def is_known(message):
        start = len(prompt.token_ids)
        return prompts.build([*ASKED, message], ()).token_ids[start : start + 4] == STRANGE

    assert is_known(AssistantMessage(text="Yes."))
    assert is_known(AssistantMessage(text="Yes.", reasoning="Hm."))
    assert not is_known(AssistantMessage(text="Yes.", reasoning="Ah."))
    assert not is_known(AssistantMessage(text="Yes. "))


def test_the_same_words_after_another_prompt_are_other_words(prompts, turns):
    turns.remember(prompts.build(ASKED, ()), AssistantMessage(text="Yes."), STRANGE)
    elsewhere = prompts.build([UserMessage(text="Ho"), AssistantMessage(text="Yes.")], ())
    assert STRANGE[0] not in elsewhere.token_ids


def test_the_oldest_is_forgotten_first():
    store = _TokenStore(10)
    for name in (b"a", b"b", b"c"):
        store.put(name, [1, 2, 3])
    assert store.get(b"a") is not None
    store.put(b"d", [4, 5, 6])
    assert store.get(b"b") is None
    assert [list(store.get(name) or ()) for name in (b"a", b"c", b"d")] == [[1, 2, 3], [1, 2, 3], [4, 5, 6]]
    store.put(b"e", range(20))
    assert len(store.get(b"e") or ()) == 20


def test_tools_are_declared_in_the_checkpoints_words(tokenizer, turns):
    tools = [ToolSpec(name="look", description="Looks.", parameters={})]
    other = tokenizer.with_words(ToolWords("Others.", ("Call them.",)))
    prompt = PromptBuilder(other, turns).build(ASKED, tools).token_ids
    assert list(prompt) == render(other, ASKED, tools, generation_prompt=True)
    assert list(prompt) != render(tokenizer, ASKED, tools, generation_prompt=True)
