"""Steps that never wait for a GPU: they learn what the others do, and go on after a stop as they do."""

from __future__ import annotations

import json

import pytest
import torch

from kodkod_engine.training.batches import Mixture, Source
from kodkod_engine.training.model import count_choices, mix_all_experts, mix_experts
from kodkod_engine.training.options import TrainOptions
from kodkod_engine.training.supply import AheadOfTime, OnDemand, Supply
from kodkod_engine.training.trainer import Trainer, train


def options(output, **given) -> TrainOptions:
    return TrainOptions(output=output, **{"steps": 30, "batch_tokens": 512, "warmup_steps": 5, **given})


def test_every_token_through_every_expert_is_the_chosen_ones_alone():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    gate_up = torch.randn(5, 8, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    down = torch.randn(5, 6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(40, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    chosen = torch.rand(40, 8, generator=generator).topk(3).indices
    inputs = x, weights, gate_up, down
    ours, plain = (mix(x, chosen, weights, gate_up, down) for mix in (mix_all_experts, mix_experts))
    torch.testing.assert_close(ours, plain)
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(plain.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_choices_are_counted_at_tokens_alone():
    chosen = torch.tensor([[0, 2], [2, 1], [2, 0]])
    assert count_choices(chosen, torch.tensor([True, True, False]), 4).tolist() == [1, 1, 2, 0]


def test_the_first_step_is_the_same_and_the_rest_nearly(config, make_shard, tmp_path):
    losses = {}
    for static in (False, True):
        trainer = Trainer(config, [Source(make_shard("a"))], options(tmp_path / str(static), static=static))
        while trainer.progress < 1:
            trainer.step()
        trainer.supply.close()
        assert trainer.model.tables.grad is None
        lines = [json.loads(line) for line in (tmp_path / str(static) / "metrics.jsonl").read_text().splitlines()]
        losses[static] = [line["step_loss"] for line in lines]
    assert losses[True] == pytest.approx(losses[False], rel=0.1)
    assert losses[True][-1] < losses[True][0] - 0.3


def test_a_stopped_static_run_ends_with_the_same_weights(config, make_shard, tmp_path):
    sources = [Source(make_shard("a"), end=0.5), Source(make_shard("b", seed=5), begin=0.5)]
    whole = train(config, sources, options(tmp_path / "whole", static=True))
    first = Trainer(config, sources, options(tmp_path / "parts", static=True))
    for _ in range(11):
        first.step()
    first.save()
    first.supply.close()
    parts = train(config, sources, options(tmp_path / "parts", static=True))
    assert parts.tokens == whole.tokens
    assert parts.loss == whole.loss


def test_held_out_shards_are_predicted_on_the_way(config, make_shard, tmp_path):
    held_out = make_shard("held", seed=9)
    given = options(tmp_path / "run", static=True, validation=(held_out,), validate_every_s=0, validation_documents=9)
    train(config, [Source(make_shard("a"))], given)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    seen = [line["held_loss"] for line in lines if "held_loss" in line]
    assert len(seen) >= 29
    assert seen[-1] < seen[0]


@pytest.fixture(params=["on demand", "ahead of time"])
def make_supply(request, config, make_shard):
    def make() -> Supply:
        shard = make_shard("a")
        mixture = Mixture([Source(shard)], vocab_size=64, batch_tokens=256, max_document_tokens=64, seed=0)
        inner = OnDemand(mixture, lambda steps: steps / 100, draft_share=0.5, seed=1)
        return inner if request.param == "on demand" else AheadOfTime(inner, pin=False)

    return make


def test_a_supply_goes_on_behind_what_was_handed_out(make_supply):
    whole, first = make_supply(), make_supply()
    wanted = [whole.next() for _ in range(12)]
    for _ in range(5):
        first.next()
    second = make_supply()
    second.load_state_dict(first.state_dict())
    for lesson in wanted[5:]:
        other = second.next()
        assert torch.equal(lesson.batch.token_ids, other.batch.token_ids)
        assert torch.equal(lesson.wanted.places, other.wanted.places)
        assert torch.equal(lesson.draft.rows, other.draft.rows)
    for supply in (whole, first, second):
        supply.close()


def test_a_fault_in_the_making_reaches_whoever_asks(config, make_shard):
    mixture = Mixture([Source(make_shard("a"))], vocab_size=64, batch_tokens=256, max_document_tokens=64, seed=0)

    def broken(steps: int) -> float:
        raise ValueError(f"no progress at {steps}")

    supply = AheadOfTime(OnDemand(mixture, broken, draft_share=0.0, seed=1), pin=False)
    with pytest.raises(ValueError, match="no progress at 0"):
        supply.next()
    supply.close()
