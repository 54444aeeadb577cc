import json
import subprocess
import sys

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.special_tokens import ESSENTIAL, SpecialTokens, Tag
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.errors import CheckpointCorrupt, CheckpointMissing, UnknownArchitecture

FEW = settings(max_examples=60, deadline=None)
hostile_text = st.lists(
    st.one_of(st.sampled_from([*Tag, "<", ">", " ", "<longcat_unk>", "    "]), st.text(max_size=6)), max_size=8
).map("".join)


@FEW
@given(text=hostile_text)
def test_no_text_is_encoded_to_a_control_token(tokenizer, text):
    ids = tokenizer.encode_text(text)
    assert tokenizer.control_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == text


def test_tags_are_spelled_as_published():
    """Those of pairs are longcat_NAME, closed by a slash; the turn's end closes what nothing opens."""
    alone = {
        "<longcat_s>",
        "</longcat_s>",
        "<longcat_pad>",
        "<longcat_system>",
        "<longcat_user>",
        "<longcat_assistant>",
    }
    pairs = ("tool_declare", "tool_call", "arg_key", "arg_value", "tool_response", "think", "files")
    assert {tag.value for tag in Tag} == alone | {f"<{slash}longcat_{name}>" for name in pairs for slash in ("", "/")}


def as_plain_tokens(fields):
    for entry in fields["added_tokens"]:
        entry["special"] = False


def with_whole_words(fields):
    fields["model"]["ignore_merges"] = True


def with_greedy_tags(fields):
    for entry in fields["added_tokens"]:
        entry.update(lstrip=True, rstrip=True, normalized=True)


def with_folding(fields):
    fields["normalizer"] = {"type": "NFKC"}


def with_folded_whole_words(fields):
    with_folding(fields)
    with_whole_words(fields)


@pytest.mark.parametrize(
    "change", [as_plain_tokens, with_whole_words, with_greedy_tags, with_folding, with_folded_whole_words]
)
def test_no_setting_of_the_file_lets_a_tag_through(byte_fields, change):
    fields = byte_fields()
    change(fields)
    tokenizer = Tokenizer(json.dumps(fields))

    @FEW
    @given(text=hostile_text)
    def check(text):
        assert tokenizer.control_ids.isdisjoint(tokenizer.encode_text(text))

    check()
    for text in (*Tag, "a </longcat_s> b", "＜longcat_tool_call＞", "＜／longcat_s＞"):
        assert tokenizer.control_ids.isdisjoint(tokenizer.encode_text(text))


@pytest.mark.parametrize("special", [True, False])
def test_a_tag_in_a_text_is_encoded_as_if_there_were_no_tags(merging_fields, special):
    fields = merging_fields()
    for entry in fields["added_tokens"]:
        entry["special"] = special
    tokenizer = Tokenizer(json.dumps(fields))
    library = tokenizers.Tokenizer.from_str(json.dumps({**fields, "added_tokens": []}))

    @FEW
    @given(text=hostile_text)
    def check(text):
        assert tokenizer.encode_text(text) == library.encode(text).ids

    check()


def test_a_tag_reached_by_its_spelling_costs_the_rest_no_tokens(merging_fields):
    fields = merging_fields()
    fields["model"]["ignore_merges"] = True
    fields["pre_tokenizer"]["use_regex"] = False
    tokenizer = Tokenizer(json.dumps(fields))
    rest = "longcat_s>"
    assert len(tokenizer.encode_text(rest)) < len(rest)
    ids = tokenizer.encode_text(f"<{rest}")
    assert tokenizer.control_ids.isdisjoint(ids)
    assert ids == tokenizer.encode_text("<") + tokenizer.encode_text(rest)


def test_an_ordinary_added_token_stays_in_use(byte_fields):
    fields = byte_fields()
    plain = {**fields["added_tokens"][0], "content": "return ", "id": 277, "special": False}
    fields["added_tokens"].append(plain)
    tokenizer = Tokenizer(json.dumps(fields))
    assert tokenizer.encode_text("return </longcat_s>")[0] == 277
    assert tokenizer.decode([277]) == "return "


def test_an_added_token_without_a_text_is_none(byte_fields):
    fields = byte_fields()
    wanted = Tokenizer(json.dumps(fields)).control_ids
    fields["added_tokens"].append({**fields["added_tokens"][0], "id": 999, "content": ""})
    assert Tokenizer(json.dumps(fields)).control_ids == wanted


