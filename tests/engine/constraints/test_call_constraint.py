"""Turns under a constraint: whatever is chosen, the parser reads one of the calls that were allowed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine import load_engine
from kodkod_engine.api import FinishReason, GenerationRequest, SamplingParams, collect
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.parser import parse_turn
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import assistant_pieces, encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import OneOf
from kodkod_engine.constraints.call_constraint import CallConstraint
from kodkod_engine.constraints.free_text import FreeText
from kodkod_engine.constraints.patterns import Argument, CallPattern, call, rows
from kodkod_engine.constraints.spans import SpanOfLine
from kodkod_engine.messages import AssistantMessage, ToolCall, ToolSpec

TEXT = {"type": "string"}
NUMBER = {"type": "integer"}


def spec(name: str, **properties: object) -> ToolSpec:
    return ToolSpec(name=name, description="", parameters={"type": "object", "properties": properties})


TOOLS = (
    spec("test", locate={"type": "boolean"}),
    spec("view", path=TEXT, start=NUMBER, end=NUMBER),
    spec("edit", path=TEXT, line=NUMBER, old=TEXT, new=TEXT),
    spec("tes"),
)
PLACES = [("pkg/mod.py", "1", "12"), ("pkg/mod.py", "10", "12"), ("pkg/model.py", "1", "3"), ("grüße.py", "1", "2")]
LINES = {("pkg/mod.py", "4"): "    return first <= second", ("pkg/mod.py", "41"): "x = x", ("ü.py", "4"): "né = 1"}


def edits(tokenizer: Tokenizer, *, max_tokens: int = 6) -> CallPattern:
    """Lines of files, spans of the lines, and any other text but those."""

    def at_line(row: Collection[str]) -> Argument:
        path, line = row
        return Argument("old", SpanOfLine(tokenizer, LINES[path, line]), after_old)

    def after_old(old: str) -> Argument:
        return Argument("new", FreeText(tokenizer, max_tokens, lambda new: new != old))

    return CallPattern("edit", rows(tokenizer, ("path", "line"), LINES, at_line))


def patterns(tokenizer: Tokenizer) -> list[CallPattern]:
    """Names that begin alike, a call with and one without arguments, and arguments that depend on each other."""
    return [
        call("tes"),
        call("test"),
        call("test", ("locate", OneOf(tokenizer, ["true", "false"]))),
        CallPattern("view", rows(tokenizer, ("path", "start", "end"), PLACES)),
        edits(tokenizer),
    ]


def walk(constraint: CallConstraint, choose: Callable[[list[int]], int], *, at_most: int = 400) -> list[int]:
    """A turn, each id chosen among those allowed."""
    ids: list[int] = []
    while ids[-1:] != [constraint.eos_id]:
        assert len(ids) < at_most
        allowed = sorted(constraint.allowed_ids(ids))
        assert allowed, "there is always a way on"
        ids.append(choose(allowed))
    return ids


def is_allowed(made: ToolCall) -> bool:
    """Whether a call is one of `patterns`."""
    given_values = dict(made.arguments)
    match made.name:
        case "tes":
            return not given_values
        case "test":
            return given_values in ({}, {"locate": True}, {"locate": False})
        case "view":
            return tuple(map(str, given_values.values())) in PLACES
        case _:
            line = LINES[given_values["path"], str(given_values["line"])]
            old, new = given_values["old"], given_values["new"]
            return bool(line.count(old) == 1 and old.strip() and "�" not in new)


@pytest.mark.parametrize("kind", ["byte", "merging"])
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), end_soon=st.floats(0, 1))
def test_every_turn_reads_as_one_allowed_call(kind, byte_tokenizer, merging_tokenizer, seed, end_soon):
    tokenizer = byte_tokenizer if kind == "byte" else merging_tokenizer
    value_end = tokenizer.special.id_of(Tag.ARG_VALUE_END)
    draws = random.Random(seed)

    def choose(allowed: list[int]) -> int:
        return value_end if value_end in allowed and draws.random() < end_soon else draws.choice(allowed)

    ids = walk(CallConstraint(tokenizer, patterns(tokenizer)), choose)
    message = parse_turn(tokenizer, ids, TOOLS)
    assert (message.text, message.reasoning) == ("", "")
    [made] = message.calls
    assert made.fault is None
    assert is_allowed(made), made
    assert list(made.arguments) in ([], ["locate"], ["path", "start", "end"], ["path", "line", "old", "new"])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tes", {}),
        ("test", {}),
        ("test", {"locate": True}),
        ("view", {"path": "grüße.py", "start": 1, "end": 2}),
        ("edit", {"path": "pkg/mod.py", "line": 4, "old": " <=", "new": " <"}),
        ("edit", {"path": "pkg/mod.py", "line": 4, "old": " first", "new": ""}),
        ("edit", {"path": "pkg/mod.py", "line": 41, "old": "x =", "new": "é\n"}),
        ("edit", {"path": "ü.py", "line": 4, "old": " 1", "new": " 2"}),
    ],
)
def test_what_the_template_writes_is_allowed(tokenizer, name, arguments):
    written = AssistantMessage(calls=(ToolCall(id="", name=name, arguments=arguments),))
    ids = [*encode_pieces(tokenizer, assistant_pieces(written)), tokenizer.eos_id]
    constraint = CallConstraint(tokenizer, patterns(tokenizer))
    for place, token_id in enumerate(ids):
        assert token_id in constraint.allowed_ids(ids[:place]), tokenizer.decode(ids[: place + 1], skip_special=False)
    assert not constraint.allowed_ids(ids)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("finish", {}),
        ("test", {"locate": "maybe"}),
        ("view", {"path": "pkg/mod.py", "start": 1, "end": 3}),
        ("view", {"path": "pkg/model.py", "start": 10, "end": 12}),
        ("edit", {"path": "pkg/mod.py", "line": 41, "old": "x", "new": "y"}),
        ("edit", {"path": "pkg/mod.py", "line": 4, "old": "else", "new": "y"}),
        ("edit", {"path": "pkg/mod.py", "line": 4, "old": " <=", "new": " <="}),
        ("edit", {"path": "pkg/mod.py", "line": 4, "old": " <=", "new": "\x00"}),
    ],
)
def test_what_is_not_among_the_patterns_is_not_allowed(tokenizer, name, arguments):
    written = AssistantMessage(calls=(ToolCall(id="", name=name, arguments=arguments),))
    ids = [*encode_pieces(tokenizer, assistant_pieces(written)), tokenizer.eos_id]
    constraint = CallConstraint(tokenizer, patterns(tokenizer))
    assert any(token_id not in constraint.allowed_ids(ids[:place]) for place, token_id in enumerate(ids))
    assert not constraint.allowed_ids([*ids[:1], tokenizer.eos_id, 0]), "nothing follows what was not allowed"


def test_forks_and_threads_see_the_same(byte_tokenizer):
    shared = CallConstraint(byte_tokenizer, patterns(byte_tokenizer))
    wrong: list[list[int]] = []

    def check(seed: int) -> None:
        draws = random.Random(seed)
        ids = walk(shared, draws.choice)
        alone = CallConstraint(byte_tokenizer, patterns(byte_tokenizer))
        if any(set(shared.allowed_ids(ids[:end])) != set(alone.allowed_ids(ids[:end])) for end in range(len(ids))):
            wrong.append(ids)

    threads = [threading.Thread(target=check, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_free_value_always_comes_to_an_end(tokenizer):
    never = call("tes", ("new", FreeText(tokenizer, 7, lambda _: False)))
    constraint = CallConstraint(tokenizer, [never])
    for seed in range(50):
        ids = walk(constraint, random.Random(seed).choice, at_most=40)
        [made] = parse_turn(tokenizer, ids, TOOLS).calls
        value = tokenizer.encode_text(made.arguments["new"])
        assert made.fault is None
        assert "�" not in made.arguments["new"]
        assert value


def test_nothing_to_allow_is_refused_at_once(byte_tokenizer):
    with pytest.raises(ValueError, match="no call is allowed"):
        CallConstraint(byte_tokenizer, [])
    with pytest.raises(ValueError, match="among no texts"):
        OneOf(byte_tokenizer, [])
    for keys, table in (((), [()]), (("a",), []), (("a", "b"), [("1",)])):
        with pytest.raises(ValueError, match="every row needs one value"):
            rows(byte_tokenizer, keys, table)


@pytest.mark.parametrize("temperature", [0.0, 3.0])
async def test_the_engine_keeps_to_it_with_random_weights(tiny_folder, temperature):
    engine = load_engine(tiny_folder)
    try:
        tokenizer = engine.tokenizer
        constraint = CallConstraint(tokenizer, [edits(tokenizer, max_tokens=4)])
        prompt = tuple(tokenizer.encode_text("mend it"))
        streams = [
            engine.generate(GenerationRequest(prompt, SamplingParams(temperature, seed=seed), constraint))
            for seed in range(6)
        ]
        for stream in streams:
            done = await collect(stream)
            assert done.finish_reason is FinishReason.STOP
            [made] = parse_turn(tokenizer, done.token_ids, TOOLS).calls
            assert made.fault is None
            assert is_allowed(made)
    finally:
        engine.close()


def test_a_vocabulary_without_the_tags_is_refused(tmp_path):
    write_byte_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace(Tag.ARG_VALUE_END.value, "<other>"), encoding="utf-8")
    with pytest.raises(ValueError, match="the vocabulary has no </longcat_arg_value>"):
        CallConstraint(Tokenizer.from_folder(tmp_path), [call("tes")])
