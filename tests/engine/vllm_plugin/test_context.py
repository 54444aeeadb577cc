"""The N-gram context from committed ids: whatever a scheduler does, rows are those of the whole sequence."""

from __future__ import annotations

import importlib
import random
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.layers.ngram_hash import ABSENT, NgramHasher, ngram_row_ids
from kodkod_engine.vllm_plugin.context import committed_context, spec_of, step_windows
from kodkod_engine.vllm_plugin.registration import misfit, require_sound

EOS = 2
LITE = SimpleNamespace(
    vocab_size=131_072,
    ngram_vocab_size_ratio=78,
    emb_neighbor_num=4,
    emb_split_num=4,
    hidden_size=3_072,
    eos_token_id=EOS,
)
SPEC = spec_of(LITE)
SLOTS, POSITIONS = 5, 64


@dataclass
class Runner:
    """What vLLM's model runner holds of its requests: ids by slot, of which so many are committed."""

    all_ids: torch.Tensor = field(default_factory=lambda: torch.randint(3, 999, (SLOTS, POSITIONS), dtype=torch.int32))
    computed: torch.Tensor = field(default_factory=lambda: torch.zeros(SLOTS, dtype=torch.int32))

    def rows(self, slots: list[int], pieces: list[list[int]]) -> list[torch.Tensor]:
        """Rows of one step: per request those of its new and drafted ids."""
        index = torch.tensor(slots)
        context = committed_context(self.all_ids, index, self.computed[index], SPEC.context_tokens)
        starts = torch.tensor([0, *[len(piece) for piece in pieces]]).cumsum(0).to(torch.int32)
        ids = torch.tensor([one for piece in pieces for one in piece], dtype=torch.int32)
        rows = NgramHasher(SPEC).row_ids(step_windows(context, ids, starts))
        return list(rows.split([len(piece) for piece in pieces]))

    def commit(self, slot: int, ids: list[int]) -> None:
        begin = int(self.computed[slot])
        self.all_ids[slot, begin : begin + len(ids)] = torch.tensor(ids, dtype=torch.int32)
        self.computed[slot] += len(ids)


def test_the_spec_is_the_published_one():
    assert SPEC.moduli[0] == 10_223_617
    assert SPEC.moduli[-1] == 10_223_639
    assert SPEC.row_offsets[-1] == 122_683_536
    assert (SPEC.context_tokens, SPEC.table_width, SPEC.border_ids) == (3, 256, frozenset({EOS}))


def test_before_a_requests_first_token_there_is_none_whatever_its_slot_held():
    runner = Runner()
    runner.commit(3, [7, 8])
    context = committed_context(runner.all_ids, torch.tensor([3, 0]), runner.computed[[3, 0]], 3)
    assert context.tolist() == [[ABSENT, 7, 8], [ABSENT, ABSENT, ABSENT]]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_drafts_refused_chunks_and_company_leave_nothing_behind(seed: int, num_requests: int):
    draw = random.Random(seed)
    runner = Runner()
    slots = draw.sample(range(SLOTS), num_requests)
    truth = [[draw.choice([EOS, *range(3, 40)]) for _ in range(30)] for _ in slots]
    while any(int(runner.computed[slot]) < 30 for slot in slots):
        at_work = [index for index in range(num_requests) if int(runner.computed[slots[index]]) < 30]
        steps = []
        for index in at_work:
            begin = int(runner.computed[slots[index]])
            new = truth[index][begin : begin + draw.randint(1, 7)]
            steps.append((index, new, [draw.choice([EOS, 5, 6]) for _ in range(draw.randint(0, 3))]))
        found = runner.rows([slots[index] for index, _, _ in steps], [new + drafts for _, new, drafts in steps])
        for (index, new, drafts), rows in zip(steps, found, strict=True):
            begin = int(runner.computed[slots[index]])
            whole = ngram_row_ids([*truth[index][:begin], *new, *drafts], SPEC)
            assert torch.equal(rows, whole[begin:])
            # Every draft was refused; the runner has written them beyond what is committed, as vLLM may.
            runner.commit(slots[index], new)
            end = begin + len(new)
            runner.all_ids[slots[index], end : end + len(drafts)] = torch.tensor(drafts, dtype=torch.int32)


def test_a_prefix_that_was_there_gives_the_context_it_ends_with():
    runner, ids = Runner(), [9, 8, 7, 6, 5, 4]
    runner.all_ids[1, :6] = torch.tensor(ids, dtype=torch.int32)
    runner.computed[1] = 4
    [rows] = runner.rows([1], [ids[4:]])
    assert torch.equal(rows, ngram_row_ids(ids, SPEC)[4:])


def test_an_end_of_sequence_sees_what_is_before_it_and_what_follows_sees_nothing():
    runner = Runner()
    runner.commit(0, [11, 12])
    [rows] = runner.rows([0], [[EOS, 13]])
    assert rows[0].unique().numel() > 1
    assert rows[0].min() > 0
    assert rows[1].tolist() == [13] * SPEC.num_tables


def test_requests_without_a_token_and_padding_disturb_nobody():
    context = torch.tensor([[1, 3, 4], [5, 6, 7], [8, 9, 10]])
    ids, starts = torch.tensor([20, 21, 22, 99], dtype=torch.int32), torch.tensor([0, 1, 1, 3], dtype=torch.int32)
    windows = step_windows(context, ids, starts)
    assert windows[:3].tolist() == [[20, 4, 3, 1], [21, 10, 9, 8], [22, 21, 10, 9]]


# --- how it comes into vLLM -----------------------------------------------------------------------------------------


class _Known:
    def __init__(self, vllm_config, model, encoder_cache, device):
        pass

    def prepare_inputs(self, input_batch, req_states):
        pass

    def _compute_oe_ids(self, input_batch):
        pass


class _Changed(_Known):
    def _compute_oe_ids(self, input_batch, req_states):
        pass


def test_a_vllm_that_is_not_as_expected_is_told_apart():
    assert misfit(SimpleNamespace(LongcatNgramModelState=_Known)) is None
    assert "_compute_oe_ids" in misfit(SimpleNamespace(LongcatNgramModelState=_Changed))
    assert "LongcatNgramModelState" in misfit(SimpleNamespace())


def test_it_may_not_speculate_then():
    require_sound(None, speculates=True)
    require_sound("it is another", speculates=False)
    with pytest.raises(ValueError, match="take speculative_config away") as refusal:
        require_sound("it is another", speculates=True)
    assert "\n" not in str(refusal.value)


def test_vllm_finds_the_plug_in():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["vllm.general_plugins"]["kodkod"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
