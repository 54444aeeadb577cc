import re
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kodkod_engine.chat.arguments import write_value
from kodkod_engine.chat.events import ArgumentDelta, CallFinished, CallStarted, ReasoningDelta, TextDelta
from kodkod_engine.chat.parser import OutputParser, parse_turn
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import assistant_pieces, encode_pieces
from kodkod_engine.messages import AssistantMessage, ToolCall

FEW = settings(max_examples=80, deadline=None)
FRAGMENTS = [
    *Tag,
    "</longcat_arg_value>\n",
    "  ",
    "\n",
    "\\n",
    '"',
    "'",
    "{",
    "<function_calls>",
    "<longcat_",
    "</long",
]
hostile_text = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=6).map("".join)
plain_text = st.text(max_size=12)
values = st.one_of(st.none(), st.booleans(), st.integers(), st.lists(st.integers() | hostile_text, max_size=3))
calls = st.one_of(
    st.tuples(st.just("edit"), st.dictionaries(st.sampled_from(["path", "old", "new"]), hostile_text)),
    st.tuples(
        st.just("configure"),
        st.fixed_dictionaries(
            {},
            optional={
                "any": values,
                "count": st.integers(),
                "options": st.dictionaries(hostile_text, values, max_size=2),
                "mode": st.sampled_from(["fast", "true"]),
                "note": st.none() | hostile_text.filter(lambda text: text != "null"),
            },
        ),
    ),
    st.tuples(st.just("status"), st.just({})),
)
cut_points = st.lists(st.integers(0, 400), max_size=8)

BODY_END = re.compile(r"</longcat_arg_value>\s*(<longcat_arg_key>|</longcat_tool_call>)")


def chunks(ids, cuts):
    edges = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    return [ids[a:b] for a, b in pairwise(edges)]


def joined(events):
    """Neighbouring deltas of one kind as one."""
    result = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, TextDelta | ReasoningDelta) and type(last) is type(event):
            result[-1] = type(event)(last.text + event.text)
        elif isinstance(event, ArgumentDelta) and isinstance(last, ArgumentDelta) and last.key == event.key:
            result[-1] = ArgumentDelta(event.call_id, event.key, last.text + event.text)
        else:
            result.append(event)
    return result


def parsed(tokenizer, tools, ids, cuts=()):
    parser = OutputParser(tokenizer, tools)
    events = [event for chunk in chunks(ids, cuts) for event in parser.push(chunk)]
    return parser.message(), joined([*events, *parser.finish()]), parser.message()


def written(tokenizer, *pieces):
    return encode_pieces(tokenizer, pieces)


def spelled(tokenizer, text):
    """Ids of a text in which tags are meant as tags."""
    tags = "|".join(map(re.escape, Tag))
    return written(tokenizer, *(Tag(part) if part in set(Tag) else part for part in re.split(f"({tags})", text)))


def message_of(named_calls, text="", reasoning=""):
    return AssistantMessage(
        text=text,
        reasoning=reasoning,
        calls=tuple(
            ToolCall(id=f"call_{i}", name=name, arguments=arguments) for i, (name, arguments) in enumerate(named_calls)
        ),
    )


def without_raw(message):
    cleaned = tuple(call.model_copy(update={"raw": ""}) for call in message.calls)
    return message.model_copy(update={"calls": cleaned})


@FEW
@given(named_calls=st.lists(calls, max_size=3), text=plain_text, reasoning=hostile_text, cuts=cut_points)
def test_any_turn_comes_back_in_any_chunking(
    byte_tokenizer, merging_tokenizer, tools, named_calls, text, reasoning, cuts
):
    message = message_of(named_calls, text, reasoning)
    for tokenizer in (byte_tokenizer, merging_tokenizer):
        ids = written(tokenizer, *assistant_pieces(message), Tag.EOS)
        _, events, result = parsed(tokenizer, tools, ids, cuts)
        assert without_raw(result) == message
        assert events == parsed(tokenizer, tools, ids)[1]
        assert events == parsed(tokenizer, tools, ids, range(len(ids)))[1]


