"""Calls that models draw at temperature 1.5 under the real constraint, each checked by other means.

    python agent/bench/sampled_calls.py --work DIR [--model nano|random] [--calls 50000]

Two models: nano as it comes along, and a random checkpoint that is made in DIR. They run in the whole engine, many
sequences side by side, every fifth turn with drafts. Turns are numbered, and the number decides everything: half may
call any tool, half one tool alone, so that the rare ones are seen; a quarter are two or three calls; what was said
before them differs. Turns that are already in DIR are passed over, so it goes on after any end; `--report` only counts.

A call that the token limit cuts is counted apart: it is neither whole nor malformed. The record is written to
`agent/bench/results`; it has each property with how many calls have it of how many can, and every call that lacks one.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json import dumps
from pathlib import Path
from typing import Any

from call_checks import PACKAGES, Checker, context_of, make_tree
from record import RESULTS, circumstances
from sampled_turns import Clock, Turn, Work, figures, work_of

from kodkod_agent.call_grammar import CallGrammar
from kodkod_engine import load_engine
from kodkod_engine.api import Completion, FinishReason, GenerationRequest, SamplingParams, Speculation, collect
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.parser import parse_turn
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import render
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.turn_constraint import TurnConstraint
from kodkod_engine.messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint
from kodkod_engine.nano import folder as nano_folder
from kodkod_tools import registry
from kodkod_tools.base import ToolContext

TEMPERATURE = 1.5
SMALL = {**TINY, "num_layers": 1, "hidden_size": 48}
"""Of the random model: every kind of layer, and little to compute, for its calls are long."""
_TELL_EVERY_S = 10.0


@dataclass(frozen=True)
class Plan:
    """What the number of a turn decides."""

    number: int
    tool: str | None
    """The only one that may be called."""
    num_calls: int
    conversation: int
    with_drafts: bool

    @classmethod
    def of(cls, number: int) -> Plan:
        """The same number is always the same plan."""
        draws = random.Random(number)
        names = [spec.name for spec in registry.specs()]
        tool = draws.choice(names) if draws.random() < 0.5 else None
        num_calls = draws.choice((1, 1, 1, 1, 1, 1, 2, 3))
        return cls(number, tool, num_calls, draws.randrange(1_000), draws.random() < 0.2)


@dataclass
class CallsAlone:
    """See `Constraint`: the turn's own, and then nothing but so many calls; a model would go on with prose."""

    turn: TurnConstraint
    num_calls: int
    begin_id: int
    end_id: int
    eos_id: int

    def allowed_ids(self, generated_ids: Sequence[int]) -> Collection[int] | None:
        """See `Constraint`."""
        if generated_ids and generated_ids[-1] != self.end_id:
            return self.turn.allowed_ids(generated_ids)
        made = sum(token_id == self.end_id for token_id in generated_ids)
        return (self.begin_id,) if made < self.num_calls else (self.eos_id,)


def conversations(tree: Path) -> list[list[Message]]:
    """What may come before a turn: nothing yet; the tests; a look at a part of a file."""
    found: list[list[Message]] = []
    for package in PACKAGES:
        for path in sorted((tree / package.__name__).rglob("*.py")):
            lines = path.read_text(encoding="utf-8").splitlines()
            name = str(path.relative_to(tree))
            for start in range(0, max(1, len(lines) - 8), 40):
                shown = "\n".join(f"{start + at}|{text}" for at, text in enumerate(lines[start : start + 8], 1))
                asked: list[Message] = [UserMessage(text=f"A test fails. Mend {name}.")]
                tested = [_made("test"), ToolMessage(call_id="", text=f"1 failed\n{name}:{start + 3} in it")]
                looked = [_made("view", path=name, start=start + 1), ToolMessage(call_id="", text=f"{name}\n{shown}")]
                found += [asked, [*asked, *tested], [*asked, *tested, *looked]]
    return found


def _made(name: str, **arguments: Any) -> Message:
    return AssistantMessage(calls=(ToolCall(id="", name=name, arguments=arguments),))


