"""Calls under the constraint of an ordinary model: whatever is drawn can be done, and what can be done can be said."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from agent.conftest import FINISH, MEND, all_events, call, says
from agent.constrained import assert_sound, context_of, drawn_call, make_tree
from kodkod_agent import events
from kodkod_agent.call_grammar import CallGrammar
from kodkod_agent.call_world import Automata, CallWorld
from kodkod_agent.config import AgentConfig
from kodkod_agent.session import Session
from kodkod_agent.state import Status
from kodkod_engine import load_engine
from kodkod_engine.api import FinishReason, GenerationRequest, SamplingParams, collect
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.parser import parse_turn
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import assistant_pieces, call_pieces, encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import ToolCall, ToolSpec
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint
from kodkod_engine.nano import folder as nano_folder
from kodkod_tools import registry
from kodkod_tools.base import ErrorCode, ToolContext
from kodkod_tools.text.replace import Applied, replace


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_tree`; nothing changes it."""
    return make_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def tools(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> ToolContext:
    return context_of(tree, tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="session")
def nano_tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(Path(str(nano_folder())))


@pytest.fixture(scope="session")
def grammars(tokenizer: Tokenizer, nano_tokenizer: Tokenizer, tools: ToolContext) -> dict[str, CallGrammar]:
    return {
        "bytes": CallGrammar(tokenizer, registry.specs(), tools),
        "nano": CallGrammar(nano_tokenizer, registry.specs(), tools),
    }


def check_drawn(tokenizer: Tokenizer, grammar: CallGrammar, tools: ToolContext, seeds: range, haste: float) -> set[str]:
    names = set()
    for seed in seeds:
        made = drawn_call(tokenizer, grammar, seed, haste)
        assert_sound(made, tools)
        names.add(made.name)
    return names


@pytest.mark.parametrize(("kind", "count"), [("bytes", 250), ("nano", 500)])
def test_every_drawn_call_can_be_done(kind, count, grammars, tools, tokenizer, nano_tokenizer):
    vocabulary = tokenizer if kind == "bytes" else nano_tokenizer
    names = check_drawn(vocabulary, grammars[kind], tools, range(count), 0.3)
    assert names == {spec.name for spec in registry.specs()}


@pytest.mark.slow
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("part", range(10))
def test_a_hundred_thousand_drawn_calls_can_be_done(part, grammars, tools, tokenizer, nano_tokenizer):
    for kind, vocabulary in (("bytes", tokenizer), ("nano", nano_tokenizer)):
        begin = 1_000_000 + 5_000 * part
        check_drawn(vocabulary, grammars[kind], tools, range(begin, begin + 5_000), 0.3)


# Nothing that can be done is left out


def texts_of(tree: Path) -> dict[str, str]:
    paths = ("src/app.py", "src/apple.py", "src/inner/grüße.txt", "readme.md", "link/app.py", "ignored/seen.py")
    return {path: (tree / path).read_bytes().decode() for path in paths}


ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SOME = ANY.filter(bool)
PLACES = st.sampled_from([".", "src", "src/", "src/app.py", "src/inner/grüße.txt", "data.bin", "link", "readme.md"])
FOLDERS = st.sampled_from([".", "src", "src/inner/", "link/inner", "ignored"])


@st.composite
def edits(draw, tree: Path):
    texts = texts_of(tree)
    path = draw(st.sampled_from(sorted(texts)))
    text = texts[path]
    start = draw(st.integers(0, len(text) - 1))
    old = text[start : start + draw(st.integers(1, 40))]
    made = {"path": path, "old": old, "new": draw(ANY.filter(lambda new: new != old))}
    made |= {"replace_all": draw(st.booleans())} if draw(st.booleans()) else {}
    # Where every place is meant a line says nothing.
    with_line = not made.get("replace_all") and draw(st.booleans())
    made |= {"line": draw(st.integers(1, text.count("\n") or 1))} if with_line else {}
    outcome = replace(text, old, made["new"], replace_all=made.get("replace_all", False), line=made.get("line"))
    assume(isinstance(outcome, Applied))
    return made


def optional(**fields):
    return st.fixed_dictionaries({}, optional=fields)


def joined(*parts):
    return st.tuples(*parts).map(lambda found: {key: value for part in found for key, value in part.items()})


def fixed(**fields):
    return st.fixed_dictionaries(fields)


TARGETS = st.lists(st.sampled_from(["tests/test_a.py", "a.py::B::test_é"]), max_size=3)
SECONDS = st.sampled_from([0.5, 1.0, 30.0, 600.0])
ARGUMENTS = {
    "view": joined(fixed(path=PLACES), st.sampled_from([{}, {"start": 1}, {"end": 1}, {"around": 1}])),
    "write": fixed(path=st.sampled_from(["new.py", "src/new/ü.py", "src/app.py", ".x/..y"]), content=ANY),
    "search": joined(
        fixed(pattern=SOME),
        optional(path=PLACES, glob=SOME, literal=st.booleans(), ignore_case=st.booleans(), context=st.integers(0, 20)),
    ),
    "find": joined(fixed(name=SOME), optional(path=FOLDERS)),
    "shell": st.one_of(
        joined(fixed(command=SOME), optional(timeout_s=SECONDS, background=st.booleans())),
        joined(fixed(job=SOME), optional(timeout_s=SECONDS, kill=st.booleans())),
    ),
    "git": st.one_of(
        joined(fixed(action=st.sampled_from(["status", "diff", "log"])), optional(path=st.just("gone/away.py"))),
        fixed(action=st.just("commit"), message=SOME.filter(str.strip)),
        joined(fixed(action=st.just("blame"), path=st.just("readme.md")), optional(start=st.just(1), end=st.just(2))),
        fixed(action=st.just("restore"), path=st.just("gone.py"), revision=st.just("HEAD~1")),
    ),
    "test": optional(targets=TARGETS, timeout_s=SECONDS, locate=st.booleans()),
    "finish": joined(fixed(summary=SOME), optional(verified=st.booleans())),
}


@pytest.mark.parametrize("name", [*ARGUMENTS, "edit"])
@pytest.mark.parametrize("kind", ["bytes", "nano"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), order=st.randoms(use_true_random=False))
def test_what_can_be_done_can_be_said(kind, name, data, order, grammars, tree, tools, tokenizer, nano_tokenizer):
    """As the template writes it, token by token; a path comes before what depends on it, all else in any order."""
    vocabulary = tokenizer if kind == "bytes" else nano_tokenizer
    arguments = data.draw(edits(tree) if name == "edit" else ARGUMENTS[name])
    keys = [key for key in arguments if key not in ("path", "action")]
    order.shuffle(keys)
    keys = [key for key in ("path", "action") if key in arguments] + keys
    made = ToolCall(id="", name=name, arguments={key: arguments[key] for key in keys})
    registry.parse_call(made)
    ids = encode_pieces(vocabulary, call_pieces(made))
    constraint = grammars[kind].constraint()
    for place in range(len(ids)):
        allowed = constraint.allowed_ids(ids[:place])
        assert allowed is None or ids[place] in allowed, vocabulary.decode(ids[: place + 1], skip_special=False)
    assert not constraint.loosened


# Prose, several calls, and what the first of them change


def said(tokenizer: Tokenizer, *calls: ToolCall, text: str = "", reasoning: str = "") -> list[int]:
    return encode_pieces(tokenizer, assistant_pieces(says(text, *calls, reasoning=reasoning)))


def first_refused(constraint, ids: Sequence[int]) -> int | None:
    """The place of the first id that is not allowed."""
    for place, token_id in enumerate(ids):
        allowed = constraint.allowed_ids(ids[:place])
        if allowed is not None and token_id not in allowed:
            return place
    return None


def test_prose_and_reasoning_are_free(tokenizer, grammars):
    constraint = grammars["bytes"].constraint()
    ids = said(tokenizer, call("find", name="x"), call("test"), text="First <longcat_arg_key>", reasoning="Hm.\n")
    assert first_refused(constraint, [*ids, *tokenizer.encode_text("and on"), tokenizer.eos_id]) is None
    opened = ids.index(tokenizer.special.ids[Tag.TOOL_CALL])
    assert constraint.allowed_ids(ids[:opened]) is None
    assert constraint.allowed_ids(ids) is None


def test_an_edit_quotes_the_file_as_the_edits_before_it_leave_it(tokenizer, grammars):
    first = call("edit", path="src/app.py", old="return a - b", new="return a + c")
    second = call("edit", path="./src/app.py", old="a + c", new="a + b")
    of_old = call("edit", path="src/app.py", old="a - b", new="x")
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, first, second)) is None
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, second)) is not None
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, of_old)) is None
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, first, of_old)) is not None


