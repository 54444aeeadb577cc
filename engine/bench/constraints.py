"""Masks per token, automata of files, and what constraints cost a step, at a vocabulary of 131,072.

    python engine/bench/constraints.py [--tokenizer FILE] [--calls 40] [--quick]

Without a tokenizer a byte-level vocabulary of that size is trained on the sources that are installed here (minutes),
and kept. Calls quote, rewrite and name these sources. Every token's mask is timed once, cold, with the step that leads
to it: in processor time of the thread, which other programs on the machine do not change much, and on the wall clock.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
import torch
from latency import CONFIG
from measure import keep

from kodkod_engine import load_engine
from kodkod_engine.api import GenerationRequest, SamplingParams, Speculation, collect
from kodkod_engine.chat.byte_tokenizer import NAMED
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import call_pieces, encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import ValueAcceptor
from kodkod_engine.constraints.file_text import MAX_BYTES, StretchOf
from kodkod_engine.constraints.free_text import AnyText
from kodkod_engine.constraints.json_values import JsonValue
from kodkod_engine.constraints.paths import Entry, ExistingPath, NewPath
from kodkod_engine.constraints.patterns import CallPattern, OpenCall
from kodkod_engine.constraints.suffix_automaton import SuffixAutomaton
from kodkod_engine.constraints.turn_constraint import TurnConstraint
from kodkod_engine.constraints.vocabulary import Vocabulary, vocabulary_of
from kodkod_engine.core.sampler import choose
from kodkod_engine.core.step import Choice
from kodkod_engine.messages import ToolCall
from kodkod_engine.models.random_checkpoint import write_random_checkpoint

VOCAB_SIZE = 131_072
SOURCES = Path(torch.__file__).parents[1]
KEYS = {
    "edit": ("path", "old", "new", "replace_all", "line"),
    "view": ("path", "start", "end"),
    "write": ("path", "content"),
    "test": ("targets", "locate"),
}


def train(path: Path, megabytes: int = 100) -> None:
    """A vocabulary like those of large models, from Python sources."""
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    split = words + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    parts = tokenizers.pre_tokenizers
    backend.pre_tokenizer = parts.Sequence(
        [parts.Split(tokenizers.Regex(split), "isolated"), parts.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=list(NAMED), initial_alphabet=parts.ByteLevel.alphabet()
    )
    backend.train_from_iterator(_texts(megabytes * 1_000_000), trainer)
    backend.save(str(path))


def _texts(num_bytes: int) -> Iterator[str]:
    for path in sorted(SOURCES.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        num_bytes -= len(text)
        if num_bytes < 0:
            return
        yield text


@dataclass
class Sources:
    """See `paths.Folders`: the Python files of the installed packages."""

    listed: dict[bytes, list[Entry]] = field(default_factory=dict)

    def entries(self, folder: bytes) -> Sequence[Entry]:
        if folder not in self.listed:
            with os.scandir(os.fsencode(SOURCES) + b"/" + folder) as found:
                entries = [Entry(each.name, each.is_dir(), not each.is_dir()) for each in found]
            self.listed[folder] = [each for each in entries if each.is_folder or each.name.endswith(b".py")]
        return self.listed[folder]


def grammar(tokenizer: Tokenizer, texts: Mapping[str, StretchOf]) -> list[CallPattern]:
    """Tools like those of the agent; the automata are built before, as the agent builds them aside."""
    sources = Sources()

    def value(name: str, key: str, given: Mapping[str, str]) -> ValueAcceptor:
        if key == "path":
            return NewPath(tokenizer) if name == "write" else ExistingPath(tokenizer, sources)
        if key == "old":
            return texts[given["path"]]
        if key in ("line", "start", "end"):
            return JsonValue(tokenizer, {"type": "integer", "minimum": 1, "maximum": 4_321})
        if key in ("replace_all", "locate"):
            return JsonValue(tokenizer, {"type": "boolean"})
        if key == "targets":
            return JsonValue(tokenizer, {"type": "array", "items": {"type": "string"}})
        return AnyText(tokenizer)

    def follows(name: str, given: Mapping[str, str]) -> list[str | None]:
        return [*(key for key in KEYS[name] if key not in given), None]

    return [
        OpenCall(
            name, lambda given, name=name: follows(name, given), lambda key, given, name=name: value(name, key, given)
        ).pattern
        for name in KEYS
    ]


def recorded_calls(count: int, seed: int = 0) -> tuple[list[ToolCall], dict[str, str]]:
    """Calls as an agent makes them, and the files they quote."""
    draws = random.Random(seed)
    paths = [path for path in sorted(SOURCES.rglob("*.py")) if 2_000 < path.stat().st_size < MAX_BYTES]
    calls: list[ToolCall] = []
    texts: dict[str, str] = {}
    for number in range(count):
        path = draws.choice(paths)
        name, text = str(path.relative_to(SOURCES)), path.read_text(encoding="utf-8", errors="ignore")
        lines = text.splitlines(keepends=True)
        start = draws.randrange(len(lines) - 8)
        old = "".join(lines[start : start + draws.randint(1, 8)]) or lines[0]
        kind = ("edit", "edit", "view", "write", "test")[number % 5]
        arguments: dict[str, Any] = {
            "edit": {"path": name, "old": old, "new": old.replace("self", "this"), "line": start + 1},
            "view": {"path": name, "start": 1, "end": 120},
            "write": {"path": f"new/{name}", "content": "".join(lines[start : start + 40])},
            "test": {"targets": [f"{name}::test_{start}"], "locate": True},
        }[kind]
        texts[name] = text
        calls.append(ToolCall(id="", name=kind, arguments=arguments))
    return calls, texts


def masks(tokenizer: Tokenizer, count: int) -> dict[str, Any]:
    """Microseconds per token over recorded calls, each mask cold."""
    first_uses = 5  # of a process: compiled functions are loaded, sets of tokens put together
    calls, texts = recorded_calls(count + first_uses)
    automata = {path: StretchOf(tokenizer, text) for path, text in texts.items()}
    cpu: list[float] = []
    wall: list[float] = []
    first: list[float] = []
    for number, call in enumerate(calls):
        constraint = TurnConstraint(tokenizer, lambda _: grammar(tokenizer, automata))
        ids = encode_pieces(tokenizer, call_pieces(call))
        for place in range(1, len(ids)):
            before = time.perf_counter(), time.thread_time()
            allowed = constraint.allowed_ids(ids[:place])
            after = time.perf_counter(), time.thread_time()
            taken = [1e6 * (late - early) for early, late in zip(before, after, strict=True)]
            if number < first_uses:
                first.append(taken[1])
            else:
                wall.append(taken[0])
                cpu.append(taken[1])
            assert allowed is None or ids[place] in allowed, tokenizer.decode(ids[: place + 1])
    return {
        "calls": count,
        "tokens": len(cpu),
        "cpu_us": percentiles(cpu),
        "wall_us": percentiles(wall),
        "longest_of_first_uses_cpu_us": round(max(first), 1),
    }


def percentiles(samples: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(samples, n=1000)
    return {
        "p50": round(cuts[499], 1),
        "p90": round(cuts[899], 1),
        "p99": round(cuts[989], 1),
        "max": round(max(samples), 1),
    }


def automata(tokenizer: Tokenizer) -> dict[str, Any]:
    """Seconds to build, and the masks of the places that most of a file goes on from."""
    text = "".join(_texts(3_000_000))[:MAX_BYTES]
    data = text.encode()[:MAX_BYTES]
    vocabulary = vocabulary_of(tokenizer)
    SuffixAutomaton.of(b"compile first")
    building: list[float] = []
    for _ in range(3):
        before = time.thread_time()
        automaton = SuffixAutomaton.of(data)
        building.append(time.thread_time() - before)
    frequent: dict[str, float] = {}
    for begun in ("", " ", "    ", "\n", "self.", "e"):
        state = automaton.read(0, begun.encode())
        taken = [_cpu_us(lambda state=state: automaton.tokens(state, vocabulary)) for _ in range(5)]
        frequent[repr(begun)] = round(statistics.median(taken), 1)
    size = sum(part.nbytes for part in (automaton.first_edge, automaton.edge_bytes, automaton.targets))
    return {
        "bytes": len(data),
        "build_cpu_s": [round(each, 3) for each in building],
        "states": len(automaton.first_edge) - 1,
        "kept_megabytes": round(size / 1e6, 1),
        "mask_us_after": frequent,
    }


def _cpu_us(work: Any) -> float:
    before = time.thread_time()
    work()
    return 1e6 * (time.thread_time() - before)


def vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    Vocabulary(tokenizer)
    before = time.thread_time()
    built = Vocabulary(tokenizer)
    taken = time.thread_time() - before
    return {"tokens": built.size, "nodes": len(built.trie.children) + 1, "build_cpu_s": round(taken, 3)}


def sampling(vocab_size: int) -> dict[str, float]:
    """Microseconds of choosing one token: freely, with a mask, with one id left."""
    logits = torch.randn(1, vocab_size)
    half = range(0, vocab_size, 2)
    from kodkod_engine.constraints.token_mask import TokenMask

    torch.set_num_threads(1)
    found: dict[str, float] = {}
    sets = {"free": None, "half of all": TokenMask.of(half, vocab_size), "one": frozenset({7})}
    for name, allowed in sets.items():
        for temperature in (0.0, 1.0):
            choice = Choice(SamplingParams(temperature), 0, allowed)
            taken = [_cpu_us(lambda choice=choice: choose(logits, [choice])) for _ in range(40)]
            found[f"{name}, temperature {temperature}"] = round(statistics.median(taken), 1)
    return found


@dataclass
class Calls:
    """See `api.Constraint`: calls of a turn one after another, as a model that does nothing else would make them."""

    turn: TurnConstraint
    call_id: int
    end_ids: Collection[int]
    seconds: float = 0.0

    def allowed_ids(self, generated_ids: Sequence[int]) -> Collection[int] | None:
        before = time.perf_counter()
        allowed = self.turn.allowed_ids(generated_ids)
        self.seconds += time.perf_counter() - before
        return {self.call_id} if allowed is None else allowed


def whole_steps(tokenizer: Tokenizer, folder: Path, num_tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds per token of the benchmark model with this vocabulary, with and without a constraint, in turns.

    Step for step first, without drafts; then with what the constraint forces taken as drafts.
    """
    write_random_checkpoint(folder, {**CONFIG, "vocab_size": VOCAB_SIZE}, with_mtp=False)
    engine = load_engine(folder, max_cached_tokens=4_096)
    _, texts = recorded_calls(5)
    automata = {path: StretchOf(tokenizer, text) for path, text in texts.items()}
    prompt = tuple(range(100, 356))
    measured: dict[str, list[float]] = {}
    shares: list[float] = []
    arms = {
        "free": (False, Speculation.NONE),
        "constrained": (True, Speculation.NONE),
        "constrained, forced tokens drafted": (True, Speculation.AUTO),
    }
    try:
        for repeat in range(repeats + 1):
            for name, (is_constrained, speculation) in arms.items():
                turn = TurnConstraint(tokenizer, lambda _: grammar(tokenizer, automata))
                calls = Calls(turn, tokenizer.special.ids[Tag.TOOL_CALL], ())
                params = SamplingParams(1.5, max_tokens=num_tokens, ignore_eos=True)
                request = GenerationRequest(prompt, params, calls if is_constrained else None, speculation=speculation)
                done = asyncio.run(collect(engine.generate(request)))
                if repeat:  # the first round loads and compiles
                    measured.setdefault(name, []).append(done.usage.decode_s / (num_tokens - 1))
                if repeat and name == "constrained":
                    shares.append(calls.seconds / done.usage.decode_s)
    finally:
        engine.close()
    medians = {name: statistics.median(values) for name, values in measured.items()}
    return {
        "tokens": num_tokens,
        "seconds_per_token": measured,
        "share_of_masks": shares,
        "slow_down": medians["constrained"] / medians["free"] - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=Path(tempfile.gettempdir()) / "kodkod-131072.json")
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="without whole steps of a model")
    options = parser.parse_args()
    if not options.tokenizer.exists():
        train(options.tokenizer)
    tokenizer = Tokenizer(options.tokenizer.read_text(encoding="utf-8"))
    record: dict[str, Any] = {
        "vocabulary": vocabulary(tokenizer),
        "automaton": automata(tokenizer),
        "masks": masks(tokenizer, options.calls),
        "sampling_cpu_us": sampling(VOCAB_SIZE),
    }
    if not options.quick:
        with tempfile.TemporaryDirectory() as folder:
            record["whole_steps"] = whole_steps(tokenizer, Path(folder), 60, 3)
    record["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(record)
    print(keep("constraints", record))


if __name__ == "__main__":
    main()
