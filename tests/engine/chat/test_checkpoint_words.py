"""In whose words tools are declared."""

import json
import logging

import pytest

from kodkod_engine.chat import checkpoint_words as module
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.checkpoint_words import checkpoint_words
from kodkod_engine.chat.declare_block import OWN_WORDS, ToolWords, tools_pieces, words_in
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.ledger_state import LedgerState
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import render
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import UserMessage

TEMPLATE = """\
{% if tools %}
    {{- "<longcat_tool_declare>\\n# Tools\\nThese are yours.\\n\\n## Tool namespace: function\\n\\n" }}
    {%- for tool in tools %}
        {{- "### Tool name: " + tool.function.name + "\\nDescription: " + tool.function.description }}
        {{- "\\n\\nInputSchema: " + (tool.function.parameters | tojson) + "\\n\\n" }}
        {%- if loop.last %}{% break %}{% endif %}
    {%- endfor %}
    {{- "Call <them> so: <longcat_tool_call>x\\n</longcat_tool_call> </longcat_tool_declare>" }}
{%- endif %}
{%- for message in messages %}
    {{- "<longcat_" + message.role + ">" }}
    {%- generation %}
    {{- message.content }}
    {%- endgeneration %}
{%- endfor %}
"""
WORDS = ToolWords("These are yours.", ("Call <them> so: ", Tag.TOOL_CALL, "x\n", Tag.TOOL_CALL_END, " "))
OTHER = TEMPLATE.replace("These are yours.", "Others.")


def in_a_file(folder, template):
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def in_settings(folder, template):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger=module.logger.name)
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_folder_without_a_template_has_our_words(tmp_path, warnings):
    assert checkpoint_words(tmp_path) is OWN_WORDS
    write_byte_tokenizer(tmp_path)
    assert Tokenizer.from_folder(tmp_path).words is OWN_WORDS
    assert warnings() == []


def test_words_are_those_of_the_template_in_a_file(tmp_path, warnings):
    in_a_file(tmp_path, TEMPLATE)
    in_settings(tmp_path, OTHER)  # the file goes before it, as elsewhere
    assert checkpoint_words(tmp_path) == WORDS
    assert warnings() == []


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE,
        [{"name": "default", "template": TEMPLATE}, {"name": "rag", "template": OTHER}],
        [{"name": "default", "template": OTHER}, {"name": "tool_use", "template": TEMPLATE}],
    ],
    ids=["text", "default", "for tools"],
)
def test_words_are_those_of_the_template_in_the_settings(tmp_path, template):
    in_settings(tmp_path, template)
    assert checkpoint_words(tmp_path) == WORDS


def test_only_tags_become_control_tokens(tmp_path, byte_tokenizer, tools):
    in_a_file(tmp_path, TEMPLATE.replace("These are", "<longcat_user>These are").replace("<them>", "<longcat_them>"))
    words = checkpoint_words(tmp_path)
    assert words.introduction == "<longcat_user>These are yours."
    assert words.note[0] == "Call <longcat_them> so: "
    ids = render(byte_tokenizer.with_words(words), [], tools)
    assert byte_tokenizer.special.user_id not in ids
    assert ids.count(byte_tokenizer.special.id_of(Tag.TOOL_CALL)) == 1


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[0].content }}", "does not declare tools"),
        ("", "does not declare tools"),
        (TEMPLATE.replace("# Tools", "# tools"), "does not declare tools"),
        (TEMPLATE.replace("| tojson", "| tojson(indent=2)"), "does not declare tools"),
        (TEMPLATE.replace("Tool namespace: function", "Namespace"), "does not declare tools"),
        ("{{ raise_exception('no tools, please') }}", "no tools, please"),
        ("{{ raise_exception('\\x1b[31mred\\n') }}", "?[31mred)"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ 'x' * 200000 }}", "too long"),
        ("{{ 'x' * 20000000000 }}", "MemoryError"),
        ("{{ '\\ud800' }}", "UnicodeEncodeError"),
        (ENDLESS, "exit code"),
    ],
)
def test_a_template_that_cannot_be_used_is_told_of_once(tmp_path, warnings, template, said):
    in_a_file(tmp_path, template)
    assert checkpoint_words(tmp_path) is OWN_WORDS
    (line,) = warnings()
    assert said in line
    assert str(tmp_path) in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, '{"chat_template": 7}', '{"chat_template": [{"name": "tool_use"}, 7]}']
)
def test_settings_that_cannot_be_read_fail_nothing(tmp_path, text):
    (tmp_path / "tokenizer_config.json").write_text(text, encoding="utf-8")
    assert checkpoint_words(tmp_path) is OWN_WORDS


def test_a_template_that_is_no_text_fails_nothing(tmp_path, warnings):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe{{")
    assert checkpoint_words(tmp_path) is OWN_WORDS
    assert "cannot be read" in warnings()[0]


def test_a_process_that_hangs_is_ended(tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    in_a_file(tmp_path, ENDLESS)
    assert checkpoint_words(tmp_path) is OWN_WORDS
    assert "timed out" in warnings()[0]


@pytest.mark.parametrize("words", [OWN_WORDS, WORDS])
def test_words_are_found_again_in_a_block(tools, words):
    block = "".join(tools_pieces(tools, words))
    assert words_in(block, tools) == words
    assert words_in(block, tools[1:]) is None


def test_ledger_and_rendering_say_the_same(tmp_path, tools):
    write_byte_tokenizer(tmp_path)
    in_a_file(tmp_path, TEMPLATE)
    tokenizer = Tokenizer.from_folder(tmp_path)
    ledger = TokenLedger.open(tokenizer, tools)
    ledger.append_user("hello")
    assert list(ledger.token_ids) == render(tokenizer, [UserMessage(text="hello")], tools)
    assert "These are yours." in tokenizer.decode(ledger.token_ids)


def test_a_conversation_that_was_begun_in_other_words_goes_on(tmp_path, tools):
    write_byte_tokenizer(tmp_path)
    begun = TokenLedger.open(Tokenizer.from_folder(tmp_path), tools, "system")
    in_a_file(tmp_path, TEMPLATE)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.words == WORDS
    saved = LedgerState.model_validate_json(begun.state().model_dump_json())
    ledger = TokenLedger.from_state(tokenizer, saved)
    ledger.append_user("hello")
    rebuilt = ledger.rebuild([UserMessage(text="again")])
    for later in (ledger, ledger.fork(len(begun)), rebuilt):
        assert later.token_ids[: len(begun)] == begun.token_ids