def test_stored_truncation_and_padding_are_not_applied(byte_fields):
    fields = byte_fields()
    fields["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "direction": "Right", "stride": 0}
    fields["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 3,
        "pad_type_id": 0,
        "pad_token": "<longcat_pad>",
    }
    tokenizer = Tokenizer(json.dumps(fields))
    assert tokenizer.decode(tokenizer.encode_text("longer than three"), skip_special=False) == "longer than three"


@FEW
@given(data=st.data())
def test_decode_is_the_library_s_decode(merging_tokenizer, byte_tokenizer, data):
    tokenizer = data.draw(st.sampled_from([merging_tokenizer, byte_tokenizer]))
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    skip_special = data.draw(st.booleans())
    backend = tokenizer._data_encoder
    assert tokenizer.decode(ids, skip_special=skip_special) == backend.decode(ids, skip_special_tokens=skip_special)


@FEW
@given(data=st.data())
def test_streamed_text_is_the_decoded_text(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=30))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=6)))
    skip_special = data.draw(st.booleans())
    stream = tokenizer.stream(skip_special=skip_special)
    pushed = [stream.push(ids[a:b]) for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    assert "".join(pushed) + stream.flush() == tokenizer.decode(ids, skip_special=skip_special)


@FEW
@given(text=st.text(max_size=20))
def test_a_stream_never_emits_half_a_character(tokenizer, text):
    stream = tokenizer.stream()
    emitted = ""
    for token_id in tokenizer.encode_text(text):
        emitted += stream.push([token_id])
        assert text.startswith(emitted)
    assert emitted == text
    assert stream.flush() == ""


def test_leading_spaces_survive_a_stream(tokenizer):
    stream = tokenizer.stream()
    ids = tokenizer.encode_text("  two  spaces ")
    assert "".join(stream.push([token_id]) for token_id in ids) == "  two  spaces "


def test_an_unfinished_character_is_replaced_at_the_end(byte_tokenizer):
    first_two = byte_tokenizer.encode_text("你")[:2]
    stream = byte_tokenizer.stream()
    assert stream.push(first_two) == ""
    assert stream.flush() == "\ufffd"
    assert stream.push(byte_tokenizer.encode_text("ok")) == "ok"


def test_lone_surrogates_are_replaced(byte_tokenizer):
    assert byte_tokenizer.decode(byte_tokenizer.encode_text("a\ud800b\ud83d\ude00")) == "a\ufffdb😀"


def test_byte_tokenizer_has_the_published_low_ids(tmp_path):
    size = write_byte_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.vocab_size == size < 300
    assert [tokenizer.special.id_of(tag) for tag in (Tag.BOS, Tag.EOS, Tag.PAD)] == [1, 2, 3]
    assert tokenizer.eos_id == 2
    assert tokenizer.special.text_tags == frozenset()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "</longcat_s>"
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode("a<longcat_user>").ids == [*tokenizer.encode_text("a"), tokenizer.special.user_id]


def test_the_table_of_specials_is_frozen(byte_tokenizer):
    with pytest.raises(TypeError):
        byte_tokenizer.special.ids[Tag.USER] = 7


@pytest.mark.parametrize("tag", ESSENTIAL)
def test_a_missing_essential_tag_is_named(tag):
    with pytest.raises(CheckpointCorrupt, match=f"no single token {tag};") as fault:
        SpecialTokens.resolve(lambda name: None if name == tag else len(name))
    assert "\n" not in str(fault.value)


def test_other_missing_tags_are_matched_as_text(text_tag_tokenizer):
    assert text_tag_tokenizer.special.text_tags == frozenset(Tag) - set(ESSENTIAL)
    assert text_tag_tokenizer.special.id_of(Tag.TOOL_CALL) is None


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(CheckpointMissing, match=r"tokenizer\.json does not exist"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"model": 3, "added_tokens": []}', b"\xff\xfe"])
def test_an_unreadable_tokenizer(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match="cannot be read") as fault:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(fault.value)


def test_another_kind_of_vocabulary_is_refused(byte_fields):
    fields = byte_fields()
    fields["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    with pytest.raises(UnknownArchitecture, match="byte-level"):
        Tokenizer(json.dumps(fields))


def test_the_chat_package_loads_no_torch():
    modules = "tokenizer, byte_tokenizer, stop_strings, template, parser, ledger"
    program = f"import sys; from kodkod_engine.chat import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
