"""How much of a client's prompts is not computed again: a session that is sent whole with every turn, over real HTTP.

    python app/bench/serve_reuse.py --turns 50 -o app/bench/results/DATE-serve-reuse.json

The model is the tiny random one, which writes what no tokenizer would; once as served, once with nothing remembered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from kodkod_app.bootstrap import Model, open_engine
from kodkod_app.serving.application import application
from kodkod_app.serving.running import listen, server_for
from kodkod_app.serving.service import Service

NAME = "random"
SYSTEM = "You answer shortly and to the point. " * 20
_WORDS = ("paw", "claw", "tail", "ear")


@contextmanager
def served(service: Service) -> Iterator[str]:
    """A server in a thread; its base address."""
    listening = listen("127.0.0.1", 0)
    server = server_for(application(service))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening.socket])))
    thread.start()
    try:
        yield listening.url
    finally:
        server.should_exit = True
        thread.join()


def session(url: str, turns: int, max_tokens: int) -> list[dict[str, Any]]:
    """What each turn cost."""
    dice = random.Random(0)
    messages = [{"role": "system", "content": SYSTEM}]
    costs = []
    for number in range(turns):
        messages.append({"role": "user", "content": f"{number}: {' '.join(dice.choices(_WORDS, k=4))}?"})
        body = {"model": NAME, "messages": messages, "seed": number, "max_tokens": max_tokens}
        began_s = time.monotonic()
        reply = httpx.post(f"{url}/chat/completions", json=body, timeout=600).raise_for_status().json()
        costs.append({**reply["usage"], "seconds": time.monotonic() - began_s})
        messages.append(reply["choices"][0]["message"])
    return costs


def figures(costs: list[dict[str, Any]]) -> dict[str, float]:
    """What all turns cost together."""
    prompt = sum(cost["prompt_tokens"] for cost in costs)
    reused = sum(cost["prompt_tokens_details"]["cached_tokens"] for cost in costs)
    return {
        "prompt_tokens": prompt,
        "reused_tokens": reused,
        "reused_share": reused / prompt,
        "computed_tokens_per_turn": (prompt - reused) / len(costs),
        "seconds_per_turn": sum(cost["seconds"] for cost in costs) / len(costs),
    }


def measure(turns: int, max_tokens: int, *, remembers: bool) -> dict[str, float]:
    """One session with a fresh engine."""
    engine = open_engine(None)
    assert engine.tokenizer is not None
    service = Service(Model(NAME, engine, engine.tokenizer), NAME)
    if not remembers:
        service.turns.remember = lambda *_: None  # type: ignore[method-assign]  # the control
    try:
        with served(service) as url:
            return figures(session(url, turns, max_tokens))
    finally:
        engine.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=40, help="of each answer")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    found = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "version": version("kodkod"),
        "turns": asked.turns,
        "max_tokens": asked.max_tokens,
        "served": measure(asked.turns, asked.max_tokens, remembers=True),
        "nothing_remembered": measure(asked.turns, asked.max_tokens, remembers=False),
    }
    text = json.dumps(found, indent=1) + "\n"
    print(text, end="")
    if asked.output:
        asked.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