@pytest.mark.parametrize(
    "said_of_it",
    [{"line": 5}, {"replace_all": True}, {"replace_all": False, "line": 1}, {"line": 1, "replace_all": False}],
    ids=str,
)
def test_an_edit_of_what_stands_in_several_places_says_which_it_means(tokenizer, grammars, said_of_it):
    made = call("edit", path="src/app.py", old="def", new="y", **said_of_it)
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, made)) is None


PLACE_FIRST = ("path", "line", "replace_all", "old", "new")


@pytest.mark.parametrize(
    ("which", "can_be_said"),
    [
        ({"line": 1, "old": "def"}, True),
        ({"line": 5, "old": "def"}, True),
        ({"line": 2, "old": "def"}, False),
        ({"line": 2, "old": "def add"}, True),
        ({"line": 1, "old": "a"}, False),
        ({"replace_all": True, "old": "a"}, True),
        ({"line": 1, "replace_all": True, "old": "a"}, True),
        ({"line": 1, "replace_all": False, "old": "a"}, False),
        ({"replace_all": False, "old": "def"}, False),
        ({"replace_all": False, "old": "def add"}, True),
    ],
    ids=str,
)
def test_an_edit_that_names_its_place_first_quotes_what_can_be_told_by_it(tokenizer, grammars, which, can_be_said):
    made = call("edit", path="src/app.py", new="y", **which)
    in_order = made.model_copy(
        update={"arguments": {key: made.arguments[key] for key in PLACE_FIRST if key in made.arguments}}
    )
    assert (first_refused(grammars["bytes"].constraint(), said(tokenizer, in_order)) is None) == can_be_said


