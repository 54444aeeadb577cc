"""What the agent itself costs per step: the graph, the ledger, the journal, snapshots and tools, without the model's
time and without commands.

    python agent/bench/overhead.py [--steps 500] [--folder DIR]

The scripted engine replays recorded turns; its time is measured per turn and taken off. Written to
`agent/bench/results`, with the date and the commit: milliseconds per step for two kinds of steps (a call that only
looks, and one that edits), early and late in a session, the processor time in them (git's included, the engine's
thread left out; it says the same on a busy machine), and the size of the checkpoint file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from record import RESULTS, circumstances

from kodkod_agent import events
from kodkod_agent.config import AgentConfig
from kodkod_agent.policy import PermissionMode
from kodkod_agent.session import Session, SessionSetup
from kodkod_agent.session_folder import SessionFolder
from kodkod_engine.backends.scripted import ScriptedEngine, replay
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.template import assistant_pieces, encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.config import EngineConfig
from kodkod_engine.messages import AssistantMessage, ToolCall
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.none import NoSandbox

GOAL_MS, GOAL_BYTES = 20.0, 50_000_000
CONTEXT_TOKENS = 400_000
NUM_FILES = 200


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--folder", help="where the project and the session lie meanwhile; the disk counts")
    given = parser.parse_args()
    steps = given.steps
    kinds = {kind: asyncio.run(_measure(kind, steps, given.folder)) for kind in ("view", "edit")}
    result = {
        **circumstances(),
        "command": f"python agent/bench/overhead.py --steps {steps}",
        "project_files": NUM_FILES,
        "steps": steps,
        "goal": {"ms_per_step": GOAL_MS, "checkpoint_bytes": GOAL_BYTES},
        "kinds": kinds,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"overhead-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


async def _measure(kind: str, steps: int, place: str | None = None) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=place) as temporary:
        folder = Path(temporary).resolve()
        setup = _setup(folder, kind, steps)
        await setup.sandbox.start()
        try:
            async with await Session.create(folder / "sessions", setup) as session:
                found = [step async for step in _steps(session)]
                folder = SessionFolder.find(folder / "sessions", session.id)
                size = sum(path.stat().st_size for path in folder.path.glob("checkpoints.sqlite*"))
                context = len(session.ledger)
        finally:
            await setup.sandbox.close()
            setup.engine.close()
    spent, busy = ([step[at] for step in found] for at in (0, 1))
    return {
        "cpu_ms_per_step_median": round(statistics.median(busy), 2),
        "ms_per_step_median": round(statistics.median(spent), 2),
        "ms_per_step_first_tenth": round(statistics.median(spent[: steps // 10]), 2),
        "ms_per_step_last_tenth": round(statistics.median(spent[-steps // 10 :]), 2),
        "ms_per_step_p95": round(statistics.quantiles(spent, n=20)[-1], 2),
        "checkpoint_bytes": size,
        "context_tokens_at_the_end": context,
    }


async def _steps(session: Session) -> AsyncIterator[tuple[float, float]]:
    """Milliseconds of each step and of processor time in it, without those from the request to the end of the model's
    answer.
    """
    started, asked, model = _clocks(), (0.0, 0.0), (0.0, 0.0)
    async for event in session.send("go"):
        match event:
            case events.TurnStarted():
                asked = _clocks()
            case events.UsageReported():
                now = _clocks()
                model = (now[0] - asked[0], now[1] - asked[1])
            case events.TurnEnded():
                now = _clocks()
                yield 1_000 * (now[0] - started[0] - model[0]), 1_000 * (now[1] - started[1] - model[1])
                started = now
            case events.RunEnded(report):
                assert report.summary == "done", report


def _clocks() -> tuple[float, float]:
    """Seconds by the wall, and of the processors without the engine's thread."""
    engine = [thread for thread in threading.enumerate() if thread.name == "kodkod-engine"]
    engine_s = sum(time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) for thread in engine if thread.ident)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() - engine_s + children.ru_utime + children.ru_stime


def _setup(folder: Path, kind: str, steps: int) -> SessionSetup:
    project = folder / "project"
    for number in range(NUM_FILES):
        path = project / f"package{number % 10}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(50)))
    (project / "log.txt").write_text("end\n")
    for path in project.rglob("*.py"):  # of files as young as its index git reads the content at every look
        os.utime(path, (time.time() - 3_600,) * 2)
    for command in ("init -q", "add .", "-c user.name=b -c user.email=b@localhost commit -qm 1"):
        subprocess.run(["git", *command.split()], cwd=project, check=True)
    write_byte_tokenizer(folder)
    tokenizer = Tokenizer.from_folder(folder)
    engine = ScriptedEngine(
        replay([_turn(tokenizer, _call(kind, number)) for number in range(steps)] + [_turn(tokenizer, _FINISH)]),
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        tokenizer=tokenizer,
        max_context_tokens=CONTEXT_TOKENS,
        config=EngineConfig(max_cached_tokens=2 * CONTEXT_TOKENS, max_step_tokens=CONTEXT_TOKENS),
    )
    config = AgentConfig(max_turns=steps + 9, max_tokens=10**9, timeout_s=10**6, verify=False, max_loop_warnings=10**6)
    box = NoSandbox(BoxOptions(work_tree=project))
    return SessionSetup(engine, tokenizer, box, project, config, mode=PermissionMode.BYPASS_PERMISSIONS, trusted=True)


_FINISH = ToolCall(id="", name="finish", arguments={"summary": "done"})


def _call(kind: str, number: int) -> ToolCall:
    if kind == "view":
        path = f"package{number % 10}/module{number % NUM_FILES}.py"
        return ToolCall(id="", name="view", arguments={"path": path, "start": number % 40 + 1, "end": number % 40 + 5})
    arguments = {"path": "log.txt", "old": "end\n", "new": f"{number}\nend\n"} if number % 20 else {}
    if arguments:
        return ToolCall(id="", name="edit", arguments=arguments)
    return ToolCall(id="", name="write", arguments={"path": "log.txt", "content": "end\n"})


def _turn(tokenizer: Tokenizer, call: ToolCall) -> list[int]:
    message = AssistantMessage(text="Next.", calls=(call,))
    return [*encode_pieces(tokenizer, assistant_pieces(message)), tokenizer.eos_id]


if __name__ == "__main__":
    main()
