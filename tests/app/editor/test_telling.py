"""What an editor is shown of calls, changes and endings; and what the model reads of a prompt."""

from __future__ import annotations

import tracemalloc
from difflib import unified_diff
from pathlib import Path

import acp
import pytest
from acp.schema import AllowedOutcome, DeniedOutcome, RequestPermissionResponse

from kodkod_agent import events
from kodkod_agent.rules import Rule
from kodkod_app.editor.asking import ALWAYS, approval_of, options_for
from kodkod_app.editor.call_content import MAX_SHOWN_CHARS, places_of, sides_of, text_content, title_of
from kodkod_app.editor.commands import compact_focus
from kodkod_app.editor.prompt_text import prompt_text
from kodkod_app.editor.telling import Telling
from kodkod_engine.messages import ToolCall
from kodkod_sandbox.base import Channel
from kodkod_tools.base import ErrorCode, FileDiff

TREE = Path("/work tree")


def call(name, **arguments):
    return ToolCall(id="call_0", name=name, arguments=arguments)


def diff(before, after):
    rows = unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), "a/f", "b/f")
    return FileDiff("f", "".join(rows), 1, 1, created=not before)


def test_a_change_is_shown_by_its_sides():
    before = "".join(f"{number}\n" for number in range(1, 21))
    sides = sides_of(diff(before, before.replace("\n10\n", "\nten\n--\n")))
    assert (sides.before, sides.after, sides.line) == (
        "7\n8\n9\n10\n11\n12\n13\n",
        "7\n8\n9\nten\n--\n11\n12\n13\n",
        10,
    )
    paged = sides_of(FileDiff("a.c", "--- a/a.c\n+++ b/a.c\n@@ -1,2 +1,2 @@\n \x0c\n-a\u2028b\r\n+b\n", 1, 1))
    assert (paged.before, paged.after) == ("\x0c\na\u2028b\r\n", "\x0c\nb\n")
    made = sides_of(diff("", "--- a\n+++ b\n"))
    assert (made.before, made.after, made.line) == (None, "--- a\n+++ b\n", 1)


def test_titles_places_and_texts_are_bounded_and_inert():
    assert title_of(call("shell", command="echo\n\x1b[31m" + "x" * 500)).startswith("shell echo \ufffd[31mxxx")
    assert len(title_of(call("shell", command="x" * 500))) == 120
    assert title_of(call("test", targets=["a", "b"])) == "test a b"
    assert title_of(call("")) == "a call"
    (place,) = places_of(call("view", path="src/a.py", start=7), TREE)
    assert (place.path, place.line) == ("/work tree/src/a.py", 7)
    assert places_of(call("shell", command="ls"), TREE) == []
    shown = text_content("\x1b" + "y" * 2 * MAX_SHOWN_CHARS).content.text
    assert len(shown) < MAX_SHOWN_CHARS + 100
    assert "\x1b" not in shown
    assert text_content("a\n```\n# not markup").content.text.startswith("````\n")


def test_a_failed_call_and_one_that_was_cut_short_are_told():
    telling = Telling(TREE)
    told = [update for one in (call("view", path="a"),) for update in telling.tell(events.CallWritten(one))]
    told += telling.tell(events.CallFinished("call_0", "view", "error: no such file", error=ErrorCode.NOT_FOUND))
    assert [update.status for update in told] == [None, "failed"]
    assert "no such file" in told[-1].content[0].content.text


def test_output_that_grows_is_kept_and_shown_from_its_end():
    telling = Telling(TREE)
    list(telling.tell(events.CallWritten(call("shell", command="yes"))))
    tracemalloc.start()
    for number in range(1_000):
        # A string of its own each time, as output is.
        list(telling.tell(events.CallOutput("call_0", f"{number}\n" * 2_000, Channel.STDOUT)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000
    telling = Telling(TREE)
    list(telling.tell(events.CallWritten(call("shell", command="yes"))))
    (update,) = telling.tell(events.CallOutput("call_0", "y" * (MAX_SHOWN_CHARS + 1_000), Channel.STDOUT))
    assert "[1,000 characters before this]\nyyy" in update.content[0].content.text


def test_what_a_person_may_answer():
    rules = (Rule.read("edit(src/**)"),)
    assert [option.option_id for option in options_for(())] == ["once", "refuse"]
    assert options_for(rules)[1].name == "Always allow edit(src/**)"

    def answered(outcome, rules=rules):
        return approval_of(call("edit"), RequestPermissionResponse(outcome=outcome), rules)

    def chosen(option):
        return AllowedOutcome(outcome="selected", option_id=option)

    assert answered(chosen("once")).allowed
    assert answered(chosen("always")).always == rules
    for refused in (chosen("refuse"), chosen("made up"), DeniedOutcome(outcome="cancelled")):
        assert not answered(refused).allowed
    assert not answered(chosen(ALWAYS), ()).allowed, "it was not offered"


def test_a_prompt_is_text_and_files():
    inside = acp.resource_link_block("a.py", "file:///work%20tree/src/a.py")
    outside = acp.resource_link_block("b", "file:///etc/hosts")
    along = acp.resource_block(acp.embedded_text_resource("file:///work%20tree/n.txt", "three"))
    text = prompt_text([acp.text_block("See "), inside, acp.text_block(" and "), outside, along], TREE)
    assert text == "See `src/a.py` and `/etc/hosts`\n\n`n.txt`:\n\nthree"
    assert prompt_text([acp.resource_link_block("b", "file://[b")], TREE) == "`file://[b`"
    for blocks in ([], [acp.text_block(" \n")], [acp.image_block("AAAA", "image/png")]):
        with pytest.raises(acp.RequestError):
            prompt_text(blocks, TREE)


def test_what_is_to_be_kept_stands_behind_the_command_or_below_it():
    assert [compact_focus(text) for text in ("/compact", "/compact  its length ", "/compact\nits\nlength")] == [
        "", "its length", "its\nlength",
    ]  # fmt: skip
    assert compact_focus("/compacting is a word") is None
