"""What is allowed, against trying every token of a small vocabulary."""

from __future__ import annotations

import json
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.constraints import utf8
from kodkod_engine.constraints.acceptors import ValueState
from kodkod_engine.constraints.automaton import Literal, State, Trails
from kodkod_engine.constraints.file_text import MAX_BYTES, StretchOf
from kodkod_engine.constraints.free_text import AnyText
from kodkod_engine.constraints.json_values import KEPT_EVERY, JsonValue
from kodkod_engine.constraints.paths import Entry, ExistingPath, NewPath
from kodkod_engine.constraints.token_mask import TokenMask, union, with_id
from kodkod_engine.constraints.vocabulary import vocabulary_of

TEXTS = st.text(alphabet="ab d\n\té你=:().x", min_size=1, max_size=60)
KINDS = pytest.mark.parametrize("kind", ["byte", "merging"])


def plain_tokens(tokenizer) -> dict[int, bytes]:
    ids = (token_id for token_id in range(tokenizer.vocab_size) if token_id not in tokenizer.control_ids)
    return {token_id: data for token_id in ids if (data := tokenizer.bytes_of(token_id))}


def walk(tokens: dict[int, bytes], state: ValueState, draws: random.Random, steps: int):
    """Prefixes of a value and the states behind them."""
    written = b""
    for _ in range(steps):
        yield written, state
        allowed = sorted(state.allowed)
        if not allowed:
            return
        token_id = draws.choice(allowed)
        written += tokens[token_id]
        state = state.after(token_id)


def is_utf8_beginning(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        return fault.reason == "unexpected end of data"
    return True


def is_utf8(data: bytes) -> bool:
    return data.decode("utf-8", "ignore").encode() == data


@KINDS
@settings(max_examples=25, deadline=None)
@given(text=TEXTS, seed=st.integers(0, 2**32))
def test_stretches_of_a_text(kind, byte_tokenizer, merging_tokenizer, text, seed):
    tokenizer = byte_tokenizer if kind == "byte" else merging_tokenizer
    tokens, whole = plain_tokens(tokenizer), text.encode()
    boundaries = [len(text[:n].encode()) for n in range(len(text) + 1)]
    for written, state in walk(tokens, StretchOf(tokenizer, text).start(), random.Random(seed), 12):
        wanted = {
            token_id
            for token_id, data in tokens.items()
            if any(whole.startswith(written + data, begin) for begin in boundaries)
        }
        assert set(state.allowed) == wanted
        assert state.may_end == (written != b"" and is_utf8(written) and written.decode() in text)


@KINDS
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_text_is_any_text(kind, byte_tokenizer, merging_tokenizer, seed):
    tokenizer = byte_tokenizer if kind == "byte" else merging_tokenizer
    tokens = plain_tokens(tokenizer)
    for written, state in walk(tokens, AnyText(tokenizer, may_be_empty=False).start(), random.Random(seed), 12):
        wanted = {token_id for token_id, data in tokens.items() if is_utf8_beginning(written + data)}
        assert set(state.allowed) == wanted
        assert state.may_end == (bool(written) and is_utf8(written))


@given(st.binary(max_size=6))
def test_the_automaton_of_utf8_is_that_of_the_decoder(data):
    assert (utf8.advance(utf8.BETWEEN, data) != utf8.NOWHERE) == is_utf8_beginning(data)
    assert (utf8.advance(utf8.BETWEEN, data) == utf8.BETWEEN) == is_utf8(data)


class Listing:
    """See `Folders`: a fixed set of paths to files, folders among them, of which some may be named."""

    def __init__(self, files: set[str], *, folders_named: bool) -> None:
        self.files, self.folders_named = files, folders_named
        self.asked: list[bytes] = []

    def entries(self, folder: bytes) -> list[Entry]:
        self.asked.append(folder)
        inside = [file.encode()[len(folder) :] for file in self.files if file.encode().startswith(folder)]
        names = {rest.split(b"/")[0]: b"/" in rest for rest in inside}
        return [Entry(name, deep, self.folders_named or not deep) for name, deep in sorted(names.items())]

    def all_named(self) -> set[bytes]:
        folders = {file[: at + 1] for file in self.files for at, sign in enumerate(file) if sign == "/"}
        both = folders | {folder[:-1] for folder in folders} if self.folders_named else set()
        return {path.encode() for path in self.files | both}


NAMES = st.sampled_from(["a", "ab", "pkg", "mod.py", "model.py", "é.py", "你", "def"])
FILES = st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8).map(
    lambda paths: {path for path in paths if not any(other.startswith(f"{path}/") for other in paths)}
)


