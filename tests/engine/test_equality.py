"""However a sequence is served, it is served as one plain pass over it would have been.

Random token streams, end-of-sequence ids among them, are served under random settings: chunk and block sizes, prefix
hits, forks at any token of live and finished streams, preemptions, company, rejected drafts. Two things are compared
at every position with one plain pass over the whole sequence on a fresh cache: the n-gram rows that the embedding
reads, and the greedy token.

The order of floating-point sums differs between the two, so where the plain pass's two best logits are closer than
TIE_GAP the token is not compared; the next position is, because the plain pass reads the very tokens that were served.
Such ties are rare, and counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kodkod_engine import ngram_row_ids
from kodkod_engine.api import GenerationRequest, SamplingParams, TokenStream
from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.config import EngineConfig
from kodkod_engine.core import visits
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import ChosenToken, TokenRun
from kodkod_engine.layers.ngram_embedding import RowSource
from kodkod_engine.layers.ngram_hash import NgramHasher
from kodkod_engine.models.config import BACKBONE_ARCHITECTURE
from kodkod_engine.models.loading import LoadedModel, TableHome, load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

TIE_GAP = 1e-4
MAX_TIE_SHARE = 0.01
EOS_ID = 2
MAX_KEPT_TOKENS, MAX_NEW_TOKENS, MAX_ANSWER_TOKENS = 40, 12, 24
MAX_REQUESTS = 6
LONGEST = MAX_KEPT_TOKENS + MAX_NEW_TOKENS + MAX_ANSWER_TOKENS

NORMAL = settings(max_examples=15, deadline=None, derandomize=True, database=None)
THOROUGH = settings(max_examples=300, deadline=None)


# --- what the embedding received ------------------------------------------------------------------------------------


class RecordedRows:
    """A row source that remembers which rows were read of another one."""

    def __init__(self, source: RowSource) -> None:
        self._source = source
        self.row_ids: list[Tensor] = []

    def rows(self, windows: Tensor, hasher: NgramHasher) -> Tensor:
        self.row_ids.append(hasher.row_ids(windows))
        return self._source.rows(windows, hasher)

    def expect(self, windows: Tensor) -> None:
        self._source.expect(windows)


@dataclass
class Served:
    """Per request and position the rows read last: a later run over a position replaces an earlier one's."""

    rows: dict[str, dict[int, Tensor]] = field(default_factory=dict)

    def note(self, runs: Sequence[TokenRun], row_ids: Tensor) -> None:
        in_batch_order = sorted(runs, key=lambda run: len(run.token_ids))
        parts = row_ids.split([len(run.token_ids) for run in in_batch_order])
        for run, part in zip(in_batch_order, parts, strict=True):
            self.rows.setdefault(run.request_id, {}).update(enumerate(part, start=run.start))