@dataclass
class Sampler:
    """Draws turns of one model, some side by side, and checks each."""

    name: str
    engine: Any
    tools: ToolContext
    checker: Checker
    work: Work
    max_tokens: int
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.tokenizer: Tokenizer = self.engine.tokenizer
        self.grammars: dict[str | None, CallGrammar] = {None: CallGrammar(self.tokenizer, registry.specs(), self.tools)}
        for spec in registry.specs():
            self.grammars[spec.name] = CallGrammar(self.tokenizer, [spec], self.tools)
        # Byte by byte a long conversation is nothing but time to a model that knows nothing.
        asked = conversations(self.tools.work_tree) if self.name == "nano" else [[UserMessage(text="Mend it.")]]
        self.prompts = [tuple(render(self.tokenizer, messages, generation_prompt=True)) for messages in asked]

    async def run(self, wanted: int, streams: int) -> None:
        """Until the work holds so many whole calls."""
        began, had, watch = datetime.now(UTC).isoformat(timespec="seconds"), self.work.num_calls, Stopwatch()
        numbers = self._numbers(wanted)
        teller = asyncio.create_task(self._tell(began, had, wanted, watch))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(streams):
                    group.create_task(self._worker(numbers))
        finally:
            teller.cancel()
            self._note(began, had, watch)

    def _numbers(self, wanted: int) -> Iterator[int]:
        number = 0
        while self.work.num_calls < wanted:
            if number not in self.work.turns:
                yield number
            number += 1

    async def _worker(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            self.work.add(await self.turn(Plan.of(number)))

    async def _tell(self, began: str, had: int, wanted: int, watch: Stopwatch) -> None:
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            clock = self._note(began, had, watch)
            left_s = (wanted - self.work.num_calls) / max(1, clock.calls) * clock.wall_s
            unsound = sum(not call.is_sound for turn in self.work.turns.values() for call in turn.calls)
            told = f"{self.name}: {self.work.num_calls:,} of {wanted:,} calls, {unsound} that lack something, "
            print(f"{told}{clock.calls / clock.wall_s:.1f} a second, {left_s / 60:.0f} min left", file=sys.stderr)

    def _note(self, began: str, had: int, watch: Stopwatch) -> Clock:
        wall_s, cpu_s = watch.seconds()
        clock = Clock(began=began, calls=self.work.num_calls - had, wall_s=wall_s, cpu_s=cpu_s)
        self.work.add(clock)
        return clock

    async def turn(self, plan: Plan) -> Turn:
        """Draw one and check it."""
        ids = self.tokenizer.special.ids
        turn = self.grammars[plan.tool].constraint()
        held = CallsAlone(turn, plan.num_calls, ids[Tag.TOOL_CALL], ids[Tag.TOOL_CALL_END], self.tokenizer.eos_id)
        sampling = SamplingParams(TEMPERATURE, seed=plan.number, max_tokens=self.max_tokens)
        speculation = Speculation.AUTO if plan.with_drafts else Speculation.NONE
        prompt = self.prompts[plan.conversation % len(self.prompts)]
        request = GenerationRequest(prompt, sampling, held, speculation=speculation)
        done = await collect(self.engine.generate(request))
        assert done.finish_reason in (FinishReason.STOP, FinishReason.LENGTH), done.error
        async with self._one_at_a_time:
            return await self._checked(plan, turn, done)

    async def _checked(self, plan: Plan, turn: TurnConstraint, done: Completion) -> Turn:
        end_id = self.tokenizer.special.ids[Tag.TOOL_CALL_END]
        is_cut = done.finish_reason is FinishReason.LENGTH
        whole = [at + 1 for at, token_id in enumerate(done.token_ids) if token_id == end_id]
        ids = done.token_ids[: whole[-1] if whole else 0] if is_cut else done.token_ids
        message = parse_turn(self.tokenizer, ids, registry.specs())
        calls = await self.checker.turn(message.calls)
        is_clean = not message.text and not message.reasoning and len(calls) == len(whole) and all(
            call.is_sound for call in calls
        )  # fmt: skip
        usage = done.usage
        return Turn(
            number=plan.number, calls=calls, cut=is_cut, tokens=usage.generated_tokens, forced=usage.forced_tokens,
            constrained=usage.constrained_tokens, drafted=usage.drafted_tokens, loosened=list(turn.loosened),
            text="" if is_clean else self.tokenizer.decode(done.token_ids, skip_special=False),
        )  # fmt: skip


@dataclass
class Stopwatch:
    """Since it was made."""

    began: tuple[float, float] = field(default_factory=lambda: (time.monotonic(), time.process_time()))

    def seconds(self) -> tuple[float, float]:
        """By the wall, and of this process's threads."""
        return time.monotonic() - self.began[0], time.process_time() - self.began[1]


def open_model(name: str, folder: Path, streams: int) -> Any:
    """An engine with one of the two models."""
    if name == "random":
        place = folder / "random-model"
        if not (place / "model.safetensors.index.json").exists():
            write_random_checkpoint(place, SMALL, with_mtp=False)
            write_byte_tokenizer(place)
    else:
        place = Path(str(nano_folder()))
    return load_engine(str(place), threads=1, max_running=streams, max_cached_tokens=131_072)


async def sample(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Draw what is still wanted of one model."""
    engine = open_model(name, folder, options.streams)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary).resolve()
        tools = context_of(make_tree(place / "tree"), place / "logs")
        sampler = Sampler(
            name, engine, tools, Checker.beside(tools, place / "copy"), work_of(name, folder), options.max_tokens
        )
        try:
            await sampler.run(options.calls, options.streams)
        finally:
            engine.close()
            for grammar in sampler.grammars.values():
                grammar.close()


def main() -> None:
    """Sample, count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the turns; gone on with")
    parser.add_argument("--model", choices=("nano", "random"), action="append", help="[default: both]")
    parser.add_argument("--calls", type=int, default=50_000, help="whole ones wanted of each model")
    parser.add_argument("--max-tokens", type=int, default=512, help="of a turn")
    parser.add_argument("--streams", type=int, default=48, help="sequences side by side")
    parser.add_argument("--report", action="store_true", help="draw nothing; count what is there, and write the record")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    names = options.model or ["nano", "random"]
    try:
        for name in () if options.report else names:
            asyncio.run(sample(name, options.work, options))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
    found = {name: figures(work_of(name, options.work)) for name in names}
    record = {**circumstances(), "temperature": TEMPERATURE, "max_tokens": options.max_tokens, "models": found}
    text = dumps(record, indent=1, ensure_ascii=False) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"sampled-calls-{datetime.now(UTC):%Y%m%d-%H%M%S}.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