@KINDS
@settings(max_examples=40, deadline=None)
@given(files=FILES, folders=st.booleans(), seed=st.integers(0, 2**32))
def test_paths_that_exist(kind, byte_tokenizer, merging_tokenizer, files, folders, seed):
    tokenizer = byte_tokenizer if kind == "byte" else merging_tokenizer
    tokens, listing = plain_tokens(tokenizer), Listing(files, folders_named=folders)
    named, written = listing.all_named(), b""
    for written, state in walk(tokens, ExistingPath(tokenizer, listing).start(), random.Random(seed), 40):
        wanted = {t for t, data in tokens.items() if any(path.startswith(written + data) for path in named)}
        allowed = set(state.allowed)
        assert allowed <= wanted
        left = {path for path in named if path.startswith(written)}
        assert allowed == wanted or (len(left) == len(allowed) == 1), "one way alone: one token"
        assert state.may_end == (written in named)
    assert written in named


@KINDS
@settings(max_examples=60, deadline=None)
@given(files=FILES, pick=st.integers(0, 7))
def test_paths_are_allowed_as_they_are_encoded(kind, byte_tokenizer, merging_tokenizer, files, pick):
    tokenizer = byte_tokenizer if kind == "byte" else merging_tokenizer
    path = sorted(files)[pick % len(files)]
    state = ExistingPath(tokenizer, Listing(files, folders_named=False)).start()
    for token_id in tokenizer.encode_text(path):
        assert token_id in state.allowed
        state = state.after(token_id)
    assert state.may_end


def test_folders_are_read_as_far_as_the_path_goes(byte_tokenizer):
    listing = Listing({"a/b/c.py", "d/e/f.py"}, folders_named=False)
    state = ExistingPath(byte_tokenizer, listing).start()
    for token_id in byte_tokenizer.encode_text("a/"):
        assert token_id in state.allowed
        state = state.after(token_id)
    assert state.allowed
    assert not any(folder.startswith(b"d/") for folder in listing.asked)


@KINDS
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_new_paths_stay_below(kind, byte_tokenizer, merging_tokenizer, seed):
    tokenizer = byte_tokenizer if kind == "byte" else merging_tokenizer
    tokens, draws = plain_tokens(tokenizer), random.Random(seed)
    signs = [token_id for sign in "./" for token_id in tokenizer.encode_text(sign)]

    class Biased(random.Random):
        def choice(self, allowed):
            dots = [token_id for token_id in signs if token_id in allowed]
            return draws.choice(dots) if dots and draws.random() < 0.7 else draws.choice(allowed)

    for written, state in walk(
        tokens, NewPath(tokenizer, (".git",), lambda path: path != "taken").start(), Biased(), 14
    ):
        names = written.decode("utf-8", "replace").split("/")
        assert not {"", ".", "..", ".git"} & {name.lower() for name in names[:-1]}
        ends = is_utf8(written) and names[-1].lower() not in ("", ".", "..", ".git") and written != b"taken"
        assert state.may_end == ends


@pytest.mark.parametrize("path", ["a.py", "src/new/ü.py", "..hidden", "a..b/c", ".github/x", "gitignore", "a b/c"])
def test_new_paths_may_be_what_files_are_called(tokenizer, path):
    state = NewPath(tokenizer, (".git",)).start()
    for token_id in tokenizer.encode_text(path):
        assert token_id in state.allowed, path
        state = state.after(token_id)
    assert state.may_end


@pytest.mark.parametrize(
    ("path", "is_open"), [("src/a.py/x", False), ("a.py/x", True), ("src/a.pyc/x", True), ("src/a.py", True)]
)
def test_new_paths_lead_through_nothing_that_is_closed(tokenizer, path, is_open):
    state = NewPath(tokenizer, closed=lambda folder: {b"a.py"} if folder == b"src/" else set()).start()
    ids = tokenizer.encode_text(path)
    for place, token_id in enumerate(ids):
        if token_id not in state.allowed:
            assert not is_open
            assert tokenizer.decode(ids[: place + 1]).startswith("src/a.py/")
            return
        state = state.after(token_id)
    assert is_open


@KINDS
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_new_paths_are_never_too_long_and_always_go_on_or_end(kind, byte_tokenizer, merging_tokenizer, seed):
    tokenizer = byte_tokenizer if kind == "byte" else merging_tokenizer
    draws, state, written = random.Random(seed), NewPath(tokenizer, (".git",)).start(), b""
    while state.allowed:
        token_id = draws.choice(list(state.allowed))
        written += tokenizer.bytes_of(token_id)
        state = state.after(token_id)
        assert max(map(len, written.split(b"/"))) <= 255
    assert state.may_end
    assert len(written) < 2_000