def test_where_no_line_tells_the_places_from_each_other_all_are_meant(tokenizer, grammars):
    written = call("write", path="src/twice.py", content="x = x\n")
    tries = [{}, {"line": 1}, {"replace_all": False}, {"replace_all": True}]
    edits = [call("edit", path="src/twice.py", old="x", new="y", **which) for which in tries]
    refused = [first_refused(grammars["bytes"].constraint(), said(tokenizer, written, edit)) for edit in edits]
    assert [place is None for place in refused] == [False, False, False, True]


@pytest.mark.parametrize(("new", "is_kept"), [("\u0709x", False), ("zqz", True)])
def test_an_edit_that_the_files_encoding_cannot_keep_changes_nothing_for_the_calls_behind(
    tokenizer, grammars, new, is_kept
):
    first = call("edit", path="src/latin.txt", old="gr", new=new)
    second = call("edit", path="src/latin.txt", old=new, new="-")
    refused = first_refused(grammars["bytes"].constraint(), said(tokenizer, first, second))
    assert (refused is None) is is_kept


def test_a_folder_that_a_write_makes_is_no_file_for_the_calls_behind(tokenizer, grammars):
    inside, over = call("write", path="new/deep.py", content="x"), call("write", path="new", content="y")
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, over)) is None
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, inside, over)) is not None
    beside = call("write", path="newer", content="y")
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, inside, beside)) is None


def test_what_a_turn_writes_is_there_for_the_calls_behind(tokenizer, grammars):
    written = call("write", path="new/deep.py", content="x = 5\n")
    for then in (call("view", path="new/deep.py"), call("edit", path="new/deep.py", old="= 5", new="= 6")):
        assert first_refused(grammars["bytes"].constraint(), said(tokenizer, written, then)) is None
        assert first_refused(grammars["bytes"].constraint(), said(tokenizer, then)) is not None


@pytest.mark.parametrize(
    "made",
    [
        call("explode"),
        call("edit", old="return", path="src/app.py", new=""),
        call("edit", path="src/missing.py", old="x", new="y"),
        call("edit", path="src/app.py", old="return a * b", new="y"),
        call("edit", path="src/app.py", old="def", new="y", line=99),
        call("edit", path="src/app.py", old="def", new="y"),
        call("edit", path="src/app.py", old="def", new="y", line=2),
        call("edit", path="src/app.py", old="def", new="y", replace_all=False),
        call("edit", path="src/app.py", old="a", new="y", line=1),
        call("edit", path="src/inner/empty.py", old="x", new="y"),
        call("edit", path="data.bin", old="x", new="y"),
        call("view", path="out/passwd"),
        call("view", path="src/app.py", start=5, end=4),
        call("view", path="src/app.py", start=5, around=4),
        call("find", name="x", path="readme.md"),
        call("write", path="../up.py", content=""),
        call("write", path="/etc/passwd", content=""),
        call("write", path=".git/config", content=""),
        call("write", path="src", content=""),
        call("write", path="out/passwd", content=""),
        call("write", path="out", content=""),
        call("write", path="src/app.py/deep.py", content=""),
        call("write", path="n" * 256, content=""),
        call("write", path="ü" * 128, content=""),
        call("write", path="deep/" * 400 + "x", content=""),
        call("view", path="src/inner/empty.py", start=2),
        call("git", action="explode"),
        call("git", action="commit"),
        call("shell", command="ls", job="1"),
        call("shell"),
        call("search", pattern="x", context=21),
        call("test", locate="maybe"),
        call("finish"),
    ],
    ids=str,
)
def test_what_cannot_be_done_cannot_be_said(tokenizer, grammars, made):
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, made)) is not None


