"""The parts that know no widgets: what text becomes, how pieces are joined, what is counted, how high things are."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodkod_agent import events
from kodkod_agent.report import RunReport
from kodkod_agent.state import Status
from kodkod_app.tui import store as s
from kodkod_app.tui import workbench
from kodkod_app.tui.commands import COMMANDS, find_command, matching
from kodkod_app.tui.feed import Feed
from kodkod_app.tui.heights import Heights
from kodkod_app.tui.inert import cut_lines, inert, inert_line
from kodkod_app.tui.meter import Meter, Prefill
from kodkod_app.tui.path_search import PathSearch, likeness
from kodkod_app.tui.persons_shell import PersonsShell
from kodkod_app.tui.plan import read_plan
from kodkod_app.tui.prompt_history import PromptHistory
from kodkod_app.tui.telling import Teller, coalesced
from kodkod_app.tui.themes import wanted_theme
from kodkod_app.tui.widgets.diff import read_unified
from kodkod_app.tui.widgets.status import short
from kodkod_app.tui.widgets.tool_call import tail
from kodkod_app.wish import Wish
from kodkod_engine.api import DraftUsage, EngineStats, Usage
from kodkod_engine.messages import ToolCall
from kodkod_sandbox.base import Channel, ExecChunk, ExecResult, Sandbox
from kodkod_tools.base import ErrorCode, FileDiff


@given(st.text())
def test_inert_text_holds_no_control_and_no_direction(text: str) -> None:
    shown = inert(text)
    assert not any(ord(letter) < 32 and letter != "\n" for letter in shown)
    assert not any(0x7F <= ord(letter) < 0xA0 or 0xD800 <= ord(letter) < 0xE000 for letter in shown)
    assert not set(shown) & set("\u202e\u202d\u2066\u2067\u200e\u200f\u2028")
    assert inert(shown) == shown


def test_escape_sequences_are_seen_and_not_obeyed() -> None:
    assert inert("\x1b]52;c;aGk=\x07") == "␛]52;c;aGk=␇"
    assert inert("a\r\nb\tc") == "a\nb    c"
    assert inert_line("name\nof\x07file") == "name␤of␇file"


def test_of_what_was_said_the_beginning_is_shown() -> None:
    assert s.Said("a\nb").text == "a\nb"
    assert s.Said("x" * 1_000_000).text == "x" * 20_000 + "\n… [980,000 more characters]"
    lines = s.Said("\n".join(map(str, range(10_000)))).text.split("\n")
    assert lines[199:] == ["199", "… [48,200 more characters]"]


def test_a_line_of_a_megabyte_is_cut_and_says_so() -> None:
    cut = cut_lines("x" * 1_000_000 + "\nshort")
    assert len(cut) < 3_000
    assert "998,000 more characters" in cut
    assert cut.endswith("\nshort")


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(0, 29))
def test_joined_pieces_say_the_same(letters: list[str], cut: int) -> None:
    items: list[object] = [
        events.TextDelta(letter) if number % 7 != cut % 7 else events.CallOutput("1", letter, Channel.STDOUT)
        for number, letter in enumerate(letters)
    ]
    joined = coalesced(items)
    assert "".join(item.text for item in joined) == "".join(letters)  # type: ignore[attr-defined]
    assert all(type(one) is not type(two) for one, two in pairwise(joined))


def test_pieces_of_different_calls_stay_apart() -> None:
    items = [events.CallOutput("1", "a", Channel.STDOUT), events.CallOutput("2", "b", Channel.STDOUT)]
    assert coalesced(items) == items
    arguments = [events.ArgumentDelta("1", "old", "a"), events.ArgumentDelta("1", "new", "b")]
    assert coalesced(arguments) == arguments


def test_a_hundred_megabytes_of_output_do_not_hold_the_screen_up() -> None:
    items = [events.CallOutput("1", "[\x1b[32mok\x1b[0m]\n" * 5_000, Channel.STDOUT) for _ in range(1_000)]
    call = s.Call("1", "shell")
    began_s = time.process_time()
    (whole,) = coalesced(items)
    assert isinstance(whole, events.CallOutput)
    call.say(whole.text)
    assert time.process_time() - began_s < 2
    assert len(call.output) == s.MAX_OUTPUT_CHARS
    assert call.output.endswith("[␛[32mok␛[0m]\n")
    assert call.dropped_chars == len(whole.text) - s.MAX_OUTPUT_CHARS


async def test_of_what_a_persons_command_prints_the_end_is_kept() -> None:
    class Box:
        async def exec_stream(self, command: str) -> AsyncIterator[ExecChunk | ExecResult]:
            for number in range(1_000):
                await asyncio.sleep(0)
                yield ExecChunk(Channel.STDOUT, f"{number}\n".encode() * 1_000)
            yield ExecResult(0, b"", b"", 0, 0, 0.0)

    tracemalloc.start()
    feed = Feed()
    shell = PersonsShell(feed)
    reading = asyncio.create_task(shell.read("yes", cast(Sandbox, Box())))
    while not reading.done():
        feed.take()
        await asyncio.sleep(0)
    (printed, _), (_, most) = await reading, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert printed == "999\n" * 1_000
    assert most < 1_000_000


def test_the_feed_wakes_once_and_loses_nothing_from_any_thread() -> None:
    woken: list[int] = []
    feed = Feed(lambda: woken.append(1))
    threads = [
        threading.Thread(target=lambda number=number: [feed.put((number, i)) for i in range(100)])
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    items = feed.take()
    assert len(woken) == 1
    assert len(items) == 400
    assert [item for item in items if item[0] == 2] == [(2, i) for i in range(100)]  # type: ignore[index]
    assert feed.take() == []
    feed.put("again")
    assert len(woken) == 2


def test_prefill_and_decode_are_told_from_the_counters() -> None:
    meter = Meter(max_context_tokens=8_192, max_step_tokens=512)
    meter.begin_turn(4_096, 10.0, EngineStats(steps=5, reused_tokens=100, generated_tokens=50))
    meter.look(10.5, EngineStats(steps=5, reused_tokens=100, generated_tokens=50))
    assert meter.prefill is None
    meter.look(12.0, EngineStats(steps=7, reused_tokens=2_148, generated_tokens=50))
    assert meter.prefill is not None
    assert (meter.prefill.done_tokens, meter.prefill.total_tokens) == (1_024, 2_048)
    assert meter.prefill.left_s == pytest.approx(2.0)
    meter.look(14.0, EngineStats(steps=10, reused_tokens=2_148, generated_tokens=51))
    meter.look(15.0, EngineStats(steps=50, reused_tokens=2_148, generated_tokens=91))
    assert meter.prefill is None
    assert meter.tokens_per_s == pytest.approx(40.0)
    drafts = (DraftUsage("copy", 40, 30),)
    bill = Usage(4_096, 2_048, 100, drafts, doubted_tokens=2, decode_s=2.0, plain_decode_s=3.0)
    meter.end_turn(bill)
    assert (meter.doubted_tokens, meter.speed_up) == (2, 1.5)
    assert (meter.reused_tokens, meter.new_tokens, meter.context_tokens) == (2_048, 2_048, 4_196)
    assert (meter.tokens_per_s, meter.acceptance) == (50.0, 0.75)


def test_time_left_runs_down_between_steps_and_is_known_before_the_first_by_the_turns_before() -> None:
    meter, idle = Meter(), EngineStats(steps=10)
    meter.open(3_000, 8_192, 100)
    meter.begin_turn(4_000, 0.0, idle)
    meter.look(1.0, idle)
    assert meter.prefill is None, "nothing was measured yet"
    meter.end_turn(Usage(4_000, 0, 10, prefill_s=40.0))
    assert meter.prompt_tokens_per_s == 100.0
    meter.begin_turn(4_410, 100.0, idle)
    meter.look(101.0, idle)
    assert meter.prefill == Prefill(0, 400, 3.0), "the rest is still there"
    half = EngineStats(steps=12, reused_tokens=4_010)
    meter.look(104.0, half)
    assert meter.prefill == Prefill(200, 400, 4.0), "this turn is slower than the one before"
    meter.look(105.0, half)
    assert meter.prefill == Prefill(200, 400, 3.0)
    meter.look(120.0, half)
    assert meter.prefill == Prefill(200, 400, 0.0)
    meter.open(4_420, 8_192, 100)
    meter.begin_turn(4_420, 200.0, idle)
    meter.look(200.0, idle)
    assert meter.prefill == Prefill(0, 4_420, 44.2), "in another session nothing is there yet"


def test_what_is_read_ahead_is_shown_while_nothing_runs() -> None:
    meter, idle = Meter(), EngineStats(steps=10, reused_tokens=7)
    meter.open(3_000, 8_192, 512)
    meter.look_ahead(idle)
    assert meter.prefill is None
    meter.look_ahead(replace(idle, waiting=1))
    assert meter.prefill == Prefill(0, 3_000, None, is_ahead=True)
    reading = replace(idle, running=1, steps=12, reused_tokens=1_007)
    meter.look_ahead(reading)
    assert meter.prefill == Prefill(1_024, 2_000, None, is_ahead=True)
    meter.look_ahead(replace(reading, steps=14))
    assert meter.prefill is None, "all is read, and what is still computed is none of it"
    meter.look(49.0, reading)
    assert meter.prefill is None, "a run has begun, and no turn of it"
    meter.begin_turn(3_200, 50.0, reading)
    meter.look(51.0, replace(reading, running=1, steps=13, generated_tokens=1))
    assert meter.prefill is not None, "the token is none of the turn's"
    assert not meter.prefill.is_ahead
    meter.look(52.0, replace(reading, steps=14, generated_tokens=2))
    assert meter.prefill is None
    meter.end_turn(Usage(3_200, 2_024, 1))
    meter.look_ahead(replace(idle, running=1, steps=20))
    assert meter.prefill == Prefill(0, 3_201, None, is_ahead=True)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.data())
def test_the_entry_at_a_line_is_the_one_that_begins_there_or_before(lines: list[int], data: st.DataObject) -> None:
    heights = Heights()
    heights.fit([s.Note("x") for _ in lines], 80)
    for number, count in enumerate(lines):
        heights.measure(number, count)
    y = data.draw(st.integers(0, sum(lines) - 1))
    number = heights.at(y)
    assert heights.start(number) <= y < heights.start(number + 1)
    assert heights.total == sum(lines)
    assert heights.at(-5) == 0
    assert heights.at(sum(lines) + 5) == len(lines) - 1


def test_another_width_forgets_what_was_measured() -> None:
    heights = Heights()
    entries: list[s.Entry] = [s.Said("x" * 500)]
    heights.fit(entries, 100)
    heights.measure(0, 77)
    heights.fit(entries, 50)
    assert heights.total < 77


UNIFIED = """--- a/x.py
+++ b/x.py
@@ -3,4 +3,4 @@
 def f(a):
