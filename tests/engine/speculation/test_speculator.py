"""Drafts in the engine's loop over a scripted model: what is verified, counted and reclaimed, and what a fault does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from engine.speculation.guessers import FakeDrafter, always
from kodkod_engine.api import (
    Completion,
    DraftUsage,
    EngineStats,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    Speculation,
    collect,
)
from kodkod_engine.backends.scripted import ScriptedEngine
from kodkod_engine.config import EngineConfig
from kodkod_engine.speculation.drafter import Draft, DraftTask
from kodkod_engine.speculation.forced import ForcedDrafter
from kodkod_engine.speculation.suffix import SuffixDrafter

ANSWER = tuple(range(100, 160))
VOCAB_SIZE = 1_000


def after(task: DraftTask) -> Sequence[int]:
    """The true answer from here on."""
    return ANSWER[task.sequence.num_generated + len(task.prefix_ids) :]


class Stage:
    """A scripted engine with drafters; audited when it is closed."""

    def __init__(self, *drafters, answer: Sequence[int] = ANSWER, **options) -> None:
        options = {"max_cached_tokens": 256, "block_size": 4, "max_step_tokens": 64, **options}
        self.engine = ScriptedEngine(
            lambda _prompt: answer,
            vocab_size=VOCAB_SIZE,
            config=EngineConfig(**options),
            speculator=always(drafters, VOCAB_SIZE),
        )

    def ask(self, prompt: Sequence[int] = (1, 5, 6), **fields) -> Completion:
        return asyncio.run(self.ask_all([GenerationRequest(tuple(prompt), **fields)]))[0]

    async def ask_all(self, requests: list[GenerationRequest]) -> list[Completion]:
        return list(await asyncio.gather(*(collect(self.engine.generate(request)) for request in requests)))

    def final_stats(self) -> EngineStats:
        """Of the closed engine: while it runs they may be a step behind what streams say."""
        self.engine.close()
        return self.engine.stats()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self.engine.check_integrity()


def test_right_drafts_take_few_steps():
    with Stage(FakeDrafter(after)) as stage:
        done = stage.ask(sampling=SamplingParams(max_tokens=40))
        assert done.token_ids == ANSWER[:40]
        # A copy is 16 tokens at first, and twice as long after a full accept.
        assert stage.final_stats().steps == 2
        assert done.usage.drafts == (DraftUsage("suffix", 38, 38),)
        assert (done.usage.drafted_tokens, done.usage.accepted_tokens, done.usage.generated_tokens) == (38, 38, 40)


def test_a_wrong_token_ends_what_is_accepted():
    with Stage(FakeDrafter(lambda task: [*after(task)[:2], 7, 8])) as stage:
        done = stage.ask(sampling=SamplingParams(max_tokens=10))
        assert done.token_ids == ANSWER[:10]
        # Three tokens a step: two drafts and the one chosen in place of the third. The last step has room for none.
        assert stage.final_stats().steps == 4
        assert done.usage.drafts == (DraftUsage("suffix", 11, 6),)


def test_nothing_is_drafted_when_nobody_wants_it():
    drafter = FakeDrafter(after)
    with Stage(drafter) as stage:
        done = stage.ask(speculation=Speculation.NONE, sampling=SamplingParams(max_tokens=5))
        assert (done.usage.drafts, done.usage.speed_up, stage.final_stats().steps) == ((), 1.0, 5)
        assert not drafter.asked


def test_a_mode_asks_its_own_drafter_alone():
    suffix, mtp = FakeDrafter(after), FakeDrafter(after, "mtp")
    with Stage(suffix, mtp) as stage:
        done = stage.ask(speculation=Speculation.MTP, sampling=SamplingParams(max_tokens=9))
        assert [usage.drafter for usage in done.usage.drafts] == ["mtp"]
        assert not suffix.asked
        assert all(task.max_tokens <= 3 for task in mtp.asked)


# --- ends inside a draft --------------------------------------------------------------------------------------------


def test_tokens_after_a_stop_id_are_not_emitted():
    stop = ANSWER[4]
    with Stage(FakeDrafter(after)) as stage:
        done = stage.ask(sampling=SamplingParams(max_tokens=40, stop_ids=frozenset({stop})))
        assert (done.token_ids, done.finish_reason) == (ANSWER[:5], FinishReason.STOP)
        # Past a stop nothing is worth verifying.
        assert done.usage.drafts == (DraftUsage("suffix", 5, 5),)


def test_tokens_after_a_stop_string_are_not_emitted(tokenizer):
    ids = tuple(tokenizer.encode_text("say stop now and more"))
    drafter = FakeDrafter(lambda task: ids[task.sequence.num_generated :])
    engine = ScriptedEngine(
        lambda _: ids, vocab_size=VOCAB_SIZE, tokenizer=tokenizer, speculator=always([drafter], VOCAB_SIZE)
    )
    sampling = SamplingParams(max_tokens=40, stop_strings=("stop",))
    done = asyncio.run(collect(engine.generate(GenerationRequest((1,), sampling))))
    engine.close()
    assert (done.text, done.finish_reason) == ("say ", FinishReason.STOP)
    assert tokenizer.decode(list(done.token_ids)) == "say stop"
    assert done.usage.generated_tokens == len(done.token_ids) == done.usage.accepted_tokens
    assert done.usage.drafted_tokens > done.usage.accepted_tokens


@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_max_tokens_is_kept(max_tokens):
    with Stage(FakeDrafter(after)) as stage:
        done = stage.ask(sampling=SamplingParams(max_tokens=max_tokens))
        assert (done.token_ids, done.finish_reason) == (ANSWER[:max_tokens], FinishReason.LENGTH)


def test_chunks_carry_what_a_step_brought():
    async def chunks() -> list[tuple[int, ...]]:
        stream = stage.engine.generate(GenerationRequest((1,), SamplingParams(max_tokens=8, logprobs=0)))
        found = [chunk async for chunk in stream]
        assert all(len(chunk.logprobs) == len(chunk.token_ids) for chunk in found)
        return [chunk.token_ids for chunk in found]

    with Stage(FakeDrafter(lambda task: after(task)[:3])) as stage:
        assert asyncio.run(chunks()) == [ANSWER[:4], ANSWER[4:8], ()]


# --- room -----------------------------------------------------------------------------------------------------------


def test_rejected_drafts_leave_no_blocks_behind():
    with Stage(FakeDrafter(lambda _: [7] * 30), answer=ANSWER) as stage:
        done = stage.ask(sampling=SamplingParams(max_tokens=20))
        assert done.token_ids == ANSWER[:20]
        stats = stage.final_stats()
        assert stats.free_blocks + stats.cached_blocks == stats.total_blocks
        assert stats.cached_blocks <= 6


def test_drafts_never_cost_another_stream_its_place():
    with Stage(FakeDrafter(after), max_cached_tokens=32, max_running=4) as stage:
        requests = [GenerationRequest((1, first), SamplingParams(max_tokens=6)) for first in range(10, 13)]
        done = asyncio.run(stage.ask_all(requests))
        assert [completion.token_ids for completion in done] == [ANSWER[:6]] * 3
        assert not any(completion.usage.preemptions for completion in done)


def test_a_step_is_not_longer_than_it_may_be():
    with Stage(FakeDrafter(after), max_step_tokens=8) as stage:
        sizes: list[int] = []
        runner = stage.engine._runner
        run = runner.run
        runner.run = lambda _, runs, *more: sizes.append(sum(len(one.token_ids) for one in runs)) or run(_, runs, *more)
        requests = [GenerationRequest((1, first), SamplingParams(max_tokens=30)) for first in range(10, 13)]
        done = asyncio.run(stage.ask_all(requests))
        assert [completion.token_ids for completion in done] == [ANSWER[:30]] * 3
        assert max(sizes) == 8


# --- constraints ----------------------------------------------------------------------------------------------------


class Rails:
    """Allows what it is told, place by place; afterwards anything."""

    def __init__(self, *places: set[int]) -> None:
        self.places = places

    def allowed_ids(self, generated_ids):
        return self.places[len(generated_ids)] if len(generated_ids) < len(self.places) else None


def test_forced_tokens_cost_no_step_of_their_own():
    rails = Rails({100}, {101}, {102}, {103, 9}, {104}, {105})
    with Stage(ForcedDrafter()) as stage:
        done = stage.ask(constraint=rails, sampling=SamplingParams(max_tokens=7))
        assert done.token_ids == ANSWER[:7]
        assert done.usage.drafts == (DraftUsage("forced", 5, 5),)
        # 100 to 103, with 103 chosen; 104 to 106, with 106 chosen.
        assert stage.final_stats().steps == 2


def test_a_copy_goes_on_where_force_ends():
    rails = Rails({100}, {101})
    with Stage(ForcedDrafter(), FakeDrafter(after)) as stage:
        done = stage.ask(constraint=rails, sampling=SamplingParams(max_tokens=8))
        assert done.token_ids == ANSWER[:8]
        assert stage.final_stats().steps == 1
        assert done.usage.drafts == (DraftUsage("forced", 2, 2), DraftUsage("suffix", 5, 5))


def test_a_draft_is_cut_where_the_constraint_forbids_it():
    rails = Rails({100}, {7, 8}, {9})
    with Stage(FakeDrafter(after)) as stage:
        done = stage.ask(constraint=rails, sampling=SamplingParams(max_tokens=5))
        assert done.token_ids == (100, 7, 9, 103, 104)
        assert done.usage.accepted_tokens <= done.usage.drafted_tokens < 5


def test_room_for_drafts_that_a_constraint_forbids_costs_no_other_stream_its_place():
    rails = Rails(*({token} for token in ANSWER))
    with Stage(FakeDrafter(lambda _: [7] * 30), max_cached_tokens=32) as stage:
        drafted = GenerationRequest((1, 5, 6), SamplingParams(max_tokens=50, stop_ids=frozenset({ANSWER[12]})), rails)
        plain = GenerationRequest((1, 5, 7), SamplingParams(max_tokens=13), speculation=Speculation.NONE)
        done = asyncio.run(stage.ask_all([drafted, plain]))
        assert [completion.token_ids for completion in done] == [ANSWER[:13]] * 2
        assert [completion.usage.preemptions for completion in done] == [0, 0]


class Rotten(Rails):
    def allowed_ids(self, generated_ids):
        if len(generated_ids) > 4:
            raise LookupError("no such place")
        return range(VOCAB_SIZE)


def test_a_constraint_that_fails_along_a_draft_fails_where_it_would_have_failed_without():
    for drafters in ((), (FakeDrafter(after),)):
        with Stage(*drafters) as stage:
            done = stage.ask(constraint=Rotten(), sampling=SamplingParams(max_tokens=20))
            assert (done.token_ids, done.finish_reason) == (ANSWER[:5], FinishReason.ERROR)
            assert "no such place" in done.error


# --- faults ---------------------------------------------------------------------------------------------------------


def test_a_drafter_that_raises_is_named_and_off_for_its_stream_alone(caplog):
    def rotten(task: DraftTask) -> Sequence[int]:
        if task.sequence.token_ids[1] == 11:
            raise RuntimeError("no idea\nat all")
        return after(task)

    drafter = FakeDrafter(rotten)
    with Stage(drafter, FakeDrafter(after, "mtp")) as stage:
        requests = [GenerationRequest((1, first), SamplingParams(max_tokens=12)) for first in (10, 11)]
        sound, hit = asyncio.run(stage.ask_all(requests))
        assert sound.token_ids == hit.token_ids == ANSWER[:12]
        assert [usage.fault for usage in sound.usage.drafts] == [None]
        fault = next(usage.fault for usage in hit.usage.drafts if usage.drafter == "suffix")
        assert fault == (
            "the drafter suffix failed (RuntimeError: no idea at all); it is off for this answer, which goes on without"
        )
        assert fault in caplog.text
        # The other drafter goes on, and the next stream is drafted for again.
        assert any(usage.drafter == "mtp" and usage.accepted_tokens for usage in hit.usage.drafts)
        assert stage.ask((1, 12), sampling=SamplingParams(max_tokens=12)).usage.accepted_tokens == 11


@pytest.mark.parametrize(
    "said", [[5, -1], [5, VOCAB_SIZE], ["x"], None], ids=["below", "beyond", "no number", "nothing"]
)
def test_a_drafter_that_says_what_it_must_not_is_switched_off(said):
    with Stage(FakeDrafter(lambda _: said)) as stage:
        done = stage.ask(sampling=SamplingParams(max_tokens=6))
        assert done.token_ids == ANSWER[:6]
        assert done.usage.drafts[0].fault is not None


class Talkative(FakeDrafter):
    def draft(self, tasks):
        self.asked += tasks
        return [Draft(ANSWER, (0.9,) * len(ANSWER)) for _ in tasks]


def test_a_draft_longer_than_asked_for_is_cut():
    with Stage(Talkative(after)) as stage:
        assert stage.ask(sampling=SamplingParams(max_tokens=6)).token_ids == ANSWER[:6]


# --- what all drafters do -------------------------------------------------------------------------------------------


def test_streams_that_were_drafted_for_are_ended():
    drafter = FakeDrafter(after)
    with Stage(drafter) as stage:
        stage.ask(sampling=SamplingParams(max_tokens=6))
        assert drafter.ended == ["stream-1"]


def test_copies_grow_after_full_accepts():
    drafter = FakeDrafter(after)
    with Stage(drafter, answer=range(100, 900), max_step_tokens=512, max_cached_tokens=4096) as stage:
        drafter._say = lambda task: range(100 + task.sequence.num_generated, 900)
        stage.ask(sampling=SamplingParams(max_tokens=500))
    asked = [task.max_tokens for task in drafter.asked]
    assert asked[:4] == [16, 32, 64, 128]
    assert all(one <= 128 for one in asked)


# --- the suffix drafter ---------------------------------------------------------------------------------------------


def suffix_stage(answer: Sequence[int]) -> Stage:
    return Stage(SuffixDrafter(), answer=answer, max_step_tokens=512, max_cached_tokens=4096)


def test_it_copies_from_the_prompt():
    with suffix_stage(ANSWER) as stage:
        done = stage.ask((1, *ANSWER, 5, 99, 100), sampling=SamplingParams(max_tokens=40))
        assert done.token_ids == ANSWER[:40]
        assert done.usage.accepted_tokens > 30


def test_it_copies_from_draft_sources():
    with suffix_stage(ANSWER) as stage:
        done = stage.ask((1, 5), draft_sources=((3, 4), ANSWER), sampling=SamplingParams(max_tokens=40))
        assert done.usage.accepted_tokens > 30


def test_it_copies_from_itself_and_from_earlier_answers():
    with suffix_stage(ANSWER[:10] * 3) as stage:
        done = stage.ask((1, 5), sampling=SamplingParams(max_tokens=30))
        assert 10 < done.usage.accepted_tokens < 20
        again = stage.ask((1, 6), sampling=SamplingParams(max_tokens=30))
        assert again.usage.accepted_tokens > 25


def test_the_next_turn_goes_on_in_the_text_of_the_last(monkeypatch):
    with suffix_stage(ANSWER) as stage:
        first = stage.ask((1, 5), sampling=SamplingParams(max_tokens=30))
        drafter = stage.engine._loop._speculator._drafters["suffix"]
        (text,) = drafter._kept.values()
        done = stage.ask(
            (1, 5, *first.token_ids, 2, 7), draft_sources=((3, 4),), sampling=SamplingParams(max_tokens=30)
        )
        assert done.usage.accepted_tokens > 20
        assert list(drafter._kept.values()) == [text]
        assert len(drafter._kept) <= 4


def test_conversations_that_differ_do_not_share_a_text():
    with suffix_stage(ANSWER) as stage:
        texts = set()
        for first in range(10):
            stage.ask((1, first), sampling=SamplingParams(max_tokens=30))
            texts |= {id(text) for text in stage.engine._loop._speculator._drafters["suffix"]._kept.values()}
        assert len(stage.engine._loop._speculator._drafters["suffix"]._kept) == 4
        assert len(texts) > 4


def test_the_guessed_tokens_are_neighbours_of_the_accepted_ones():
    drafter = FakeDrafter(lambda task: after(task)[:2])
    with Stage(drafter) as stage:
        stage.ask(sampling=SamplingParams(max_tokens=20))
    begun = [task.sequence.id for task in drafter.asked]
    assert all(one == other for one, other in pairwise(begun))
