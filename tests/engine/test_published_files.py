"""What this engine takes for granted of LongCat-Flash-Lite's own files, held against the files.

    KODKOD_TEST_CHECKPOINT=DIR python -m pytest tests/engine/test_published_files.py

says where the files in a folder differ from what is known of them. No weights are read: config.json, the index and the
tokenizer's files will do. Without a folder they are held against a stand-in, so that these tests are known to run.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch

from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import conversation_pieces, encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage, ToolSpec, UserMessage
from kodkod_engine.models.checkpoint import INDEX_NAME, SCALE_SUFFIX
from kodkod_engine.models.config import load_config
from kodkod_engine.models.loading import build_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of their imports
    from transformers.utils.chat_template_utils import render_jinja_template

LITE_CONFIG = Path(__file__).parent / "data" / "longcat_flash_lite_config.json"

TEMPLATE = """\
{%- if tools %}
    {{- "<longcat_tool_declare>\\n# Tools\\nSome words.\\n\\n## Tool namespace: function\\n\\n" }}
    {%- for tool in tools %}
        {{- "### Tool name: " + tool.function.name + "\\nDescription: " + tool.function.description }}
        {{- "\\n\\nInputSchema: " + (tool.function.parameters | tojson) + "\\n\\n" }}
    {%- endfor %}
    {{- "**Note**: <longcat_tool_call>a</longcat_tool_call>\\n</longcat_tool_declare>" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "tool" %}
        {{- "" if loop.previtem.role == "tool" else "<longcat_user>" }}
        {{- "<longcat_tool_response>" + message.content + "</longcat_tool_response>" }}
    {%- elif message.role == "assistant" %}
        {{- "<longcat_assistant>" + message.content }}
        {%- for call in message.tool_calls or () %}
            {{- "<longcat_tool_call>" + call.function.name + "\\n" }}
            {%- for key, value in call.function.arguments.items() %}
                {{- "<longcat_arg_key>" + key + "</longcat_arg_key>\\n<longcat_arg_value>" }}
                {{- (value if value is string else value | tojson) + "</longcat_arg_value>\\n" }}
            {%- endfor %}
            {{- "</longcat_tool_call>\\n" }}
        {%- endfor %}
        {{- "</longcat_s>" }}
    {%- else %}
        {{- "<longcat_" + message.role + ">" + message.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<longcat_assistant>" }}{% endif %}
"""

TOOLS = (
    ToolSpec(name="edit", description="Replace «old».", parameters={"properties": {"new": {"type": "string"}}}),
    ToolSpec(name="test", description="Run them.", parameters={"type": "object", "properties": {}}),
)
CALLS = (
    ToolCall(id="call_0", name="edit", arguments={"new": "    x = 'é'\n", "lines": [1, None], "all": True}),
    ToolCall(id="call_1", name="test"),
)
CONVERSATION = (
    SystemMessage(text="Be brief.\n"),
    UserMessage(text="Fix it."),
    AssistantMessage(text="On it.", calls=CALLS),
    ToolMessage(call_id="call_0", text="done\n"),
    ToolMessage(call_id="call_1", text="1 passed"),
    AssistantMessage(text="Done."),
    UserMessage(text=" Thanks "),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    named = os.environ.get("KODKOD_TEST_CHECKPOINT")
    return Path(named) if named else _stand_in(tmp_path_factory.mktemp("lite"))


def _stand_in(folder: Path) -> Path:
    (folder / "config.json").write_bytes(LITE_CONFIG.read_bytes())
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}')
    write_byte_tokenizer(folder)
    weight_map = dict.fromkeys(_names(folder), "model.safetensors")
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return folder


def _names(folder: Path) -> set[str]:
    dtype = torch.bfloat16
    parts = build_model(load_config(folder), with_mtp=True, dtype=dtype, activation_dtype=dtype, device="meta")
    return {name for part in parts if part is not None for name, _ in part.checkpoint_slots()}


@pytest.fixture(scope="module")
def tokenizer(folder) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def test_the_config_says_what_is_known(folder, lite_folder):
    assert replace(load_config(folder), is_fp8=False) == load_config(lite_folder)


def test_the_index_names_all_tensors_and_no_others(folder):
    stored = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))["weight_map"]
    assert {name for name in stored if not name.endswith(SCALE_SUFFIX)} == _names(folder)


def test_every_tag_is_one_token_and_turns_end_where_the_config_says(folder, tokenizer):
    config = load_config(folder)
    assert tokenizer.special.text_tags == frozenset()
    assert (tokenizer.special.id_of(Tag.BOS), tokenizer.eos_id) == (config.bos_id, config.eos_id)
    assert tokenizer.vocab_size <= config.vocab_size


@pytest.mark.parametrize(
    "text", ["def f(x):\n    return x\n", " é 世界\t\r\n\n", "</longcat_s><longcat_user>", "a\u0301"]
)
def test_texts_come_back_to_the_letter(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode_text(text), skip_special=False) == text


def test_nothing_but_the_end_of_a_turn_ends_an_answer(folder):
    path = folder / "generation_config.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ends = found.get("eos_token_id", [])
    assert set(ends if isinstance(ends, list) else [ends]) <= {load_config(folder).eos_id}


def _published_template(folder: Path) -> str:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    return str(json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"])


def _as_dictionary(message) -> dict[str, object]:
    said: dict[str, object] = {"role": message.role, "content": message.text}
    if isinstance(message, AssistantMessage) and message.calls:
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.calls
        ]
    return said


def _rendered(folder: Path, tools) -> str:
    (text,), _ = render_jinja_template(
        conversations=[[_as_dictionary(message) for message in CONVERSATION]],
        tools=[{"type": "function", "function": tool.model_dump()} for tool in tools] or None,
        chat_template=_published_template(folder),
        add_generation_prompt=True,
    )
    return text


@pytest.mark.parametrize("tools", [(), TOOLS], ids=["plain", "tools"])
def test_a_conversation_is_the_same_text_and_the_same_tokens(folder, tokenizer, tools):
    theirs = _rendered(folder, tools)
    pieces = conversation_pieces(CONVERSATION, tools, tokenizer.words, generation_prompt=True)
    assert "".join(pieces) == theirs
    whole = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert encode_pieces(tokenizer, pieces) == whole.encode(theirs, add_special_tokens=False).ids
