"""What speculation brings: plain, mtp, suffix and hybrid decoding of the same answers, interleaved in one run.

    python engine/bench/speculation.py [--model nano|random] [--repeats N] [--quick]

Workloads: (a) fresh code, (b) a file rewritten with a small change, (c) agent turns with their tool outputs, (d) prose.
(a) and (d) are nano's own greedy answers. (b) and (c) are *replayed*: the answer is given beforehand and stands in for
what the model would have chosen, while every step computes all that it would. So the time is real, and the acceptance
is that of a model that answers so. A random model of 1.25 billion parameters is measured on replayed answers alone. Its
draft block computes, and what it says is right as often as the result records.

The ratio of plain decoding's seconds to an arm's is what counts: on the wall clock, and in seconds of the
processor, for that is what can be compared when other programs run beside. Beside it stands the limit: the same
answers copied without an error, in the length that the cost table favours. Experts are counted apart from the
timing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from latency import CONFIG, counted_experts
from measure import keep

from kodkod_engine.api import Completion, GenerationRequest, SamplingParams, Speculation, TokenChunk
from kodkod_engine.backends.native import NativeEngine, drafters_for
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.config import EngineConfig
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import NOBODY, ChosenToken, TokenRun
from kodkod_engine.models.loading import load_model
from kodkod_engine.models.random_checkpoint import write_random_checkpoint
from kodkod_engine.nano import folder as nano_folder
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.drafter import Draft, Drafter
from kodkod_engine.speculation.speculator import Speculator

ARMS = (Speculation.NONE, Speculation.MTP, Speculation.SUFFIX, Speculation.AUTO)
RECORDED_ACCEPTANCE = (0.88, 0.81, 0.74)
"""Of the draft block's first, second and third token if those before are right: a mean length of 3.1 of 4, as published
for the model at three steps (arXiv 2608.01662)."""
EXPERT_STEPS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Case:
    """One answer to be decoded."""

    workload: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...] | None
    """None: the model's own."""
    sources: tuple[tuple[int, ...], ...] = ()
    max_tokens: int = 192