@dataclass
class Model:
    """A loaded model whose row look-ups are recorded."""

    loaded: LoadedModel
    recorded: RecordedRows | None

    def runner(self, num_blocks: int, block_size: int, served: Served) -> ModelRunner:
        """A runner on a fresh cache that notes the rows of each run."""
        return self.recording(ModelRunner(self.loaded, num_blocks, block_size), served)

    def recording(self, runner: ModelRunner, served: Served) -> ModelRunner:
        plain_forward = runner.forward

        def forward(runs: Sequence[TokenRun]) -> Any:
            if self.recorded is None:
                return plain_forward(runs)
            self.recorded.row_ids.clear()
            output = plain_forward(runs)
            served.note(runs, torch.cat(self.recorded.row_ids))
            return output

        runner.forward = forward
        return runner

    def plain_logits(self, token_ids: Sequence[int]) -> Tensor:
        """One pass over the whole sequence: fp32 [tokens, vocab]."""
        runner = ModelRunner(self.loaded, 1, len(token_ids))
        return runner.logits([TokenRun("plain", token_ids, (), 0, [0])])[0]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The model is tiny: a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _no_hurry() -> Iterator[None]:
    """How many steps are taken at once does not depend on how long they take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visits, "VISIT_S", float("inf"))
        yield


@pytest.fixture(scope="module", params=["resident", "mapped", "backbone"])
def model(request, tmp_path_factory) -> Model:
    """Tables in memory, tables in their files, and no tables at all."""
    config = {**TINY, "architectures": [BACKBONE_ARCHITECTURE]} if request.param == "backbone" else TINY
    folder = write_random_checkpoint(tmp_path_factory.mktemp(request.param), config, seed=5, with_mtp=False)
    home = TableHome.MAPPED if request.param == "mapped" else TableHome.RESIDENT
    loaded = load_model(folder, ngram_tables=home)
    embedding = loaded.model.embedding
    assert (embedding is None) == (request.param == "backbone")
    if embedding is None:
        return Model(loaded, None)
    recorded = RecordedRows(embedding.row_source)
    embedding.move_tables(recorded)
    return Model(loaded, recorded)


# --- the comparison -------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What the examples of one property had in them, so that it cannot hold for want of cases."""

    counts: Counter[str] = field(default_factory=Counter)

    def count_visits(self, runner: ModelRunner) -> None:
        """Steps that the runner takes at once with others."""
        run = runner.run

        def counted(copies: Any, runs: Sequence[TokenRun], num_steps: int = 1) -> list[tuple[ChosenToken, ...]]:
            self.counts["visits"] += num_steps - 1
            return run(copies, runs, num_steps)

        runner.run = counted  # type: ignore[method-assign]  # one engine's, for one example

    def compare_rows(self, model: Model, token_ids: Sequence[int], rows: dict[int, Tensor], num_known: int) -> None:
        """Every position from `num_known` on was read, and each that was read is the plain pass's."""
        if model.recorded is None:
            assert not rows
            return
        plain = ngram_row_ids(token_ids, model.loaded.config)
        # A CUDA device reads rows of steps of few tokens by itself, unseen: the tokens tell whether they were right.
        assert model.loaded.device.type == "cuda" or rows.keys() >= set(range(num_known, len(token_ids)))
        for position, row in rows.items():
            assert torch.equal(row, plain[position]), f"other rows at {position} of {token_ids}"
        self.counts["rows"] += len(rows)

    def compare_tokens(self, logits: Tensor, served: Sequence[int]) -> None:
        """Each served token is the best one after the tokens before it: logits fp32 [len(served), vocab]."""
        best = logits.topk(2, dim=-1)
        gaps = (best.values[:, 0] - best.values[:, 1]).tolist()
        for place, (gap, wanted, token_id) in enumerate(zip(gaps, best.indices[:, 0].tolist(), served, strict=True)):
            self.counts["positions"] += 1
            self.counts["ties"] += gap < TIE_GAP
            assert gap < TIE_GAP or token_id == wanted, f"another token at {place}"

    def assert_telling(self, *kinds: str) -> None:
        """Ties were rare, and each kind of case occurred."""
        assert self.counts["ties"] < MAX_TIE_SHARE * self.counts["positions"]
        assert all(self.counts[kind] for kind in kinds), self.counts


# --- served by the engine -------------------------------------------------------------------------------------------

token_ids = st.one_of(st.integers(0, 319), st.sampled_from([EOS_ID, 7, 8, 9]))


def token_lists(max_size: int) -> st.SearchStrategy[list[int]]:
    """Lists of 1 to `max_size` ids, all lengths alike."""
    sizes = st.integers(1, max_size)
    return sizes.flatmap(lambda size: st.lists(token_ids, min_size=size, max_size=size))


@dataclass(frozen=True)
class Ask:
    """A prompt: part of an earlier request's tokens, then new ones."""

    parent: int | None
    """Index of the earlier request; None starts from nothing."""
    seen: int
    """How many tokens of its answer to wait for before forking."""
    kept: int
    """How many of its tokens to keep, as far as there are so many."""
    new_ids: list[int]
    max_tokens: int


@st.composite
def asks(draw: st.DrawFn) -> list[Ask]:
    return [
        Ask(
            parent=draw(st.none() | st.integers(0, index - 1)) if index else None,
            seen=draw(st.integers(0, MAX_ANSWER_TOKENS)),
            kept=draw(st.integers(0, MAX_KEPT_TOKENS)),
            new_ids=draw(token_lists(MAX_NEW_TOKENS)),
            max_tokens=draw(st.integers(1, MAX_ANSWER_TOKENS)),
        )
        for index in range(draw(st.integers(2, MAX_REQUESTS)))
    ]


