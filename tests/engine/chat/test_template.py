import json

from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.chat.declare_block import tools_pieces
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import conversation_pieces, encode_pieces, message_pieces, render
from kodkod_engine.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage, ToolSpec, UserMessage

FEW = settings(max_examples=60, deadline=None)
text = st.lists(st.one_of(st.sampled_from([*Tag, "\n", "  "]), st.text(max_size=5)), max_size=4).map("".join)
call = st.builds(
    ToolCall,
    id=st.just("call_0"),
    name=st.sampled_from(["edit", "status"]),
    arguments=st.dictionaries(st.sampled_from(["path", "old"]), text, max_size=2),
)
message = st.one_of(
    st.builds(SystemMessage, text=text),
    st.builds(UserMessage, text=text),
    st.builds(ToolMessage, call_id=st.just("call_0"), text=text),
    st.builds(AssistantMessage, text=text, reasoning=text, calls=st.lists(call, max_size=2).map(tuple)),
)


@FEW
@given(messages=st.lists(message, max_size=6))
def test_one_after_another_is_all_at_once(tokenizer, tools, messages):
    ids = encode_pieces(tokenizer, tools_pieces(tools))
    after_tool = False
    for entry in messages:
        ids += encode_pieces(tokenizer, message_pieces(entry, after_tool=after_tool))
        after_tool = isinstance(entry, ToolMessage)
    assert ids == render(tokenizer, messages, tools)
    assert [*ids, tokenizer.special.assistant_id] == render(tokenizer, messages, tools, generation_prompt=True)


@FEW
@given(messages=st.lists(message, max_size=6))
def test_data_adds_no_control_token(byte_tokenizer, messages):
    """The control tokens are those of the same conversation with every text emptied."""

    def emptied(entry):
        if isinstance(entry, AssistantMessage):
            calls = [c.model_copy(update={"arguments": dict.fromkeys(c.arguments, "")}) for c in entry.calls]
            return entry.model_copy(
                update={"text": "", "reasoning": "x" * bool(entry.reasoning), "calls": tuple(calls)}
            )
        return entry.model_copy(update={"text": ""})

    def controls(entries):
        return [i for i in render(byte_tokenizer, entries) if i in byte_tokenizer.control_ids]

    assert controls(messages) == controls([emptied(entry) for entry in messages])


def test_tools_come_first_and_in_one_order(byte_tokenizer, tools):
    messages = [SystemMessage(text="be brief")]
    ids = render(byte_tokenizer, messages, tools)
    assert ids == render(byte_tokenizer, messages, reversed(tools))
    rendered = byte_tokenizer.decode(ids, skip_special=False)
    assert rendered.startswith("<longcat_tool_declare>\n# Tools\n")
    assert rendered.endswith("</longcat_tool_declare><longcat_system>be brief")
    places = [rendered.index(f"### Tool name: {name}\n") for name in ("configure", "edit", "status")]
    assert places == sorted(places)


def test_non_ascii_is_kept_in_declarations(tools):
    tool = ToolSpec(name="é", description="größer", parameters={"properties": {"ключ": {"type": "string"}}})
    rendered = "".join(tools_pieces([tool]))
    schema = json.dumps(tool.parameters, ensure_ascii=False)
    assert f"### Tool name: é\nDescription: größer\n\nInputSchema: {schema}\n\n" in rendered
    assert "ключ" in schema


def test_without_tools_nothing_is_declared():
    assert tools_pieces([]) == []


def test_a_run_of_tool_results_opens_one_user_tag():
    results = [ToolMessage(call_id="call_0", text="one"), ToolMessage(call_id="call_1", text="two")]
    response = "<longcat_tool_response>{}</longcat_tool_response>".format
    assert "".join(conversation_pieces([*results, UserMessage(text="go on"), results[0]])) == (
        f"<longcat_user>{response('one')}{response('two')}<longcat_user>go on<longcat_user>{response('one')}"
    )


def test_strings_verbatim_everything_else_as_json():
    call = ToolCall(id="call_0", name="f", arguments={"s": ' "x"\n', "n": 1.5, "l": ["é", None, True], "o": {"a": 1}})
    rendered = "".join(conversation_pieces([AssistantMessage(calls=(call,))]))
    for value in (' "x"\n', "1.5", '["é", null, true]', '{"a": 1}'):
        assert f"<longcat_arg_value>{value}</longcat_arg_value>\n" in rendered


def test_a_faulty_call_is_written_without_control_tokens(byte_tokenizer):
    raw = "edit\n<longcat_arg_key>path"
    turn = AssistantMessage(calls=(ToolCall(id="call_0", name="edit", raw=raw, fault="cut off"),))
    ids = render(byte_tokenizer, [turn])
    assert byte_tokenizer.special.id_of(Tag.ARG_KEY) not in ids
    assert raw in byte_tokenizer.decode(ids, skip_special=False)
