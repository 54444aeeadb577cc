"""How long the first word of an answer takes in a session that was just opened: asked at once, and after some thinking.

    python app/bench/first_turn.py MODEL [--repeats 3]

MODEL is the folder of any checkpoint that is not guided. A session opens as the terminal app opens one, in a repository
with instructions of its own; the person speaks at once, or when what is read ahead has been read. Each time a new
engine that has answered before, so its kernels are compiled and its weights in memory; nothing is kept on disk. The
limit is computing what cannot be known before, the facts of the moment and the words, at the pace of the whole prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kodkod_agent import events
from kodkod_app.attended import Attended, open_attended
from kodkod_app.bootstrap import Model, open_session_model
from kodkod_app.settings import Settings
from kodkod_app.wish import Wish
from kodkod_engine.api import Engine, GenerationRequest, SamplingParams, collect

RESULTS = Path(__file__).parent / "results"
WORDS = "Where is the configuration read, and what happens when a key is missing?"
INSTRUCTIONS = (
    "Prefer short functions. Name things by what they do. Every fault gets a test that fails without its mend.\n"
)
WARM_UP_TOKENS = 512
AT_ONCE, AFTER_THINKING = "at once", "after thinking"


def make_project(folder: Path) -> Path:
    """A repository with a page of instructions."""
    folder.mkdir()
    (folder / "AGENTS.md").write_text(INSTRUCTIONS * 20, encoding="utf-8")
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for arguments in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


async def warm_up(engine: Engine) -> None:
    """Kernels compiled for prompts and steps, weights in memory."""
    ids = tuple(engine.vocab_size - 1 - place for place in range(WARM_UP_TOKENS))
    await collect(engine.generate(GenerationRequest(ids, SamplingParams(max_tokens=4, ignore_eos=True))))


async def until_read(engine: Engine) -> None:
    """What is read ahead, after the warm-up, is computed."""
    while (stats := engine.stats()).prompt_tokens <= WARM_UP_TOKENS or stats.running or stats.waiting:
        await asyncio.sleep(0.01)


async def first_turn(model: str, project: Path, arm: str) -> dict[str, Any]:
    """One session: seconds from the words to the first token, and what the engine computed for it."""

    async def load(settings: Settings) -> Model:
        opened = open_session_model(settings.model, settings.engine)
        stack.callback(opened.engine.close)
        await warm_up(opened.engine)
        return opened

    agent = {"read_ahead": arm == AFTER_THINKING, "max_turn_tokens": 16}
    said = {"model": model, "sandbox": "none", "agent": agent, "engine": {"kv_folder_bytes": 0}}
    async with AsyncExitStack() as stack:
        began_s = time.perf_counter()
        desk = await open_attended(Wish(project, said), load, stack)
        stack.push_async_callback(desk.session.close)
        opened_s = time.perf_counter()
        if arm == AFTER_THINKING:
            await until_read(desk.model.engine)
        thought_s = time.perf_counter() - opened_s
        return {"opened_s": opened_s - began_s, "thought_s": thought_s, **await asked(desk)}


async def asked(desk: Attended) -> dict[str, Any]:
    """The person speaks."""
    began_s = time.perf_counter()
    async for event in desk.session.send(WORDS):
        if isinstance(event, events.UsageReported):
            usage = event.usage
            first_s = time.perf_counter() - began_s - usage.decode_s
            return {"first_token_s": first_s, "prompt_tokens": usage.prompt_tokens, "reused": usage.reused_tokens}
    raise RuntimeError("the session ended without a turn")


def told(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, the limit, and how near it is."""
    seconds = {arm: statistics.median(one["first_token_s"] for one in ones) for arm, ones in found.items()}
    whole, ahead = found[AT_ONCE][0], found[AFTER_THINKING][0]
    limit_s = seconds[AT_ONCE] * (ahead["prompt_tokens"] - ahead["reused"]) / whole["prompt_tokens"]
    ratio = seconds[AT_ONCE] / seconds[AFTER_THINKING]
    return {"first_token_s": seconds, "ratio": ratio, "limit_s": limit_s, "fraction": limit_s / seconds[AFTER_THINKING]}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {AT_ONCE: [], AFTER_THINKING: []}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["KODKOD_HOME"] = temporary  # no settings and no sessions of the person's
        project = make_project(Path(temporary) / "project")
        for _ in range(options.repeats):
            for arm, ones in found.items():
                ones.append(asyncio.run(first_turn(str(Path(options.model).absolute()), project, arm)))
                print(arm, json.dumps(ones[-1]), flush=True)
    now = datetime.now(UTC)
    record = {"date": f"{now:%Y-%m-%dT%H:%M:%SZ}", "model": Path(options.model).name, **told(found), "turns": found}
    path = RESULTS / f"{now:%Y-%m-%d-%H%M}-first-turn.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told(found), indent=1), path)


if __name__ == "__main__":
    main()
