"""The real app over a session that is played: no engine, no box. Run by `terminal.py` in a terminal of its own.

    python app/bench/played.py --entries 5000 --rate 200 --soak-minutes 0

`--rate` streams tokens at that pace for as long as the app is open; `--soak-minutes` plays so many minutes of work at
200 tokens/s as fast as the screen takes them, then leaves.
"""

from __future__ import annotations

import argparse
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kodkod_agent import events
from kodkod_app.tui import store as s
from kodkod_app.tui import updates as u
from kodkod_app.tui.app import KodkodApp
from kodkod_app.tui.feed import Feed
from kodkod_app.wish import Wish
from kodkod_engine.api import EngineStats, Usage
from kodkod_engine.messages import ToolCall

TOKENS_PER_S = 200
_WORDS = ("the", "span", "ends", "where", "another", "begins,", "so", "minutes", "are", "added", "once.", "`merge`")
"""Lower case alone: `terminal.py` looks for the capitals it types."""
_UNIFIED = "--- a/spans.py\n+++ b/spans.py\n@@ -10,3 +10,3 @@\n def f():\n-    return a < b\n+    return a <= b\n \n"
_BATCH = 200
"""Events put at once in a soak."""


def past(count: int) -> list[s.Entry]:
    """A long session: questions, answers in Markdown, calls with output and changes."""
    kinds = itertools.cycle((_said, _answer, _output, _answer, _change))
    return [next(kinds)(number) for number in range(count)]


def _said(number: int) -> s.Entry:
    return s.Said(f"question {number}: why is the last minute of a span not counted?")


def _answer(number: int) -> s.Entry:
    code = "```python\ndef length(span):\n    return span.end - span.start\n```"
    return s.Answer(f"## part {number}\n\nthe *end* is not part of it, so:\n\n- one\n- two with `code`\n\n{code}\n")


def _output(number: int) -> s.Entry:
    lines = "\n".join(f"tests/test_{number}.py::test_{line} passed" for line in range(12))
    return s.Call(f"o{number}", "shell", {"command": "pytest -q"}, s.CallState.DONE, lines, outcome="12 passed")


def _change(number: int) -> s.Entry:
    diff = s.Diff("spans.py", _UNIFIED, 1, 1)
    return s.Call(f"c{number}", "edit", {"path": "spans.py"}, s.CallState.DONE, outcome="+1 -1", diff=diff)


def run_events() -> Iterator[object]:
    """A session that goes on for ever: a turn of some prose, then a call with its output. One event per token."""
    for step in itertools.count(1):
        yield events.TurnStarted(step, 1_000 + step, 100_000)
        for number in range(120):
            yield events.TextDelta(f"{_WORDS[(step + number) % len(_WORDS)]} " + ("\n\n" if number % 40 == 39 else ""))
        call = ToolCall(id=f"call{step}", name="shell", arguments={"command": f"pytest -q tests/{step}"})
        yield events.CallStarted(call.id, call.name)
        yield events.CallWritten(call)
        for line in range(20):
            yield events.CallOutput(call.id, f"tests/test_{line}.py passed\n", "stdout")  # type: ignore[arg-type]
        yield events.UsageReported(step, Usage(1_000, 900, 140))
        yield events.CallFinished(call.id, call.name, "20 passed", "20 passed", duration_s=0.1)
        yield events.TurnEnded(step)


class Player:
    """Stands where the workbench stands."""

    session: Any = None
    settings: Any = None

    def __init__(self, feed: Feed, options: argparse.Namespace) -> None:
        self._feed = feed
        self._options = options
        self._tokens = 0
        self._is_over = False
        self.app: KodkodApp | None = None

    @property
    def stats(self) -> EngineStats:
        """As if an engine had written what was played."""
        return EngineStats(generated_tokens=self._tokens, steps=self._tokens)

    def start(self) -> None:
        """Open the session and play."""
        entries = past(self._options.entries)
        self._feed.put(u.Opened("played", "", "played", "none", "default", "main", 100_000, 512, entries))
        if self._options.soak_minutes:
            threading.Thread(target=self._soak, daemon=True).start()
        elif self._options.rate:
            threading.Thread(target=self._stream, daemon=True).start()

    def _stream(self) -> None:
        self._feed.put(events.RunStarted("played", resumed=False))
        began_s = time.monotonic()
        for event in run_events():
            if self._is_over:
                return
            is_token = isinstance(event, events.TextDelta | events.CallOutput)
            self._tokens += is_token
            self._feed.put(event)
            wait_s = began_s + self._tokens / self._options.rate - time.monotonic()
            if is_token and wait_s > 0:
                time.sleep(wait_s)

    def _soak(self) -> None:
        wanted = self._options.soak_minutes * 60 * TOKENS_PER_S
        self._feed.put(events.RunStarted("played", resumed=False))
        played = run_events()
        while self._tokens < wanted and not self._is_over:
            for event in itertools.islice(played, _BATCH):
                self._tokens += isinstance(event, events.TextDelta | events.CallOutput)
                self._feed.put(event)
            while self._feed._items and not self._is_over:  # the screen takes them at its own pace
                time.sleep(0.002)
            self._options.progress.write_text(str(self._tokens), encoding="utf-8")
        if self.app is not None:
            self.app.call_from_thread(self.app.exit, 0)

    def close(self) -> bool:
        """The app leaves."""
        self._is_over = True
        return True

    def __getattr__(self, name: str) -> Any:
        """Whatever else the app asks of a workbench is not played."""
        return lambda *_arguments: None


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--soak-minutes", type=float, default=0.0)
    parser.add_argument("--progress", type=Path, default=Path("/dev/null"))
    options = parser.parse_args()
    app = KodkodApp(Wish(Path.cwd()))
    player = Player(app.feed, options)
    player.app = app
    app.workbench = player  # type: ignore[assignment]
    app.run()


if __name__ == "__main__":
    main()
