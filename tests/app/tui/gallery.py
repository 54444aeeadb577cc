"""Scenes of the app for its pictures: the real app, fed with what a session would tell, without clock and model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kodkod_app.tui import store as s
from kodkod_app.tui import updates as u
from kodkod_app.tui.app import KodkodApp
from kodkod_app.tui.meter import Prefill
from kodkod_app.tui.themes import full_name
from kodkod_app.wish import Wish

MARKDOWN = """\
The filter compares **dates** with *datetimes*, so the last day is cut at midnight. Three places matter:

1. `range_of` in `timesheet/spans.py` builds the interval
2. `Sheet.between` uses it
3. the report calls both

```python
def range_of(first: date, last: date) -> Span:
    # the end is exclusive
    return Span(start=midnight(first), end=midnight(last + ONE_DAY))
```

| place | before | after |
|---|---|---|
| `range_of` | `last` | `last + 1` |
| `between` | `<` | `<` |

> Nothing else depends on the old end.
"""
DIFF = s.Diff(
    "timesheet/spans.py",
    '''--- a/timesheet/spans.py
+++ b/timesheet/spans.py
@@ -24,7 +24,7 @@

     def overlaps(self, other: Span) -> bool:
         """Whether they have a minute in common; spans that only touch have none."""
-        return self.start <= other.end and other.start < self.end
+        return self.start < other.end and other.start < self.end

     def contains(self, minute: int) -> bool:
         """Whether a minute is in it."""
@@ -41,5 +41,8 @@
     def merged(self, other: Span) -> Span:
         """Both as one."""
-        if not self.overlaps(other):
-            raise ValueError("they are apart")
+        if not (self.overlaps(other) or self.touches(other)):
+            raise ValueError(f"{self} and {other} are apart")
+        # from the earlier start to the later end
         return Span(min(self.start, other.start), max(self.end, other.end))
''',
    4,
    3,
)
TEST_OUTPUT = """\
FAILED tests/test_sheet.py::test_one_thing_follows_the_other
    assert sheet.overlaps() == []
E   AssertionError: assert [(Span(9:00, 10:00), Span(10:00, 11:00))] == []
1 failed, 22 passed in 0.31s
"""


def call(
    name: str, state: s.CallState = s.CallState.DONE, outcome: str = "", output: str = "", **arguments: str
) -> s.Call:
    """A call as the store would have it."""
    return s.Call("c", name, arguments, state, output, 0, outcome)


def work() -> list[s.Entry]:
    """A session: question, looking, testing, mending, the end."""
    edit = call("edit", outcome="+4 -3", path="timesheet/spans.py", old="<=", new="<")
    edit.diff = DIFF
    test = call("test", s.CallState.FAILED, "1 failed, 22 passed", TEST_OUTPUT, targets="tests/test_sheet.py")
    test.duration_s = 2.4
    return [
        s.Said("tests/test_sheet.py fails since yesterday. Mend the code, not the tests."),
        s.Answer("I run the test, then look where it ran."),
        test,
        call("view", outcome="58 lines", output="…\n" * 58, path="timesheet/spans.py"),
        s.Answer("Spans that only touch are taken to overlap: the comparison should be strict."),
        edit,
        call("test", outcome="23 passed", output="23 passed in 0.29s\n", targets="tests/test_sheet.py"),
        s.Checks(is_before=False, told="23 passed", passed=True),
        s.Ending(
            "done", "the tests pass", "", (("timesheet/spans.py", 4, 3),), "23 passed",
            "4 turns · 312 written · 9,120 reused · 1,204 new · 6.2 s",
        ),
    ]  # fmt: skip


class Still(KodkodApp):
    """The app without what moves: no model, no clock, no blinking."""

    def __init__(self, theme: str, arrange: Callable[[Still], None]) -> None:
        super().__init__(Wish(Path("/home/ada/timesheet")))
        self.theme = full_name(theme)
        self._arrange_scene = arrange
        self.frames = 0
        self.after_opening: Callable[[], None] = lambda: None
        self.workbench.start = lambda: None  # type: ignore[method-assign]

    def on_mount(self) -> None:
        """Still, and as the scene wants it; the app's own `on_mount` was called before."""
        self.prompt.cursor_blink = False
        self._arrange_scene(self)

    def shown_folder(self) -> str:
        """The same on every machine."""
        return "~/timesheet"

    async def _opened(self, opened: u.Opened) -> None:
        await super()._opened(opened)
        self.meter.reused_tokens, self.meter.new_tokens, self.meter.tokens_per_s = 9_120, 312, 48.0
        self.meter.drafted_tokens, self.meter.accepted_tokens = 200, 158
        self.after_opening()

    @property
    def is_settled(self) -> bool:
        """All that was told is shown."""
        is_shown = self.transcript.mounted_numbers.stop == len(self.store) and not self.transcript.is_moving
        return is_shown and len(self.store) > 0 and self.frames > 0

    async def take_updates(self, items: list[object]) -> None:
        """Counted."""
        await super().take_updates(items)
        self.frames += 1

    def look_at_meter(self) -> None:
        """The clock stands."""

    def show(self, entries: Sequence[s.Entry] = (), **opened: object) -> None:
        """A session is open and holds these."""
        scene: dict[str, object] = {
            "session_id": "20260101-000000-abcdef", "title": "", "model": "longcat-flash-lite", "box": "bubblewrap",
            "mode": "default", "branch": "main", "max_context_tokens": 32_768, "max_step_tokens": 512,
            "context_tokens": 9_432,
        }  # fmt: skip
        self.feed.put(u.Opened(**{**scene, "entries": entries, **opened}))  # type: ignore[arg-type]