@FEW
@given(named_calls=st.lists(calls, max_size=2), text=plain_text, cuts=cut_points)
def test_tags_spelled_as_text_come_back_too(text_tag_tokenizer, tools, named_calls, text, cuts):
    """Where tags are text, only a value that spells the end of a value and of its call is beyond telling."""
    message = message_of(named_calls, text)
    for value in (value for _, arguments in named_calls for value in arguments.values()):
        value_text = write_value(value)
        end = BODY_END.search(f"{value_text}</longcat_arg_value>\n</longcat_tool_call>")
        assume(end is not None and end.start() == len(value_text))
    ids = written(text_tag_tokenizer, *assistant_pieces(message), Tag.EOS)
    _, events, result = parsed(text_tag_tokenizer, tools, ids, cuts)
    assert without_raw(result) == message
    assert events == parsed(text_tag_tokenizer, tools, ids, range(len(ids)))[1]


@FEW
@given(data=st.data(), cuts=cut_points)
def test_anything_at_all_is_read_the_same_in_any_chunking(tokenizer, tools, data, cuts):
    piece = st.one_of(
        st.sampled_from(list(Tag)),
        st.sampled_from(["edit\n", "status", "path", " ", "\n", "{", '{"name": "edit"}', "(", "functions.edit"]),
        st.sampled_from(["<function_calls>", "</function_calls>", "[]", '[{"name": "status"}]', "<fun"]),
        st.binary(max_size=2),
    )
    ids = []
    for part in data.draw(st.lists(piece, max_size=14)):
        ids += [21 + byte for byte in part] if isinstance(part, bytes) else written(tokenizer, part)
    _, events, message = parsed(tokenizer, tools, ids)
    for other in (cuts, range(len(ids))):
        _, same_events, same_message = parsed(tokenizer, tools, ids, other)
        assert same_message == message
        assert same_events == events
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == message.text
    assert tuple(e.call for e in events if isinstance(e, CallFinished)) == message.calls
    assert [e.call_id for e in events if isinstance(e, CallStarted)] == [call.id for call in message.calls]


def only_call(tokenizer, tools, text):
    message = parse_turn(tokenizer, spelled(tokenizer, text), tools)
    (call,) = message.calls
    return call


def pair(key, value):
    return f"<longcat_arg_key>{key}</longcat_arg_key>\n<longcat_arg_value>{value}</longcat_arg_value>\n"


def test_events_of_a_turn(tokenizer, tools):
    ids = spelled(
        tokenizer,
        "<longcat_think>Hm.</longcat_think>Look:<longcat_tool_call>edit\n"
        + pair("path", "a.py")
        + "</longcat_tool_call>\n</longcat_s>",
    )
    _, events, message = parsed(tokenizer, tools, ids)
    assert events == [
        ReasoningDelta("Hm."),
        TextDelta("Look:"),
        CallStarted("call_0", "edit"),
        ArgumentDelta("call_0", "path", "a.py"),
        CallFinished(message.calls[0]),
    ]
    assert message.calls[0].raw == "edit\n" + pair("path", "a.py")


def test_events_come_as_soon_as_they_are_certain(byte_tokenizer, tools):
    parser = OutputParser(byte_tokenizer, tools)
    assert parser.push(written(byte_tokenizer, "Now ", Tag.TOOL_CALL, "edit")) == [TextDelta("Now ")]
    assert parser.push(written(byte_tokenizer, "\n")) == [CallStarted("call_0", "edit")]
    key = (Tag.ARG_KEY, "new", Tag.ARG_KEY_END, "\n", Tag.ARG_VALUE)
    assert parser.push(written(byte_tokenizer, *key, "x = ")) == [ArgumentDelta("call_0", "new", "x = ")]
    assert parser.push(written(byte_tokenizer, "1")) == [ArgumentDelta("call_0", "new", "1")]


def test_a_tag_split_over_chunks_is_held_back(text_tag_tokenizer, tools):
    parser = OutputParser(text_tag_tokenizer, tools)
    assert parser.push(text_tag_tokenizer.encode_text("see <longcat_tool")) == [TextDelta("see ")]
    assert parser.push(text_tag_tokenizer.encode_text("_box>")) == [TextDelta("<longcat_tool_box>")]


def test_look_alike_text_is_never_a_tag(byte_tokenizer, tools):
    """The model spells the tags with ordinary tokens: prose, when the tags are tokens of their own."""
    text = "<longcat_tool_call>status\n</longcat_tool_call>"
    message = parse_turn(byte_tokenizer, byte_tokenizer.encode_text(text), tools)
    assert message == AssistantMessage(text=text)