@st.composite
def cases(draw: st.DrawFn) -> tuple[EngineConfig, list[Ask]]:
    """Requests, and an engine whose cache has room for the longest of them and little more."""
    requests = draw(asks())
    longest = max(ask.kept + len(ask.new_ids) + ask.max_tokens for ask in requests)
    max_step_tokens = draw(st.integers(1, 64))
    config = EngineConfig(
        block_size=draw(st.integers(1, 16)),
        max_step_tokens=max_step_tokens,
        max_running=draw(st.integers(1, min(MAX_REQUESTS, max_step_tokens))),
        max_cached_tokens=longest + draw(st.integers(0, 30)),
        steps_per_visit=draw(st.sampled_from([1, 3, 8])),
    )
    return config, requests


def crowded() -> tuple[EngineConfig, list[Ask]]:
    """Answers that begin together and cannot end so: the cache has room for one."""
    requests = [
        Ask(None, 0, 0, [10 * index + place for place in range(4)], MAX_ANSWER_TOKENS) for index in range(MAX_REQUESTS)
    ]
    return EngineConfig(
        block_size=1, max_step_tokens=64, max_running=MAX_REQUESTS, max_cached_tokens=4 + MAX_ANSWER_TOKENS
    ), requests


@dataclass
class Serving:
    """All requests of an example at once: each fork waits until its parent has said enough."""

    engine: NativeEngine
    prompts: dict[int, list[int]] = field(default_factory=dict)
    answers: dict[int, list[int]] = field(default_factory=dict)
    streams: dict[int, TokenStream] = field(default_factory=dict)
    reused_tokens: dict[int, int] = field(default_factory=dict)
    said_more: asyncio.Condition = field(default_factory=asyncio.Condition)
    ended: set[int] = field(default_factory=set)

    async def serve(self, index: int, ask: Ask) -> None:
        inherited, parent_id = await self._inherit(ask)
        self.prompts[index], self.answers[index] = [*inherited, *ask.new_ids], []
        sampling = SamplingParams(max_tokens=ask.max_tokens, ignore_eos=True)
        request = GenerationRequest(tuple(self.prompts[index]), sampling, parent_id=parent_id)
        self.streams[index] = self.engine.generate(request)
        async for chunk in self.streams[index]:
            async with self.said_more:
                self.answers[index] += chunk.token_ids
                if chunk.usage is not None:
                    self.reused_tokens[index] = chunk.usage.reused_tokens
                    self.ended.add(index)
                self.said_more.notify_all()

    async def _inherit(self, ask: Ask) -> tuple[list[int], str | None]:
        if ask.parent is None:
            return [], None
        parent = ask.parent
        async with self.said_more:
            await self.said_more.wait_for(
                lambda: parent in self.ended or len(self.answers.get(parent, ())) >= max(1, ask.seen)
            )
        return (self.prompts[parent] + self.answers[parent])[: ask.kept], self.streams[parent].id


async def serve_all(engine: NativeEngine, requests: Sequence[Ask]) -> Serving:
    serving = Serving(engine)
    await asyncio.gather(*(serving.serve(index, ask) for index, ask in enumerate(requests)))
    return serving


def check_serving(model: Model, config: EngineConfig, requests: Sequence[Ask], tally: Tally) -> None:
    served = Served()
    engine = NativeEngine(model.loaded, None, config)
    model.recording(engine.runner, served)
    tally.count_visits(engine.runner)
    serving = asyncio.run(serve_all(engine, requests))
    engine.close()
    engine.check_integrity()
    for index, prompt in serving.prompts.items():
        answer = serving.answers[index]
        assert len(answer) == requests[index].max_tokens
        computed = [*prompt, *answer[:-1]]
        rows = served.rows.get(serving.streams[index].id, {})
        tally.compare_rows(model, computed, rows, num_known=serving.reused_tokens[index])
        tally.compare_tokens(model.plain_logits(computed)[len(prompt) - 1 :], answer)
        tally.counts["forks"] += requests[index].parent is not None
    tally.counts["preemptions"] += engine.stats().preemptions
    tally.counts["reused"] += engine.stats().reused_tokens


def check_served_sequences(model: Model, how: settings) -> None:
    tally = Tally()

    @how
    @given(cases())
    @example(crowded())
    def holds(case: tuple[EngineConfig, list[Ask]]) -> None:
        check_serving(model, *case, tally)

    holds()
    tally.assert_telling("forks", "preemptions", "reused", "visits")


def test_what_is_served_is_what_one_plain_pass_says(model):
    check_served_sequences(model, NORMAL)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_what_is_served_is_what_one_plain_pass_says_in_many_cases(model):
    check_served_sequences(model, THOROUGH)