@pytest.mark.parametrize("path", ["n" * 252, "ü" * 126, "src/app.pyc/x", "out.txt", "link/new.py"])
def test_what_is_no_link_out_no_file_and_not_too_long_can_be_written(tokenizer, grammars, path):
    made = call("write", path=path, content="")
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, made)) is None


def test_a_file_that_the_turn_writes_is_no_folder(tokenizer, grammars):
    written, below = (call("write", path=path, content="x\n") for path in ("fresh.py", "fresh.py/deep.py"))
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, written, below)) is not None


@pytest.mark.parametrize(("key", "line"), [("start", 2), ("end", 2), ("around", 2), ("around", 767_271_793)])
def test_lines_of_a_kept_output_are_those_it_has(tokenizer, grammars, tools, key, line):
    log = str(tools.log_folder / "test-1.log")
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, call("view", path=log, **{key: line})))
    assert first_refused(grammars["bytes"].constraint(), said(tokenizer, call("view", path=log, **{key: 1}))) is None


# Bad input


def test_a_path_that_no_disk_takes_ends_no_turn(tools):
    """The world is asked about any text that a model may write."""
    world = CallWorld(tools, Automata(Tokenizer.from_folder(Path(str(nano_folder()))))).after(())
    assert not world.may_be_written("n" * 5_000)
    assert world.closed(b"n" * 5_000 + b"/") == set()


def test_a_link_to_itself_hides_no_other_name(tools):
    (tools.work_tree / "loop").symlink_to("loop")
    (tools.work_tree / "plain.txt").write_text("")
    world = CallWorld(tools, Automata(Tokenizer.from_folder(Path(str(nano_folder()))))).after(())
    assert {b"loop", b"plain.txt"} <= world.closed(b"")