def still(arrange: Callable[[Still], None], theme: str = "dark") -> Still:
    """An app that shows a scene."""
    return Still(theme, arrange)


def welcome(app: Still) -> None:
    app.feed.put(u.Loading("loading weights", 40, 100))


def chat(app: Still) -> None:
    app.show(work())


def markdown(app: Still) -> None:
    app.show([s.Said("Why is the last day dropped?"), s.Answer(MARKDOWN, "The report was right a week ago.")])


def states(app: Still) -> None:
    app.show(
        [
            s.Said("every state of a call"),
            call("shell", s.CallState.WRITING, command="pytest -q"),
            call("edit", s.CallState.ASKED, path="a.py"),
            call("shell", s.CallState.RUNNING, output="collecting ...\n", command="pytest -q"),
            call("search", outcome="3 matches", output="a.py:1: x\n" * 3, pattern="def x"),
            call("view", s.CallState.FAILED, "there is no file b.py", "error: there is no file b.py", path="b.py"),
            call("shell", s.CallState.REFUSED, "the user refused: not now", "not run", command="git push"),
            call("shell", s.CallState.CUT, command="sleep 100"),
            s.Note("a fact"),
            s.Note("something to know", s.NoteKind.WARNING),
            s.Note("the engine failed; ask again", s.NoteKind.FAULT),
            s.ShellRun("git status --short", " M timesheet/spans.py\n", 0, 0),
            s.Checks(is_before=True, told="1 failed, 22 passed", passed=False),
        ]
    )


def plan_and_queue(app: Still) -> None:
    app.is_busy = True
    app.show([s.Said("plan it"), s.Answer("I plan first.")], mode="plan")
    app.queue.add("and add a test for the last day")
    app.queue.add("then show me the diff")
    app.after_opening = lambda: _busy(app)


def _busy(app: Still) -> None:
    app.store.plan = (
        s.PlanStep("Reproduce the failure", s.PlanState.DONE),
        s.PlanStep("Find where the interval is built", s.PlanState.ACTIVE),
        s.PlanStep("Mend it and run all tests", s.PlanState.PENDING),
    )
    app.meter.prefill = Prefill(1_536, 4_200, 3.2)
    app._activity = "working 12 s · esc stops"


def commands(app: Still) -> None:
    app.show(work()[:3])
    app.prompt.put("/")


def paths(app: Still) -> None:
    app.show(work()[:3])
    found = ["timesheet/spans.py", "timesheet/sheet.py", "tests/test_spans.py"]
    app.path_search.find = lambda *_: found  # type: ignore[method-assign, assignment]
    app.prompt.put("look at @sp")


def writing(app: Still) -> None:
    app.show(work()[:2])
    app.prompt.put("first line\nsecond line with [markup] in it\n[pasted #1: 214 lines, 9,120 characters]")


def shell(app: Still) -> None:
    app.show([s.ShellRun("python -m pytest -q", TEST_OUTPUT, 0, 1)])
    app.prompt.put("!git log --oneline")


HOSTILE = "\x1b[2J\x1b]52;c;aGk=\x07 [bold red]not markup[/] \u202egnp.exe\u202c \x00 e\u0301 \u200b漢字 😀 \x9b31m"


def hostile(app: Still) -> None:
    from kodkod_app.tui.inert import inert

    text = inert(HOSTILE)
    app.show(
        [
            s.Said(text),
            s.Answer(text),
            call("shell", output=text + "\n" + "x" * 3_000, outcome=text, command=text),
            s.ShellRun(text, text, 0, 0),
            s.Note(text, s.NoteKind.FAULT),
        ]
    )


SCENES: dict[str, Callable[[Still], None]] = {
    "welcome": welcome,
    "chat": chat,
    "markdown": markdown,
    "states": states,
    "plan_and_queue": plan_and_queue,
    "commands": commands,
    "paths": paths,
    "writing": writing,
    "shell": shell,
    "hostile": hostile,
}