# --- drafts that are rejected ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verification:
    """A run of true tokens, then drafts that are wrong from the first on."""

    num_true: int
    wrong_ids: list[int]


@dataclass
class Drafted:
    """One sequence on a shared runner: verified run by run, its blocks anywhere in the pool."""

    name: str
    true_ids: list[int]
    verifications: list[Verification]
    block_ids: list[int]
    num_accepted: int = 0
    logits: list[Tensor] = field(default_factory=list)

    def next_run(self, context_tokens: int) -> TokenRun | None:
        """The next true tokens, and after them what the verification will reject; None at the end."""
        start = self.num_accepted
        if start == len(self.true_ids):
            return None
        case = self.verifications.pop(0) if self.verifications else Verification(len(self.true_ids), [])
        end = min(start + case.num_true, len(self.true_ids))
        wrong = [wrong for wrong in case.wrong_ids if self.true_ids[end : end + 1] != [wrong]]
        context = self.true_ids[max(0, start - context_tokens) : start]
        self.num_accepted = end
        return TokenRun(self.name, [*self.true_ids[start:end], *wrong], context, start, self.block_ids)


verifications = st.lists(
    st.builds(Verification, st.integers(1, 12), st.lists(token_ids, max_size=6)), min_size=1, max_size=30
)


@st.composite
def drafted_sequences(draw: st.DrawFn) -> tuple[int, list[Drafted]]:
    """Sequences side by side, their blocks dealt out at random; and the block size."""
    block_size = draw(st.integers(1, 16))
    each = -(-(LONGEST + 6) // block_size)
    num_sequences = draw(st.integers(1, 3))
    blocks = draw(st.randoms(use_true_random=False)).sample(range(each * num_sequences), each * num_sequences)
    return block_size, [
        Drafted(
            name=f"sequence {index}",
            true_ids=draw(token_lists(LONGEST)),
            verifications=draw(verifications),
            block_ids=blocks[index * each : (index + 1) * each],
        )
        for index in range(num_sequences)
    ]


def check_drafts(model: Model, block_size: int, sequences: Sequence[Drafted], tally: Tally) -> None:
    served = Served()
    num_blocks = sum(len(sequence.block_ids) for sequence in sequences)
    runner = model.runner(num_blocks, block_size, served)
    while True:
        before = {sequence.name: sequence.num_accepted for sequence in sequences}
        pairs = [(sequence, run) for sequence in sequences if (run := sequence.next_run(runner.context_tokens))]
        if not pairs:
            break
        for (sequence, run), logits in zip(pairs, runner.logits([run for _, run in pairs]), strict=True):
            num_true = sequence.num_accepted - before[sequence.name]
            sequence.logits.append(logits[:num_true])
            tally.counts["rejected"] += len(run.token_ids) - num_true
    for sequence in sequences:
        true_rows = {
            position: row
            for position, row in served.rows.get(sequence.name, {}).items()
            if position < len(sequence.true_ids)
        }
        tally.compare_rows(model, sequence.true_ids, true_rows, num_known=0)
        got, wanted = torch.cat(sequence.logits), model.plain_logits(sequence.true_ids)
        torch.testing.assert_close(got, wanted, rtol=0, atol=TIE_GAP)
        tally.compare_tokens(wanted, got.argmax(dim=-1).tolist())


def check_rejected_drafts(model: Model, how: settings) -> None:
    tally = Tally()

    @how
    @given(drafted_sequences())
    def holds(case: tuple[int, list[Drafted]]) -> None:
        check_drafts(model, *case, tally)

    holds()
    tally.assert_telling("rejected")


def test_rejected_drafts_leave_no_trace(model):
    check_rejected_drafts(model, NORMAL)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_rejected_drafts_leave_no_trace_in_many_cases(model):
    check_rejected_drafts(model, THOROUGH)


# --- where the tables live ------------------------------------------------------------------------------------------


def test_mapped_tables_give_the_logits_of_resident_ones(tmp_path):
    folder = write_random_checkpoint(tmp_path, TINY, seed=6, with_mtp=False)
    ids = [5, 5, 5, EOS_ID, 5, 5, 5, 319, 0, EOS_ID, EOS_ID, *range(40, 80), *range(40, 80)]
    resident = Model(load_model(folder), None).plain_logits(ids)
    mapped = Model(load_model(folder, ngram_tables=TableHome.MAPPED), None).plain_logits(ids)
    assert torch.equal(resident, mapped)