STRINGS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=5)
"""The library refuses DEL unless it is escaped."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)


@KINDS
@settings(max_examples=30, deadline=None)
@given(value=st.dictionaries(STRINGS, JSON, max_size=3) | st.lists(JSON, max_size=3))
def test_json_is_allowed_as_the_template_writes_it(kind, byte_tokenizer, merging_tokenizer, value):
    tokenizer = byte_tokenizer if kind == "byte" else merging_tokenizer
    state = JsonValue(tokenizer, {"type": ["object", "array"]}).start()
    for token_id in tokenizer.encode_text(json.dumps(value, ensure_ascii=False)):
        assert token_id in state.allowed, json.dumps(value, ensure_ascii=False)
        state = state.after(token_id)
    assert state.may_end


def test_a_long_json_text_is_not_remembered_once_for_each_of_its_tokens(merging_tokenizer):
    text = json.dumps({"s": "first and second " * 200, "n": 12})
    states = [JsonValue(merging_tokenizer, {"type": "object"}).start()]
    for token_id in merging_tokenizer.encode_text(text):
        assert token_id in states[-1].allowed
        states.append(states[-1].after(token_id))
    assert states[-1].may_end
    assert sum(state._matcher is not None for state in states) <= 2 + len(states) / KEPT_EVERY


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_json_goes_on_from_any_place_as_from_the_start(merging_tokenizer, seed):
    """As when a draft is rejected: some tokens back, and on in another way."""
    draws, schema = random.Random(seed), {"type": "object", "properties": {"s": {"type": "string"}, "n": {"enum": [1]}}}
    walked = [((), JsonValue(merging_tokenizer, schema).start())]
    for _ in range(150):
        ids, state = draws.choice(walked) if draws.random() < 0.1 else walked[-1]
        following = sorted(state.allowed)
        if following:
            token_id = draws.choice(following)
            walked.append(((*ids, token_id), state.after(token_id)))
    for ids, state in draws.sample(walked, 5):
        fresh = JsonValue(merging_tokenizer, schema).start()
        for token_id in ids:
            fresh = fresh.after(token_id)
        assert (set(state.allowed), state.may_end) == (set(fresh.allowed), fresh.may_end)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 120}, ["3", "99", "120"], ["2", "121", "03", "1.0", "-5", " 7"]),
        ({"type": "boolean"}, ["true", "false"], ["True", "1", "tru"]),
        ({"type": "array", "items": {"type": "string"}}, ['["a", "b"]', '["a","b"]', "[]"], ["[1]", '["a"', "a"]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, ["null", "-4"], ["nul", '"4"']),
        ({"enum": [1, 2]}, ["1", "2"], ["3"]),
    ],
)
def test_json_keeps_to_its_schema(tokenizer, schema, good, bad):
    def accepts(text: str) -> bool:
        state = JsonValue(tokenizer, schema).start()
        for token_id in tokenizer.encode_text(text):
            if token_id not in state.allowed:
                return False
            state = state.after(token_id)
        return state.may_end

    assert [text for text in good if not accepts(text)] == []
    assert [text for text in bad if accepts(text)] == []


@pytest.mark.parametrize("schema", [{"not": {"type": "string"}}, {"type": "banana"}])
def test_a_schema_that_is_refused_is_named(tokenizer, schema):
    with pytest.raises(ValueError, match=r"^llguidance refuses its schema \([^\n]*\)$"):
        JsonValue(tokenizer, schema)


def test_what_the_library_gives_up_on_is_told_shortly(tokenizer):
    """It tells its whole grammar behind the cause."""
    state = JsonValue(tokenizer, {"type": "object", "properties": {f"p{place}": {} for place in range(600)}}).start()
    (opening,) = tokenizer.encode_text("{")
    with pytest.raises(ValueError, match=r"^llguidance gave up \([^\n]{1,200}\)$"):
        state.after(opening)


def test_what_cannot_be_quoted_is_named(byte_tokenizer):
    with pytest.raises(ValueError, match="the file is empty"):
        StretchOf(byte_tokenizer, "")
    with pytest.raises(ValueError, match="more than 1,048,576"):
        StretchOf(byte_tokenizer, "x" * (MAX_BYTES + 1))


def test_sets_are_joined(merging_tokenizer):
    size = merging_tokenizer.vocab_size
    mask, listed = TokenMask.of(range(0, 200, 3), size), frozenset({1, 3})
    assert union([listed, {5}]) == {1, 3, 5}
    assert union([mask, listed, TokenMask.of([8], size)]) == set(mask) | {1, 3, 8}
    assert with_id(mask, 1) == set(mask) | {1}
    assert with_id(listed, 9) == {1, 3, 9}
    assert vocabulary_of(merging_tokenizer) is vocabulary_of(merging_tokenizer)


def test_trails_lead_where_a_walk_from_the_start_does():
    """Random beginnings, continuations and turns away, from several threads."""

    class Counting:
        """Allows 0 to 4, and knows the way it took."""

        def __init__(self, way=()):
            self.way = way

        def allowed(self):
            return frozenset(range(5))

        def after(self, token_id):
            return [Counting((*self.way, token_id))]

    trails, wrong = Trails(State([Counting()])), []

    def ask(seed: int) -> None:
        draws, ids = random.Random(seed), []
        for _ in range(300):
            ids = ids[: draws.randrange(len(ids) + 1)] if draws.random() < 0.2 else [*ids, draws.randrange(5)]
            if trails.state(ids)._places[0].way != tuple(ids):
                wrong.append(ids)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_literal_leaves_no_choice():
    state = State([Literal((4, 5), 0, list)])
    assert (state.allowed, state.after(4).allowed, state.after(4).after(5).allowed) == ((4,), (5,), frozenset())
    assert state.after(9).allowed == frozenset()