def test_a_schema_that_is_refused_leaves_its_argument_free_and_is_named(tokenizer, tools):
    schema = {"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 3}}, "b": {"type": "integer"}}}
    odd = ToolSpec(name="odd", description="", parameters=schema)
    constraint = CallGrammar(tokenizer, [odd], tools).constraint()
    assert first_refused(constraint, said(tokenizer, call("odd", a="anything", b=4))) is None
    [line] = constraint.loosened
    assert line.startswith("odd.a: llguidance refuses its schema (")
    assert line.endswith("; any text was allowed")


def test_without_a_file_to_edit_any_path_may_be_said_and_that_is_named(tokenizer, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/empty.py").touch()
    tools = context_of((tmp_path / "tree").resolve(), tmp_path / "logs")
    constraint = CallGrammar(tokenizer, registry.specs(), tools).constraint()
    assert first_refused(constraint, said(tokenizer, call("edit", path="empty.py", old="x", new="y"))) is None
    assert [line.split(":")[0] for line in constraint.loosened] == ["edit.path", "edit.old"]


def test_a_vocabulary_without_the_tags_is_refused(tmp_path, tools):
    write_byte_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace(Tag.ARG_VALUE_END.value, "<other>"), encoding="utf-8")
    with pytest.raises(ValueError, match="the vocabulary has no </longcat_arg_value>"):
        CallGrammar(Tokenizer.from_folder(tmp_path), registry.specs(), tools).constraint()


async def test_a_file_that_changes_between_mask_and_edit_is_named_and_nothing_is_lost(setup_of, project, root):
    """The turn is written under the file as it was; then it is changed, and the edit finds out."""
    setup = setup_of([says("", MEND), says("", FINISH)], config=AgentConfig(baseline_tests=False))
    async with await Session.create(root, setup) as session:
        found = []
        async for event in session.send("add subtracts"):
            if isinstance(event, events.CallWritten) and event.call.name == "edit":
                (project / "calc.py").write_text("def add(a, b):\n    return sum((a, b))\n")
            found.append(event)
    [edit] = [event for event in found if isinstance(event, events.CallFinished) and event.name == "edit"]
    assert edit.error is ErrorCode.NO_MATCH
    assert "not found in calc.py; nothing was changed" in edit.for_model
    assert (project / "calc.py").read_text() == "def add(a, b):\n    return sum((a, b))\n"
    assert found[-1].report.status is Status.DONE


# Through the whole agent


async def test_disagreement_is_told_and_counted(setup_of, root):
    """The scripted model is sure of a path that is not there; the nearest that is allowed is taken instead."""
    wrong = call("view", path="clac.py")
    setup = setup_of([says("", wrong), says("", MEND), says("", FINISH)], config=AgentConfig(baseline_tests=False))
    async with await Session.create(root, setup) as session:
        found = await all_events(session, "add subtracts")
    doubts = [event for event in found if isinstance(event, events.ModelDoubted)]
    assert (doubts[0].step, doubts[0].wanted, doubts[0].taken) == (1, "l", "a")
    assert doubts[0].lowest_allowed_mass == 0
    viewed = next(event for event in found if isinstance(event, events.CallFinished))
    assert (viewed.name, viewed.error) == ("view", None)
    report = found[-1].report
    assert report.doubted_tokens == sum(event.doubted_tokens for event in doubts) > 0
    assert report.constrained_tokens > report.doubted_tokens
    assert report.loosened == ()


async def test_it_can_be_switched_off(setup_of, root):
    config = AgentConfig(baseline_tests=False, constraints=False)
    setup = setup_of([says("", call("view", path="clac.py")), says("", MEND), says("", FINISH)], config=config)
    async with await Session.create(root, setup) as session:
        found = await all_events(session, "add subtracts")
    viewed = next(event for event in found if isinstance(event, events.CallFinished))
    assert viewed.error is ErrorCode.NOT_FOUND
    assert found[-1].report.constrained_tokens == 0


def builders() -> set[threading.Thread]:
    """Threads that build automata."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("kodkod-automata")}


async def test_a_closed_session_keeps_neither_the_thread_nor_what_it_built(setup_of, root):
    before = builders()
    setup = setup_of([says("", MEND), says("", FINISH)], config=AgentConfig(baseline_tests=False))
    async with await Session.create(root, setup) as session:
        await all_events(session, "add subtracts")
        begun = builders() - before
        automata = session._res.grammar._automata
        assert len(begun) == 1
        assert automata._kept
    for thread in begun:
        thread.join(60)
        assert not thread.is_alive()
    assert not automata._kept


class OneCall:
    """See `Constraint`: a turn that is one call, for models that would go on with prose."""

    def __init__(self, tokenizer: Tokenizer, grammar: CallGrammar) -> None:
        self.turn = grammar.constraint()
        ids = tokenizer.special.ids
        self.begin, self.end, self.eos_id = ids[Tag.TOOL_CALL], ids[Tag.TOOL_CALL_END], tokenizer.eos_id

    def allowed_ids(self, generated_ids):
        if not generated_ids or generated_ids[-1] == self.end:
            return (self.eos_id,) if generated_ids else (self.begin,)
        return self.turn.allowed_ids(generated_ids)


async def engine_calls(engine, tokenizer, grammar, tools, count: int, max_tokens: int) -> int:
    """Calls at temperature 1.5 through a whole engine, a few at once; how many came to their end."""
    whole = 0
    prompt = tuple(tokenizer.encode_text("mend it"))
    for begin in range(0, count, 8):
        seeds = range(begin, min(begin + 8, count))
        asked = [SamplingParams(1.5, seed=seed, max_tokens=max_tokens) for seed in seeds]
        constraints = [OneCall(tokenizer, grammar) for _ in seeds]
        requests = [GenerationRequest(prompt, *pair) for pair in zip(asked, constraints, strict=True)]
        for stream in [engine.generate(request) for request in requests]:
            done = await collect(stream)
            if done.finish_reason is FinishReason.LENGTH:
                continue
            assert done.finish_reason is FinishReason.STOP, done.error
            [made] = parse_turn(tokenizer, done.token_ids, registry.specs()).calls
            assert_sound(made, tools)
            whole += 1
    return whole


async def test_a_random_model_makes_calls_that_can_be_done(tmp_path, tools):
    write_random_checkpoint(tmp_path, {**TINY, "num_layers": 1}, with_mtp=False)
    write_byte_tokenizer(tmp_path)
    engine = load_engine(tmp_path)
    try:
        grammar = CallGrammar(engine.tokenizer, registry.specs(), tools)
        assert await engine_calls(engine, engine.tokenizer, grammar, tools, 6, 400) >= 1
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.timeout(7_200)
async def test_nano_makes_calls_that_can_be_done(tools):
    engine = load_engine(str(nano_folder()))
    try:
        grammar = CallGrammar(engine.tokenizer, registry.specs(), tools)
        assert await engine_calls(engine, engine.tokenizer, grammar, tools, 2_000, 1_000) >= 1_000
    finally:
        engine.close()
