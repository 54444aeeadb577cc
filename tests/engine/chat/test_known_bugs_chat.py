"""Faults other engines have had with this model's tokenizer, template and calls."""

import json

import jinja2
import pytest

from kodkod_engine.chat.declare_block import OWN_WORDS
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.parser import parse_turn
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import conversation_pieces, encode_pieces, render
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage, UserMessage

LAYOUT = """\
{% if tools %}
<longcat_tool_declare>
# Tools
{{ introduction }}

## Tool namespace: function

    {% for tool in tools %}
### Tool name: {{ tool.name }}
Description: {{ tool.description }}

InputSchema: {{ json(tool.parameters) }}

    {% endfor %}
{{ note }}</longcat_tool_declare>
    {%- endif %}
{%- set run = namespace(open=false) %}
{% for message in messages %}
    {% if message.role == "system" %}
{{ "<longcat_system>" + message.text }}
    {%- elif message.role == "user" %}
{{ "<longcat_user>" + message.text }}
    {%- elif message.role == "tool" %}
        {% if not run.open %}
{{ "<longcat_user>" }}
        {%- endif %}
{{ "<longcat_tool_response>" + message.text + "</longcat_tool_response>" }}
    {%- else %}
{{ "<longcat_assistant>" }}
        {%- if message.reasoning %}
{{ "<longcat_think>" + message.reasoning + "</longcat_think>" }}
        {%- endif %}
{{ message.text }}
        {%- for call in message.calls %}
{{ "<longcat_tool_call>" + call.name + "\\n" }}
            {%- for key, value in call.arguments.items() %}
{{ "<longcat_arg_key>" + key + "</longcat_arg_key>\\n" }}
{{- "<longcat_arg_value>" + (value if value is string else json(value)) + "</longcat_arg_value>\\n" }}
            {%- endfor %}
{{ "</longcat_tool_call>\\n" }}
        {%- endfor %}
{{ "</longcat_s>" }}
    {%- endif %}
    {% set run.open = message.role == "tool" %}
{% endfor %}
{% if generation_prompt %}
{{ "<longcat_assistant>" }}
{%- endif %}
"""


def jinja_rendering(messages, tools, *, trim, generation_prompt):
    environment = jinja2.Environment(trim_blocks=trim, lstrip_blocks=trim, autoescape=False)
    return environment.from_string(LAYOUT).render(
        messages=messages,
        tools=sorted(tools, key=lambda tool: tool.name),
        introduction=OWN_WORDS.introduction,
        note="".join(OWN_WORDS.note),
        generation_prompt=generation_prompt,
        json=lambda value: json.dumps(value, ensure_ascii=False),
    )


def test_bug_20_a_call_without_arguments(tokenizer, tools):
    ids = encode_pieces(tokenizer, [Tag.TOOL_CALL, "status\n", Tag.TOOL_CALL_END, "\n", Tag.EOS])
    (call,) = parse_turn(tokenizer, ids, tools).calls
    assert (call.name, call.arguments, call.fault) == ("status", {}, None)


def test_bug_20_string_arguments_are_not_stripped(tokenizer, tools):
    code = "    return x\n\n"
    pieces = [Tag.TOOL_CALL, "edit\n", Tag.ARG_KEY, "new", Tag.ARG_KEY_END, "\n", Tag.ARG_VALUE, code]
    pieces += [Tag.ARG_VALUE_END, "\n", Tag.TOOL_CALL_END, "\n"]
    (call,) = parse_turn(tokenizer, encode_pieces(tokenizer, pieces), tools).calls
    assert call.arguments == {"new": code}


def conversation():
    calls = (
        ToolCall(id="call_0", name="edit", arguments={"path": "a.py", "new": "  x = 1\n"}),
        ToolCall(id="call_1", name="status"),
        ToolCall(id="call_2", name="configure", arguments={"options": {"é": [1, None]}, "count": 2}),
    )
    return [
        SystemMessage(text="Be brief."),
        UserMessage(text="Fix it.\n"),
        AssistantMessage(text="On it.", reasoning="Hm.\n", calls=calls),
        *(ToolMessage(call_id=f"call_{i}", text=f"result {i}\n") for i in range(3)),
        AssistantMessage(text="Done."),
        UserMessage(text="Thanks"),
    ]


@pytest.mark.parametrize("with_tools", [True, False])
def test_bug_21_white_space_is_that_of_trimmed_blocks(tools, with_tools):
    declared = tools if with_tools else ()
    expected = jinja_rendering(conversation(), declared, trim=True, generation_prompt=True)
    assert "".join(conversation_pieces(conversation(), declared, generation_prompt=True)) == expected
    assert "<longcat_tool_call>edit\n<longcat_arg_key>" in expected


def test_bug_21_untrimmed_blocks_would_differ(tools):
    trimmed, untrimmed = (
        jinja_rendering(conversation(), tools, trim=trim, generation_prompt=True) for trim in (True, False)
    )
    assert trimmed != untrimmed


def test_bug_22_no_eos_after_a_prompt(byte_fields, tools):
    fields = byte_fields()
    fields["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<longcat_s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</longcat_s>", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            name: {"id": name, "ids": [token_id], "tokens": [name]}
            for name, token_id in (("<longcat_s>", 1), ("</longcat_s>", 2))
        },
    }
    tokenizer = Tokenizer(json.dumps(fields))
    assert tokenizer.special.tags[2] is Tag.EOS
    assert tokenizer.encode_text("hi") == [21 + byte for byte in b"hi"]
    ids = render(tokenizer, [UserMessage(text="hi")], tools, generation_prompt=True)
    assert ids[-1] == tokenizer.special.assistant_id
    assert not {1, 2} & set(ids)
    ledger = TokenLedger.open(tokenizer, tools, "system")
    ledger.append_user("hi")
    ledger.begin_turn()
    assert ledger.token_ids[-1] == tokenizer.special.assistant_id
    assert not {1, 2} & set(ledger.token_ids)