@pytest.mark.parametrize(
    ("before", "spelled_tag", "after"),
    [
        ((Tag.ARG_VALUE, "x", Tag.ARG_VALUE_END), "<longcat_arg_key>", (Tag.ARG_VALUE_END,)),
        ((Tag.ARG_VALUE, "x", Tag.ARG_VALUE_END), "</longcat_tool_call>", (Tag.ARG_VALUE_END,)),
        ((), "<longcat_arg_value>", (Tag.ARG_VALUE, "x", Tag.ARG_VALUE_END)),
    ],
)
def test_look_alike_text_is_never_a_tag_inside_a_call(byte_tokenizer, tools, before, spelled_tag, after):
    """Alone in a chunk neither."""
    opening = (Tag.TOOL_CALL, "edit\n", Tag.ARG_KEY, "old", Tag.ARG_KEY_END)
    pieces = [*opening, *before, str(spelled_tag), *after, Tag.TOOL_CALL_END]
    ids = [token_id for piece in pieces for token_id in written(byte_tokenizer, piece)]
    _, events, message = parsed(byte_tokenizer, tools, ids, range(len(ids)))
    assert parsed(byte_tokenizer, tools, ids)[1:] == (events, message)
    assert [call.name for call in message.calls] == ["edit"]


def test_a_value_ends_where_a_key_or_the_call_s_end_follows(tokenizer, tools):
    inner = "print('</longcat_arg_value>') # <longcat_arg_value></longcat_arg_value>x"
    call = only_call(
        tokenizer, tools, "<longcat_tool_call>edit\n" + pair("old", inner) + pair("new", "y") + "</longcat_tool_call>"
    )
    assert call.arguments == {"old": inner, "new": "y"}
    assert call.fault is None


@pytest.mark.parametrize("between", ["", " ", "\n", "\\n", "\\n\n"])
def test_white_space_between_key_and_value(tokenizer, tools, between):
    text = f"<longcat_arg_key>path</longcat_arg_key>{between}<longcat_arg_value> a</longcat_arg_value>"
    call = only_call(tokenizer, tools, f"<longcat_tool_call>edit\n{text}</longcat_tool_call>")
    assert (call.name, call.arguments, call.fault) == ("edit", {"path": " a"}, None)


@pytest.mark.parametrize("name", ["status", " status \n", "\nstatus\n", "status\n\n", "functions.status\n"])
def test_names(tokenizer, tools, name):
    call = only_call(tokenizer, tools, f"<longcat_tool_call>{name}</longcat_tool_call>")
    assert (call.name, call.arguments, call.fault) == ("status", {}, None)


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "edit", "arguments": {"path": "x"}}',
        '\n{\n "name": "functions.edit",\n "arguments": "{\\"path\\": \\"x\\"}"\n}\n',
        '{"name": "edit", "parameters": {"path": "x"}}',
        'functions.edit({path: "x"})',
        "functions.edit({'path': 'x'})\n",
        'edit\n{"path": "x"}\n',
        'edit\n<longcat_arg_key>{"path": "x"}</longcat_arg_key>\n',
        'edit\n<longcat_arg_key>{"path": "x"}',
        "edit\n<longcat_arg_key> path </longcat_arg_key><longcat_arg_value>x</longcat_arg_value>",
        "edit<longcat_arg_key>path<longcat_arg_value>x</longcat_arg_value>",
    ],
)
def test_other_forms_of_a_call(tokenizer, tools, body):
    call = only_call(tokenizer, tools, f"Sure.<longcat_tool_call>{body}</longcat_tool_call>\n")
    assert (call.name, call.arguments, call.fault) == ("edit", {"path": "x"}, None)
    assert call.raw == body


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("", "no tool name"),
        ("\n", "no tool name"),
        ("[1]", "no tool name"),
        ("{not json", "no tool name"),
        ('{"name": 3}', "no tool name"),
        ("remove\n", "unknown tool 'remove'"),
        ("functions.remove()", "unknown tool 'remove'"),
        ("edit\nwords\n", "text outside the arguments"),
        ("edit(words)", "text outside the arguments"),
        ('{"name": "edit", "arguments": [1]}', "text outside the arguments"),
        ("edit\n<longcat_arg_key>path</longcat_arg_key>", "'path' has no value"),
        ("edit\n" + pair("path", "a") + "<longcat_arg_key>old", "'old' has no value"),
        ("edit\n" + pair("path", "a") + pair("path", "b"), "'path' is given twice"),
    ],
)
def test_what_cannot_be_read_is_data(tokenizer, tools, body, fault):
    call = only_call(tokenizer, tools, f"<longcat_tool_call>{body}</longcat_tool_call>\n")
    assert call.fault is not None
    assert fault in call.fault
    assert "\n" not in call.fault
    assert call.arguments == {}
    assert call.raw == body


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ("", {}),
        ("edi", {}),
        ("edit\n<longcat_arg_key>pa", {}),
        ("edit\n" + pair("path", "a"), {"path": "a"}),
        ("edit\n" + pair("path", "a").rstrip(), {"path": "a"}),
        (
            "edit\n" + pair("path", "a") + "<longcat_arg_key>old</longcat_arg_key>\n<longcat_arg_value>half",
            {"path": "a"},
        ),
    ],
)
@pytest.mark.parametrize("end", ["", "</longcat_s>"])
def test_a_call_cut_off_is_marked_incomplete(tokenizer, tools, body, arguments, end):
    call = only_call(tokenizer, tools, f"<longcat_tool_call>{body}{end}")
    assert call.fault is not None
    assert "cut off" in call.fault
    assert call.arguments == arguments


