"""llama.cpp beside our engine on this machine's processor: 4-bit models of the same proportions, in turns.

    python engine/bench/llama_peer.py --llama-bench BIN/llama-bench --peer-python PEER/bin/python
        [--layers 4] [--experts 256] [--formats q4_0 q4_k] [--turns 5] [--folder DIR] [--prepare | --choose]

The peer is no dependency of this project and is built apart, from the source that llama-cpp-python brings along:

    python -m venv PEER && PEER/bin/pip install gguf numpy scikit-build-core
    PEER/bin/pip download --no-deps --no-binary :all: --no-build-isolation llama-cpp-python
    tar xzf llama_cpp_python-*.tar.gz && cd llama_cpp_python-*/vendor/llama.cpp
    cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=ON -DBUILD_SHARED_LIBS=OFF
        -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
    ninja -C build llama-bench

`llama_model.py` says what the peer is given. Its formats, threads, flash attention and repacking are tried first, and
it runs with what was best, for decoding and for prompts each. Its bytes per token are counted from its file's
tensors, ours from our parameters; at equal bytes tokens a second compare as bytes a second do. Tokens a second as
they are stand beside it: for the same matrices Q4_0 takes 4.5 bits a value and ours 4.125. The models are deleted
after measuring unless --keep is given; --prepare writes them and ends. Both lie in memory (4 layers: about 19 GB with
what the peer repacks).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from full_size import CONFIG, complete, counted_experts, step_bytes, write_model
from llama_model import Shape
from measure import keep, read_bandwidth, summary
from scratch import scratch

from kodkod_engine import load_engine
from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.benchmark.completions import on_engine_thread
from kodkod_engine.passing import in_passing

CONTEXT_TOKENS, DECODE_TOKENS, PROMPT_TOKENS = 128, 32, 512
MAX_CACHED_TOKENS = 4096
PEER_TIMEOUT_S = 600
RUNS_PER_TURN = 3


class PeerFailed(Exception):
    """The peer gave no figure; says why."""


@dataclass(frozen=True)
class Setting:
    """How the peer is run; several values are tried one after another."""

    packing: str
    repack: bool
    threads: tuple[int, ...]
    flash_attention: tuple[bool, ...]

    @property
    def arguments(self) -> list[str]:
        """For llama-bench."""
        threads = ",".join(map(str, self.threads))
        attention = ",".join("on" if is_on else "off" for is_on in self.flash_attention)
        return ["-t", threads, "-fa", attention, "--repack", str(int(self.repack))]


@dataclass(frozen=True)
class Peer:
    """llama.cpp's own bench and the models it is given."""

    binary: Path
    folder: Path
    shapes: dict[str, Shape]

    def file(self, packing: str) -> Path:
        """A format's model."""
        shape = self.shapes[packing]
        return self.folder / f"peer-{shape.layers}-{shape.experts}-{packing}.gguf"

    def step_bytes(self, packing: str) -> dict[str, float]:
        """Read for a token, by part."""
        return self.shapes[packing].step_bytes(CONTEXT_TOKENS + DECODE_TOKENS / 2)

    def decode(self, setting: Setting, runs: int) -> list[dict[str, Any]]:
        """Tokens per second behind a context, a row for each combination of the setting's values."""
        return self._run(setting, runs, ["-p", "0", "-n", str(DECODE_TOKENS), "-d", str(CONTEXT_TOKENS)])

    def prompt(self, setting: Setting, runs: int) -> list[dict[str, Any]]:
        """The same of a prompt."""
        return self._run(setting, runs, ["-p", str(PROMPT_TOKENS), "-n", "0"])

    def _run(self, setting: Setting, runs: int, test: list[str]) -> list[dict[str, Any]]:
        command = [str(self.binary), "-m", str(self.file(setting.packing)), "-o", "json", "-r", str(runs)]
        command += [*test, *setting.arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PEER_TIMEOUT_S)
            rows = json.loads(done.stdout)
        except subprocess.CalledProcessError as fault:
            raise PeerFailed(f"exit {fault.returncode}: {fault.stderr.strip()[-300:]}") from fault
        except (OSError, subprocess.TimeoutExpired, ValueError) as fault:
            raise PeerFailed(str(fault)) from fault
        return [{**row, "tokens_per_s": statistics.median(row["samples_ts"])} for row in rows]


def write_peer_model(python: Path, file: Path, shape: Shape) -> None:
    """In the peer's environment, under another name until it is whole."""
    unfinished = file.with_suffix(".part")
    script = Path(__file__).with_name("llama_model.py")
    subprocess.run([str(python), str(script), str(unfinished), json.dumps(vars(shape))], check=True)
    unfinished.rename(file)


Tried = dict[str, list[dict[str, Any]]]
"""What was tried, by test."""