-    return a <= 1
+    return a < 1
 # end
@@ -20,1 +20,2 @@
+entirely new
 last
\\ No newline at end of file
"""


def test_a_diff_is_read_with_numbers_and_changed_words() -> None:
    lines = read_unified(UNIFIED)
    assert [(line.kind, line.number) for line in lines] == [
        (" ", 3), ("-", 4), ("+", 4), (" ", 5), ("@", None), ("+", 20), (" ", 21)
    ]  # fmt: skip
    old, new = lines[1], lines[2]
    assert [old.text[first:last] for first, last in old.spans] == ["="]
    assert new.spans == ()
    assert lines[5].spans == ()


def test_lines_that_are_not_alike_are_not_compared_word_by_word() -> None:
    old, new = read_unified("@@ -1,1 +1,1 @@\n-alpha beta gamma\n+import os\n")
    assert old.spans == new.spans == ()


def test_a_file_in_one_line_is_not_compared_word_by_word() -> None:
    words = ["var", "x", "=", "y", ";"] * 20_000
    old, new = read_unified(f"@@ -1 +1 @@\n-{' '.join(words)}\n+{' '.join(reversed(words))}\n")
    assert (old.spans, new.spans) == ((), ())


def test_a_task_list_is_a_plan_and_one_box_is_not() -> None:
    steps = read_plan("First:\n- [x] look\n- [ ] mend\n  1. [~] test\nend")
    assert [(step.text, step.state) for step in steps] == [
        ("look", s.PlanState.DONE), ("mend", s.PlanState.PENDING), ("test", s.PlanState.ACTIVE)
    ]  # fmt: skip
    assert read_plan("- [ ] only one") == ()


def told(*happened: events.Event) -> s.Store:
    store = s.Store()
    teller = Teller(store, Meter())
    for event in happened:
        teller.tell(event, EngineStats())
    return store


def test_a_call_from_its_first_letter_to_its_diff() -> None:
    call = ToolCall(id="1", name="edit", arguments={"path": "a.py", "old": "x", "new": "y"})
    diff = FileDiff("a.py", "@@ -1,1 +1,1 @@\n-x\n+\x1by\n", 1, 1)
    store = told(
        events.TextDelta("\n\nI mend"),
        events.TextDelta(" it."),
        events.CallStarted("1", "edit"),
        events.ArgumentDelta("1", "path", "a."),
        events.ArgumentDelta("1", "path", "py"),
        events.CallWritten(call),
        events.CallFinished("1", "edit", "edited a.py", diff, duration_s=2.0),
        events.TurnEnded(1),
    )
    answer, entry = store.entries
    assert isinstance(answer, s.Answer)
    assert (answer.text, answer.is_open) == ("I mend it.", False)
    assert isinstance(entry, s.Call)
    assert (entry.subject, entry.state, entry.outcome, entry.duration_s) == ("a.py", s.CallState.DONE, "+1 -1", 2.0)
    assert entry.diff is not None
    assert "\x1b" not in entry.diff.unified


def test_failed_refused_and_cut_calls_are_told_apart() -> None:
    report = RunReport("id", Status.INTERRUPTED, "the user interrupted it", "", "")
    store = told(
        *(
            events.CallWritten(ToolCall(id=str(number), name="shell", arguments={"command": "x"}))
            for number in range(6)
        ),
        events.CallFinished("5", "test", "\nRan 0 tests", error=ErrorCode.UNAVAILABLE, facts={"not_run": "no pytest"}),
        events.CallFinished("0", "shell", "exit code 1", facts={"exit_code": 1}),
        events.CallFinished("3", "test", "...", facts={"exit_code": 1, "failed": 1, "passed": 22}),
        events.CallFinished("1", "shell", "error: no such file\nmore", error=ErrorCode.NOT_FOUND),
        events.CallFinished("2", "shell", "not run: the user refused", refused=True),
        events.RunEnded(report),
    )
    states = [(entry.state, entry.outcome) for entry in store.entries if isinstance(entry, s.Call)]
    assert states == [
        (s.CallState.FAILED, "exit 1"),
        (s.CallState.FAILED, "no such file"),
        (s.CallState.REFUSED, "not run: the user refused"),
        (s.CallState.FAILED, "1 failed, 22 passed"),
        (s.CallState.CUT, ""),
        (s.CallState.FAILED, "none were run: no pytest"),
    ]
    assert isinstance(store.entries[-1], s.Ending)


@pytest.mark.parametrize(
    ("printed", "for_model", "outcome", "output"),
    [
        ("", "(no output)\n[exit code 0, 0.1 s]", "", "(no output)"),
        ("", "a\nb\n[exit code 0, 0.1 s]", "2 lines", "a\nb"),
        ("a\nb\n", "a\nb\n[exit code 0, 0.1 s]", "2 lines", "a\nb\n"),
        ("y\n" * s.MAX_OUTPUT_CHARS, "y\n[exit code 0, 0.1 s]", f"{2 * s.MAX_OUTPUT_CHARS:,} characters", None),
    ],
)
def test_what_a_command_printed_is_measured(printed: str, for_model: str, outcome: str, output: str | None) -> None:
    """The line that tells the model how it ended counted, and of very much output what was kept of it alone."""
    store = told(
        events.CallWritten(ToolCall(id="1", name="shell", arguments={"command": "x"})),
        *([events.CallOutput("1", printed, "stdout")] if printed else []),
        events.CallFinished("1", "shell", for_model, facts={"exit_code": 0}),
    )
    [entry] = store.entries
    assert isinstance(entry, s.Call)
    assert entry.outcome == outcome
    assert output is None or entry.output == output


@pytest.mark.parametrize(
    ("name", "for_model", "output"),
    [
        ("test", "Ran 0 tests\n[no pytest]\n[no lines]", "Ran 0 tests\n\n[no pytest]\n[no lines]"),
        ("test", "Ran 0 tests", "Ran 0 tests\n"),
        ("shell", "Ran 0 tests\n[exit code 1, 0.1 s]", "Ran 0 tests\n"),
        ("shell", "Ran 0 tests\n[exit code 1, 2.0 s]\n[stopped after 2 s]", "Ran 0 tests\n\n[stopped after 2 s]"),
    ],
)
def test_why_a_call_failed_is_shown_below_what_was_printed(name: str, for_model: str, output: str) -> None:
    """The model alone was told of a missing pytest how to get it: the line of the call was too narrow for its cause."""
    store = told(
        events.CallWritten(ToolCall(id="1", name=name, arguments={})),
        events.CallOutput("1", "Ran 0 tests\n", "stdout"),
        events.CallFinished("1", name, for_model, facts={"exit_code": 1}),
    )
    [entry] = store.entries
    assert isinstance(entry, s.Call)
    assert entry.output == output


def test_a_summary_is_told_once() -> None:
    call = ToolCall(id="1", name="finish", arguments={"summary": "It adds.\nAll pass."})
    for said, outcome in (("It adds.\nAll pass.", ""), ("noted", "noted")):
        store = told(events.CallWritten(call), events.CallFinished("1", "finish", "done", for_person=said))
        (entry,) = store.entries
        assert isinstance(entry, s.Call)
        assert (entry.subject, entry.outcome) == ("It adds.\nAll pass.", outcome)


def test_an_interrupted_run_is_over_before_it_is_reported() -> None:
    call = ToolCall(id="1", name="shell", arguments={"command": "x"})
    happened = (
        events.TextDelta("I wr"),
        events.CallWritten(call),
        events.RunInterrupted("the user \x1binterrupted it"),
    )
    store = told(*happened)
    answer, cut, ending = store.entries
    assert isinstance(answer, s.Answer)
    assert not answer.is_open
    assert isinstance(cut, s.Call)
    assert cut.state is s.CallState.CUT
    assert isinstance(ending, s.Ending)
    assert (ending.status, ending.cost) == ("interrupted", "")
    assert "\x1b" not in ending.reason
    diff = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1,2 @@\n-x\n+y\n+z\n"
    store = told(*happened, events.RunEnded(RunReport("id", Status.INTERRUPTED, "the user interrupted it", "", diff)))
    [ending] = [entry for entry in store.entries if isinstance(entry, s.Ending)]
    assert (ending.number, ending.files) == (2, (("a.py", 2, 1),))
    assert "turns" in ending.cost
    assert 2 in store.take_changed()


def test_a_plain_answer_has_no_ending_and_usage_reaches_the_meter() -> None:
    meter, store = Meter(), s.Store()
    teller = Teller(store, meter)
    teller.tell(events.TurnStarted(1, 100, 1_000), EngineStats())
    teller.tell(events.UsageReported(1, Usage(prompt_tokens=100, reused_tokens=90, generated_tokens=5)), EngineStats())
    teller.tell(events.TextDelta("Yes."), EngineStats())
    teller.tell(events.RunEnded(RunReport("id", Status.DONE, "answered", "Yes.", "")), EngineStats())
    assert [type(entry) for entry in store.entries] == [s.Answer]
    assert (meter.reused_tokens, meter.new_tokens, meter.max_context_tokens) == (90, 10, 1_000)


def test_of_very_much_output_the_end_is_kept() -> None:
    call = s.Call("1", "shell")
    for number in range(3):
        call.say(f"{number}" * 1_000 + "\n" + "y\n" * 40_000)
    assert len(call.output) == s.MAX_OUTPUT_CHARS
    assert call.dropped_chars == 3 * 81_001 - s.MAX_OUTPUT_CHARS
    assert call.output.endswith("y\n")


def test_history_goes_back_and_forth_and_survives(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "prompts.jsonl"
    history = PromptHistory(path)
    assert history.back("draft") is None
    for text in ("one", "two\nlines", "two\nlines"):
        history.add(text)
    again = PromptHistory(path)
    assert again.back("draft") == "two\nlines"
    assert again.back("two\nlines") == "one"
    assert again.back("one") is None
    assert again.forth() == "two\nlines"
    assert again.forth() == "draft"
    assert again.forth() is None
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b'"fine"\n{broken\n\xff\n')
    assert PromptHistory(path).entries == []
    path.write_text('"fine"\n{broken\n[1]\n')
    assert PromptHistory(path).entries == ["fine"]


def test_paths_are_found_by_a_few_letters_and_ignored_files_are_not(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("build/\n")
    for name in ("src/spans.py", "src/sheet.py", "tests/test_spans.py", "build/spans.py", "README.md"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    search = PathSearch(tmp_path)
    assert search.find("spans")[0] == "src/spans.py"
    assert set(search.find("spans")) == {"src/spans.py", "tests/test_spans.py"}
    assert search.find("tspan") == ["tests/test_spans.py"]
    assert search.find("")[0] in (".gitignore", "README.md")
    assert search.find("nothing like it") == []


def test_letters_that_stand_in_a_path_in_millions_of_ways_are_found_at_once(tmp_path: Path) -> None:
    deep = tmp_path / "test/src/test/java/org/test/context/tests/statements"
    deep.mkdir(parents=True)
    (deep / "TransactionalTestExecutionListenerContextTests.java").touch()
    search = PathSearch(tmp_path)
    assert len(search.find("testtesttest")) == 1
    assert search.find("testtesttestz") == []


@pytest.mark.parametrize(
    ("letters", "better", "worse"), [("span", "xspan", "xsxpxaxn"), ("ts", "t_s", "txs"), ("ab", "xxab", "xxaxb")]
)
def test_neighbours_and_beginnings_of_words_count_for_more(letters: str, better: str, worse: str) -> None:
    assert likeness(letters, better) > likeness(letters, worse) > 0
    assert likeness(letters, letters[::-1]) == 0


def test_commands_have_actions_and_are_found() -> None:
    from kodkod_app.tui.app import KodkodApp

    for command in COMMANDS:
        assert hasattr(KodkodApp, f"action_{command.action}"), command.name
    assert find_command("/rewind 4") == (next(c for c in COMMANDS if c.name == "rewind"), "4")
    assert find_command("/nothing") is None
    for known_as, name in (("exit", "quit"), ("clear", "new"), ("resume", "sessions"), ("undo", "rewind")):
        assert [command.name for command in matching(known_as)] == [name]
        assert find_command(f"/{known_as} 3") == (next(c for c in COMMANDS if c.name == name), "3")
    names = [name for command in COMMANDS for name in command.names]
    assert len(names) == len(set(names))
    assert [command.name for command in matching("se")][:2] == ["sessions", "settings"]
    assert "branches" in [command.name for command in matching("anch")]


def test_counts_are_short() -> None:
    assert [short(count) for count in (0, 999, 1_204, 9_999, 32_768, 2_500_000)] == [
        "0", "999", "1,204", "9,999", "33k", "2.5M"
    ]  # fmt: skip


def test_a_theme_that_cannot_be_read_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    assert wanted_theme(file) == "dark"
    for text, name in (
        ('[tui]\ntheme = "ansi"', "ansi"),
        ('[tui]\ntheme = "pink"', "dark"),
        ("tui = 3", "dark"),
        ("[", "dark"),
    ):
        file.write_text(text)
        assert wanted_theme(file) == name


def test_what_is_still_being_loaded_is_waited_for_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leaving asks twice: the app, and the command that opened it."""
    is_loaded = threading.Event()

    async def load(*_: object) -> None:
        is_loaded.wait(60)

    monkeypatch.setattr(workbench, "open_desk", load)
    monkeypatch.setattr(workbench, "_CLOSE_TIMEOUT_S", 0.5)
    bench = workbench.Workbench(Wish(tmp_path), Feed())
    bench.start()
    assert not bench.close()
    monkeypatch.setattr(workbench, "_CLOSE_TIMEOUT_S", 60.0)
    began_s = time.monotonic()
    assert not bench.close()
    assert time.monotonic() - began_s < 30
    is_loaded.set()
    bench._thread.join(60)