class ReplayingRunner(ModelRunner):
    """Computes everything, and then says what was recorded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recordings: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._playing: dict[str, tuple[int, tuple[int, ...]]] = {}

    def play(self, request_id: str, prompt: tuple[int, ...]) -> None:
        if prompt in self.recordings:
            self._playing[request_id] = (len(prompt), self.recordings[prompt])

    def recorded(self, request_id: str, position: int) -> int | None:
        length, answer = self._playing.get(request_id, (0, ()))
        place = position - length
        return answer[place] if 0 <= place < len(answer) else None

    def run(self, copies: Any, runs: Sequence[TokenRun], num_steps: int = 1) -> list[tuple[ChosenToken, ...]]:
        assert num_steps == 1, "what is replayed is replayed step by step"
        chosen = super().run(copies, runs)
        return [self._replayed(run) or tokens for run, tokens in zip(runs, chosen, strict=True)]

    def _replayed(self, run: TokenRun) -> tuple[ChosenToken, ...]:
        if run.request_id == NOBODY or run.request_id not in self._playing:
            return ()
        tokens: list[ChosenToken] = []
        drafts = iter(run.draft_ids)
        for choice in run.choices:
            token_id = self.recorded(run.request_id, choice.position)
            if token_id is None:
                break
            tokens.append(ChosenToken(token_id))
            if token_id != next(drafts, None):
                break
        return tuple(tokens)


class RecordedBlock:
    """The draft block of a model with random weights: it computes, and is right as often as recorded."""

    name = "mtp"

    def __init__(self, drafter: Drafter, runner: ReplayingRunner) -> None:
        self._drafter = drafter
        self._runner = runner
        self._draws = random.Random(5)

    def draft(self, tasks: Any) -> list[Draft]:
        return [self._corrected(task, draft) for task, draft in zip(tasks, self._drafter.draft(tasks), strict=True)]

    def _corrected(self, task: Any, draft: Draft) -> Draft:
        count = min(task.max_tokens, len(RECORDED_ACCEPTANCE)) if draft.token_ids else 0
        ids: list[int] = []
        for place, acceptance in enumerate(RECORDED_ACCEPTANCE[:count]):
            true = self._runner.recorded(task.sequence.id, task.sequence.num_tokens + place)
            if true is None:
                break
            ids.append(true if self._draws.random() < acceptance else (true + 1) % 1_000)
        return Draft(tuple(ids), RECORDED_ACCEPTANCE[: len(ids)])

    def end(self, request_id: str) -> None:
        self._drafter.end(request_id)


class ReplayingEngine(NativeEngine):
    """Knows what requests are recorded."""

    runner_class = ReplayingRunner

    def _submit(self, sequence: Any, answer: Any) -> None:
        self.runner.play(sequence.id, answer.request.token_ids)
        super()._submit(sequence, answer)


# --- workloads ------------------------------------------------------------------------------------------------------


def code_files(count: int, min_chars: int, max_chars: int) -> list[str]:
    """Files of the standard library, the same ones on every machine with this Python."""
    folder = Path(statistics.__file__).parent
    texts = (path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    fitting = [text for text in texts if min_chars <= len(text) <= max_chars and text.isascii()]
    return random.Random(11).sample(fitting, count)


def with_small_change(text: str, draws: random.Random) -> str:
    """One name renamed throughout, and one line more."""
    words = sorted({word for word in text.replace("(", " ").split() if word.isidentifier() and len(word) > 4})
    lines = text.replace(draws.choice(words), "renamed").splitlines(keepends=True)
    lines.insert(len(lines) // 2, "# checked by hand\n")
    return "".join(lines)


def numbered(text: str) -> str:
    return "".join(f"{number:6}|{line}" for number, line in enumerate(text.splitlines(keepends=True), 1))


def cases(tokenizer: Tokenizer, count: int, *, replayed_only: bool, max_tokens: int) -> Iterator[Case]:
    draws = random.Random(3)

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode_text(text))

    for text in code_files(count, 4_000, 40_000):
        whole = ids(text)
        middle = min(len(whole) // 2, 600)
        answer = whole[middle : middle + max_tokens] if replayed_only else None
        yield Case("a fresh code", whole[max(0, middle - 300) : middle], answer, max_tokens=max_tokens)
    for text in code_files(count, 1_500, 3_000):
        answer = ids(with_small_change(text, draws))
        prompt = (*ids("Rename and add a comment in this file, and write it whole.\n"), *ids(numbered(text)))
        yield Case("b rewrite", prompt, answer, (ids(text),), max_tokens=len(answer))
    for text in code_files(count, 2_000, 5_000):
        lines = text.splitlines()
        place = draws.randrange(10, len(lines) - 10)
        block = "\n".join(lines[place : place + 6])
        shown = ids("\n".join(f"{number:6}|{line}" for number, line in enumerate(lines[: place + 20], 1)))
        mended = block.replace(lines[place + 2], lines[place + 2] + "  # why")
        call = f"edit\npath\nsource.py\nold\n{block}\nnew\n{mended}\n"
        told = ids(f"FAILED test_source.py:{place} assert\nsource.py:{place + 2}: {lines[place + 2]}\n")
        yield Case("c agent turns", (*shown[-900:], *told), ids(call), (ids(text),), max_tokens=len(ids(call)))
    for text in code_files(count, 4_000, 60_000):
        prose = " ".join(line.strip("# ") for line in text.splitlines() if line.count(" ") > 8)
        whole = ids(prose)
        answer = whole[200 : 200 + max_tokens] if replayed_only else None
        if len(whole) > 260:
            yield Case("d prose", whole[:200], answer, max_tokens=min(max_tokens, len(whole) - 200))


# --- measuring ------------------------------------------------------------------------------------------------------


class Bench:
    """One model in one engine; arms are told by the request."""

    def __init__(self, checkpoint: Path, *, is_random: bool) -> None:
        config = EngineConfig(max_cached_tokens=16_384, threads=None)
        loaded = load_model(checkpoint)
        has_tokenizer = (checkpoint / "tokenizer.json").exists()
        self.tokenizer = Tokenizer.from_folder(checkpoint if has_tokenizer else nano_folder())

        def speculate(runner: ModelRunner, _config: EngineConfig) -> Speculator:
            drafters = drafters_for(runner)
            if is_random:
                assert isinstance(runner, ReplayingRunner)
                drafters = [RecordedBlock(one, runner) if one.name == "mtp" else one for one in drafters]
            return Speculator(drafters, CostTable(), default=Speculation.AUTO, vocab_size=loaded.config.vocab_size)

        self.engine = ReplayingEngine(loaded, self.tokenizer, config, speculate=speculate)

    def decode(self, case: Case, arm: Speculation) -> tuple[Completion, float]:
        """The answer, and the processor seconds this process spent on it after the first token."""
        if case.answer is not None:
            self.engine.runner.recordings[case.prompt] = case.answer
        sampling = SamplingParams(max_tokens=case.max_tokens, ignore_eos=True)
        request = GenerationRequest(case.prompt, sampling, draft_sources=case.sources, speculation=arm)
        return asyncio.run(self._timed(request))

    async def _timed(self, request: GenerationRequest) -> tuple[Completion, float]:
        started: float | None = None
        chunks: list[TokenChunk] = []
        async for chunk in self.engine.generate(request):
            started = time.process_time() if started is None else started
            chunks.append(chunk)
        spent = time.process_time() - (started or 0.0)
        ids = tuple(token_id for chunk in chunks for token_id in chunk.token_ids)
        last = chunks[-1]
        assert last.finish_reason is not None
        assert last.usage is not None
        return Completion(ids, "", (), last.finish_reason, last.usage, last.error), spent

    @property
    def speculator(self) -> Speculator:
        return self.engine._loop._speculator

    def forget_answers(self) -> None:
        """Earlier answers are a source of drafts: repeated work would copy itself."""
        drafter = self.speculator._drafters["suffix"]
        drafter._answers.clear()
        drafter._kept.clear()


def measure(bench: Bench, work: list[Case], repeats: int) -> list[dict[str, Any]]:
    seconds: dict[tuple[str, str], list[list[float]]] = {}
    processor: dict[tuple[str, str], list[list[float]]] = {}
    counts: dict[tuple[str, str], list[int]] = {}
    answers: dict[tuple[int, ...], tuple[int, ...]] = {}
    for repeat in range(repeats + 1):
        for number, case in enumerate(work):
            shift = (number + repeat) % len(ARMS)
            for arm in ARMS[shift:] + ARMS[:shift]:
                bench.forget_answers()
                done, spent = bench.decode(case, arm)
                assert answers.setdefault(case.prompt, done.token_ids) == done.token_ids, (
                    "speculation changed an answer"
                )
                if repeat == 0:
                    continue  # kernels compile, tables and calibrations begin
                key = (case.workload, arm.value)
                per_case = seconds.setdefault(key, [[] for _ in work])
                per_case[number].append(done.usage.decode_s / max(1, done.usage.generated_tokens - 1))
                spent_per_case = processor.setdefault(key, [[] for _ in work])
                spent_per_case[number].append(spent / max(1, done.usage.generated_tokens - 1))
                entry = counts.setdefault(key, [0, 0, 0])
                entry[0] += done.usage.generated_tokens
                entry[1] += done.usage.drafted_tokens
                entry[2] += done.usage.accepted_tokens
        print(f"round {repeat} of {repeats} done", file=sys.stderr, flush=True)
    names = dict.fromkeys(case.workload for case in work)
    return [row(bench, work, name, seconds, processor, counts) for name in names]


def row(bench: Bench, work: list[Case], name: str, seconds: Any, processor: Any, counts: Any) -> dict[str, Any]:
    """Medians per case over the repeats, summed over the cases; their ratio to plain decoding."""
    per_token, spent = sums(name, seconds), sums(name, processor)
    num_cases = sum(bool(times) for times in seconds[name, "none"])
    return {
        "workload": name,
        "cases": num_cases,
        "ms_per_token": {arm: 1e3 * total / num_cases for arm, total in per_token.items()},
        "ratio": {arm: per_token["none"] / total for arm, total in per_token.items()},
        "processor_ms_per_token": {arm: 1e3 * total / num_cases for arm, total in spent.items()},
        "processor_ratio": {arm: spent["none"] / total for arm, total in spent.items()},
        "drafted_and_accepted": {arm.value: counts[name, arm.value] for arm in ARMS},
        "limit": limit(bench, max(len(case.prompt) + case.max_tokens for case in work if case.workload == name)),
    }


def sums(name: str, seconds: Any) -> dict[str, float]:
    return {arm.value: sum(statistics.median(times) for times in seconds[name, arm.value] if times) for arm in ARMS}


def limit(bench: Bench, context: int) -> float:
    """Tokens a plain step's time buys at best, if every drafted token were right and drafting took no time."""
    costs = bench.speculator.costs
    return max(size * costs.seconds(1, context) / costs.seconds(size, context) for size in range(1, 129))