def try_settings(peer: Peer, threads: int) -> Tried:
    """Every format with and without repacking and flash attention; decoding also on one thread."""
    tried: Tried = {"decode": [], "prompt": []}
    for packing, repack in product(peer.shapes, (False, True)):
        both = Setting(packing, repack, tuple(sorted({1, threads})), (False, True))
        rows = {"decode": peer.decode(both, 2), "prompt": peer.prompt(replace(both, threads=(threads,)), 1)}
        for test, row in ((name, row) for name, its in rows.items() for row in its):
            one = Setting(packing, repack, (row["n_threads"],), (bool(row["flash_attn"]),))
            merit = row["tokens_per_s"] * (sum(peer.step_bytes(packing).values()) if test == "decode" else 1)
            build = {key: row[key] for key in ("build_commit", "build_number", "cpu_info", "model_type")}
            tried[test].append({**vars(one), "tokens_per_s": row["tokens_per_s"], "merit": merit, "build": build})
            print(test, json.dumps(tried[test][-1]), flush=True)
    return tried


def best_of(tried: Tried, packings: Collection[str]) -> dict[str, dict[str, Any]]:
    """By test: of decoding the most bytes a second, of prompts the most tokens."""
    own = {test: [row for row in rows if row["packing"] in packings] for test, rows in tried.items()}
    return {test: max(rows, key=lambda row: float(row["merit"])) for test, rows in own.items()}


def setting_of(tried: dict[str, Any]) -> Setting:
    """As it was written down."""
    return Setting(tried["packing"], tried["repack"], tuple(tried["threads"]), tuple(tried["flash_attention"]))


class Ours:
    """Our engine, and what it reads for a token."""

    def __init__(self, folder: Path, threads: int, weights: Literal["mapped", "resident"]) -> None:
        self.engine: NativeEngine = load_engine(
            folder,
            device="cpu",
            weights=weights,
            ngram_tables="mapped",
            max_cached_tokens=MAX_CACHED_TOKENS,
            threads=threads,
        )
        self._generator = torch.Generator().manual_seed(7)
        complete(self.engine, self._ids(PROMPT_TOKENS), 2)
        with counted_experts(self.engine) as counts:
            complete(self.engine, self._ids(CONTEXT_TOKENS), DECODE_TOKENS)
        layers = len(self.engine.runner.loaded.model.dual_layers)
        self.experts_per_token = statistics.mean(counts[-layers * (DECODE_TOKENS - 1) :])
        context = CONTEXT_TOKENS + DECODE_TOKENS / 2
        self.parts = step_bytes(self.engine, self.experts_per_token, context)

    def _ids(self, count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, CONFIG["vocab_size"], (count,), generator=self._generator).tolist())

    def read_rate(self) -> float:
        """Bytes per second of a sum, on the engine's thread."""
        return on_engine_thread(self.engine, partial(read_bandwidth, num_bytes=1 << 29, repeats=3))

    def decode(self) -> float:
        """Tokens per second behind a context; the median of some runs, as the peer's."""
        return statistics.median(self._decode_once() for _ in range(RUNS_PER_TURN))

    def _decode_once(self) -> float:
        ids = self._ids(CONTEXT_TOKENS)
        complete(self.engine, ids, 1)  # found in the cache afterwards: what follows is decoding
        return (DECODE_TOKENS - 1) / complete(self.engine, ids, DECODE_TOKENS).usage.decode_s

    def prompt(self) -> float:
        """Tokens per second of a prompt."""
        seconds = (complete(self.engine, self._ids(PROMPT_TOKENS), 1).usage.prefill_s for _ in range(RUNS_PER_TURN))
        return PROMPT_TOKENS / statistics.median(seconds)


def take_turn(ours: Ours, peer: Peer, decode: Setting, prompt: Setting) -> dict[str, float]:
    """Each after the other, the same twice."""
    turn = {"read_bytes_per_s": ours.read_rate()}
    turn["ours_tokens_per_s"] = ours.decode()
    turn["peer_tokens_per_s"] = float(peer.decode(decode, RUNS_PER_TURN)[0]["tokens_per_s"])
    turn["ours_prompt_tokens_per_s"] = ours.prompt()
    turn["peer_prompt_tokens_per_s"] = float(peer.prompt(prompt, RUNS_PER_TURN)[0]["tokens_per_s"])
    turn["ours_bytes_per_s"] = turn["ours_tokens_per_s"] * sum(ours.parts.values())
    turn["peer_bytes_per_s"] = turn["peer_tokens_per_s"] * sum(peer.step_bytes(decode.packing).values())
    print(json.dumps({name: round(value, 2) for name, value in turn.items()}), flush=True)
    return turn