def test_what_was_dropped_of_an_output_counts_among_what_is_before_its_end() -> None:
    run = s.ShellRun("yes")
    run.say("y\n" * 3)
    assert tail(run.output, 2) == "… 1 line before\ny\ny"
    assert tail(run.output, 3) == "y\ny\ny"
    run.say("y\n" * s.MAX_OUTPUT_CHARS)
    told = f"… {2 * s.MAX_OUTPUT_CHARS + 6 - 4:,} characters before"
    assert tail(run.output, 2, run.dropped_chars) == f"{told}\ny\ny"


class Busy:
    """A desk whose model is in the middle of a step."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(engine=SimpleNamespace(stats=lambda: EngineStats(running=1)))
        self.is_closed = False

    async def opened(self) -> None:
        """Nothing is told."""

    async def close(self) -> None:
        """At once."""
        self.is_closed = True


def test_whoever_leaves_does_not_wait_for_a_step_of_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Session and box are closed before the model, which may be in the middle of a long piece of a prompt."""
    step, desk, closed = threading.Event(), Busy(), []

    async def open_desk(_: object, __: object, stack: AsyncExitStack, models: AsyncExitStack) -> Busy:
        stack.callback(closed.append, "box")
        models.callback(step.wait, 60)
        return desk

    monkeypatch.setattr(workbench, "open_desk", open_desk)
    monkeypatch.setattr(workbench, "_CLOSE_TIMEOUT_S", 60.0)
    bench = workbench.Workbench(Wish(tmp_path), Feed())
    bench.start()
    began_s = time.monotonic()
    assert not bench.close()
    assert time.monotonic() - began_s < 30
    assert desk.is_closed
    assert closed == ["box"]
    step.set()
    bench._thread.join(60)
    assert bench.close()