def experts(bench: Bench, text: Sequence[int]) -> list[dict[str, float]]:
    """Distinct real experts per layer of a step of so many neighbouring tokens, against the formula for chance."""
    layer = bench.engine.runner.loaded.model.dual_layers[0].experts
    rows: list[dict[str, float]] = []
    per_token = 0.0
    for size in EXPERT_STEPS:
        with counted_experts(bench.engine) as hits:
            for start in range(0, len(text) - size, max(size, (len(text) - size) // 8)):
                run = TokenRun(NOBODY, list(text[start : start + size]), (), 0, list(range(8)))
                bench.engine.runner.forward([run])
        measured = statistics.mean(hits)
        per_token = per_token or measured
        chance = layer.num_experts * (1 - (1 - per_token / layer.num_experts) ** size)
        rows.append({"tokens": size, "distinct": measured, "by_chance": chance, "share": measured / chance})
    return rows


def table(bench: Bench) -> dict[str, Any]:
    costs = bench.speculator.costs
    sizes = (1, 2, 4, 8, 16, 32, 64, 128)
    return {str(context): {size: costs.seconds(size, context) for size in sizes} for context in (512, 1024, 2048)}


def random_checkpoint(folder: str) -> Path:
    print("writing a random checkpoint of 1.25 billion parameters", file=sys.stderr, flush=True)
    return write_random_checkpoint(folder, CONFIG, dtype=torch.bfloat16, with_mtp=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["nano", "random"], default="nano")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one case each, one repeat; nothing is kept")
    options = parser.parse_args()
    is_random = options.model == "random"
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(random_checkpoint(folder) if is_random else nano_folder(), is_random=is_random)
        count = 1 if options.quick else 2 if is_random else 4
        work = list(cases(bench.tokenizer, count, replayed_only=is_random, max_tokens=48 if is_random else 192))
        if is_random:
            work = [replace(case, max_tokens=min(case.max_tokens, 96)) for case in work]
        rows = measure(bench, work, 1 if options.quick else options.repeats)
        record = {
            "what": f"decode seconds per token, {options.model}; ratio is against plain decoding",
            "recorded_mtp_acceptance": RECORDED_ACCEPTANCE if is_random else None,
            "workloads": rows,
            "cost_table_s": table(bench),
            "distinct_experts": experts(bench, work[-1].prompt + work[1].prompt),
        }
        for one in rows:
            ratios = "  ".join(
                f"{arm} {ratio:5.2f} ({one['processor_ratio'][arm]:5.2f})" for arm, ratio in one["ratio"].items()
            )
            print(f"{one['workload']:14} {ratios}   limit {one['limit']:5.2f}   {one['drafted_and_accepted']}")
        for one in record["distinct_experts"]:
            print(f"{one['tokens']:3} tokens: {one['distinct']:6.2f} experts, {one['by_chance']:6.2f} by chance")
        bench.engine.close()
        if not options.quick:
            print(f"kept in {keep(f'speculation-{options.model}', record).name}")


if __name__ == "__main__":
    main()