def conclude(turns: list[dict[str, float]]) -> dict[str, Any]:
    """Medians and spreads, parts of the read rate, and ratios: ours over the peer's, turn by turn for their spread."""
    figures = {name: summary([turn[name] for turn in turns]) for name in turns[0]}
    best_rate = figures["read_bytes_per_s"]["max"]
    ratios = {}
    for what, name in (
        ("decode, equal bytes", "bytes_per_s"),
        ("decode, same matrices", "tokens_per_s"),
        ("prompt", "prompt_tokens_per_s"),
    ):
        each = summary([turn[f"ours_{name}"] / turn[f"peer_{name}"] for turn in turns])
        medians = figures[f"ours_{name}"]["median"] / figures[f"peer_{name}"]["median"]
        ratios[what] = {"of_medians": medians, "least": each["min"], "most": each["max"]}
    fractions = {side: figures[f"{side}_bytes_per_s"]["median"] / best_rate for side in ("ours", "peer")}
    return {"figures": figures, "fraction_of_best_read_rate": fractions, "ratios": ratios}


def prepare(options: argparse.Namespace, peer: Peer) -> Path:
    """Write what is missing; our folder."""
    options.folder.mkdir(parents=True, exist_ok=True)
    ours = Path(options.folder) / f"ours-{options.layers}-{options.experts}"
    if not (ours / "converted.json").exists():
        changes = {"n_routed_experts": options.experts, "zero_expert_num": options.experts // 2}
        in_passing(partial(write_model, ours, options.layers, "int4", **changes))
    for packing, shape in peer.shapes.items():
        if not peer.file(packing).exists():
            write_peer_model(options.peer_python, peer.file(packing), shape)
    os.sync()
    return ours


def choose(options: argparse.Namespace, peer: Peer) -> Tried:
    """What the peer did with each setting, tried once for each pair of models."""
    kept = Path(options.folder) / f"settings-{options.layers}-{options.experts}-{options.threads}.json"
    if not kept.exists():
        kept.write_text(json.dumps(try_settings(peer, options.threads)), encoding="utf-8")
    return dict(json.loads(kept.read_text(encoding="utf-8")))


def measure(options: argparse.Namespace, peer: Peer, folder: Path) -> dict[str, Any]:
    """The record of all turns."""
    tried = choose(options, peer)
    best = best_of(tried, peer.shapes)
    decode, prompt = setting_of(best["decode"]), setting_of(best["prompt"])
    ours = Ours(folder, options.threads, options.weights)
    try:
        turns = [take_turn(ours, peer, decode, prompt) for _ in range(options.turns)]
    finally:
        ours.engine.close()
    return {
        "what": f"{options.layers} dual layers with {options.experts} experts, 4 bits, {options.weights}, "
        f"batch 1, {options.threads} threads: {DECODE_TOKENS} tokens behind {CONTEXT_TOKENS}, "
        f"and prompts of {PROMPT_TOKENS}",
        "ours": {"experts_per_token": ours.experts_per_token, "bytes_per_token": ours.parts},
        "peer": best | {"bytes_per_token": peer.step_bytes(decode.packing), "tried": tried},
        **conclude(turns),
        "turns": turns,
    }


def work(options: argparse.Namespace) -> None:
    """Write, try, measure, as far as was asked; what was written stays until it was measured."""
    with scratch(options.folder, "llama.cpp beside us", keep=True):
        _work(options)


def _work(options: argparse.Namespace) -> None:
    shapes = {packing: Shape(options.layers, options.experts, packing, CONFIG) for packing in options.formats}
    peer = Peer(options.llama_bench, options.folder, shapes)
    folder = prepare(options, peer)
    if options.choose:
        choose(options, peer)
    if options.prepare or options.choose:
        return
    record = measure(options, peer, folder)
    print(json.dumps({key: record[key] for key in ("ratios", "fraction_of_best_read_rate")}, indent=1))
    threads = "" if options.threads == os.cpu_count() else f"-{options.threads}-of-{os.cpu_count()}-threads"
    print(f"kept in {keep(f'llama-peer-{options.layers}-{options.experts}{threads}', record).name}")
    if not options.keep:
        shutil.rmtree(options.folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bench", type=Path, required=True)
    parser.add_argument("--peer-python", type=Path, required=True, help="a Python that has gguf and numpy")
    parser.add_argument("--layers", type=int, default=4, help="dual layers")
    parser.add_argument("--experts", type=int, default=256, help="per layer; fewer make room for more layers")
    parser.add_argument("--formats", nargs="+", default=["q4_0", "q4_k"], choices=["q4_0", "q4_k"])
    parser.add_argument("--weights", default="resident", choices=["mapped", "resident"], help="ours")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/kodkod-llama-peer"))
    parser.add_argument("--prepare", action="store_true", help="write the models and end")
    parser.add_argument("--choose", action="store_true", help="also try the peer's settings, and end")
    parser.add_argument("--keep", action="store_true", help="leave the models for another run")
    try:
        work(parser.parse_args())
    except PeerFailed as fault:
        print(f"the peer failed, nothing was compared: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