def test_a_long_name_in_a_fault_stays_one_short_line(tokenizer, tools):
    call = only_call(tokenizer, tools, f"<longcat_tool_call>{'x' * 5000}\n</longcat_tool_call>")
    assert call.fault is not None
    assert len(call.fault) < 200


def test_a_block_that_opens_twice_begins_at_the_second_tag_in_any_chunking(tokenizer, tools):
    ids = tokenizer.encode_text('<function_calls>see <function_calls>[{"name": "status"}]</function_calls>')
    for cuts in ([], range(len(ids))):
        _, _, message = parsed(tokenizer, tools, ids, cuts)
        assert message.text == "<function_calls>see "
        assert [call.name for call in message.calls] == ["status"]


def test_calls_in_function_calls_tags(tokenizer, tools):
    body = '[{"name": "functions.edit", "arguments": {"path": "x"}}, {"name": "status"}, {"name": "rm"}]'
    message = parse_turn(tokenizer, tokenizer.encode_text(f"So: <function_calls>{body}</function_calls>\n"), tools)
    assert message.text == "So: "
    assert [(call.name, call.arguments) for call in message.calls] == [
        ("edit", {"path": "x"}),
        ("status", {}),
        ("rm", {}),
    ]
    assert [bool(call.fault) for call in message.calls] == [False, False, True]


@pytest.mark.parametrize(
    "text",
    [
        "use <function_calls> tags",
        "<function_calls>[1, 2]</function_calls>",
        "<function_calls>{oops</function_calls>",
        '<function_calls>[{"name": "edit"',
        "<function_calls",
    ],
)
def test_prose_about_function_calls_stays_prose(tokenizer, tools, text):
    assert parse_turn(tokenizer, tokenizer.encode_text(text), tools) == AssistantMessage(text=text)


def test_a_call_inside_thinking_is_a_call(tokenizer, tools):
    ids = spelled(tokenizer, "<longcat_think>So<longcat_tool_call>status\n</longcat_tool_call>\n</longcat_s>")
    message = parse_turn(tokenizer, ids, tools)
    assert message.reasoning == "So"
    assert [call.name for call in message.calls] == ["status"]


def test_text_after_a_call_is_kept_and_white_space_dropped(tokenizer, tools):
    call = "<longcat_tool_call>status\n</longcat_tool_call>\n"
    assert parse_turn(tokenizer, spelled(tokenizer, f"{call}\n{call}"), tools).text == ""
    assert parse_turn(tokenizer, spelled(tokenizer, f"{call}Done. "), tools).text == "\nDone. "


def test_call_ids_go_on_from_the_conversation(tokenizer, tools):
    ids = spelled(tokenizer, "<longcat_tool_call>status\n</longcat_tool_call>\n" * 2)
    assert [call.id for call in parse_turn(tokenizer, ids, tools, first_call=5).calls] == ["call_5", "call_6"]
