"""Mistakes that implementations of LongCat-Flash-Lite have made, one number each; none of them here.

Wherever the mistake can be computed, a test shows that it would have noticed. The numbers are this project's own list:
1-3 hash, 4-7 context of a sequence, 8-10 and 16-19 tables and sizes, 11-15 the layers. 20 to 22 concern the chat format
and are tested in tests/engine/chat.
"""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch

import kodkod_engine
from engine.oracle import Fault, Oracle, plain_row_ids, table_sizes, tensors_of
from engine.playing import Played, greedy, play, play_scattered, relative_error
from kodkod_engine.api import SamplingParams
from kodkod_engine.core.plan import BlockCopy
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import Choice
from kodkod_engine.layers.mapped_rows import MappedRows, map_tensor
from kodkod_engine.layers.moe import MixtureOfExperts
from kodkod_engine.layers.ngram_hash import NgramHasher
from kodkod_engine.models.checkpoint import Checkpoint, StoredTensor
from kodkod_engine.models.config import load_config
from kodkod_engine.models.loading import build_model, load_model

V = 131072
LITE_TABLES = table_sizes(V, 78, 4, 4)
EOS = 2

TURNS = [5, 9, 300, 9, EOS, 40, 41, 9, EOS, EOS, 7, 0, 319]
"""Two turns that end in EOS, an empty one, and the start of a next."""

TOLERANCE = 1e-5
"""fp32 against float64, relative to the spread of the logits; measured 1e-6."""
VISIBLE = 1e-2
"""What a mistake moves the logits by at least; measured 5e-2 and more."""


def engine_logits(tiny, ids):
    return play(tiny)[0].feed(ids)


def assert_right_and_not(faults, tiny, folder, ids):
    got = engine_logits(tiny, ids)
    assert relative_error(got, Oracle(folder).logits(ids)) < TOLERANCE
    for fault in faults:
        assert relative_error(got, Oracle(folder, fault).logits(ids)) > VISIBLE, fault


@pytest.fixture
def lite(lite_folder):
    return load_config(lite_folder)


def test_bug_01_the_hash_does_not_overflow_32_bits(lite):
    ids = [100, 131071, 131071, 131071]
    got = kodkod_engine.ngram_row_ids(ids, lite)[3, 8]
    assert int(got) == 4507232
    assert plain_row_ids(ids, LITE_TABLES, vocab_size=V, faults=[Fault.INT32_HASH])[3][8] == 986345


def test_bug_01_id_tensors_of_32_bits_are_widened_first(lite):
    ids = torch.tensor([100, 131071, 131071, 131071], dtype=torch.int32)
    rows = kodkod_engine.ngram_row_ids(ids, lite)
    assert rows.dtype == torch.int64
    assert int(rows[3, 8]) == 4507232


def test_bug_02_end_of_turn_resets_the_context(tiny, tiny_folder):
    assert_right_and_not([Fault.NO_SEGMENT_END], tiny, tiny_folder, TURNS)


def test_bug_02_a_second_turn_hashes_as_if_it_were_the_first(lite):
    first, second = [100, 200, 300, EOS], [400, 500, 600, 700]
    together = kodkod_engine.ngram_row_ids(first + second, lite)[len(first) :]
    assert torch.equal(together, kodkod_engine.ngram_row_ids(second, lite))
    without_reset = plain_row_ids(first + second, LITE_TABLES, vocab_size=V, faults=[Fault.NO_SEGMENT_END])
    assert together[0].tolist() != without_reset[len(first)]


def test_bug_03_eos_as_current_token_sees_its_predecessors(lite, tiny, tiny_folder):
    ids = [100, 131071, 131071, 131071, EOS]
    row = kodkod_engine.ngram_row_ids(ids, lite)[4].tolist()
    assert row[:4] == [4061554, 4058194, 4054834, 4051474]
    assert 0 not in row
    assert_right_and_not([Fault.EOS_HASHES_TO_ZERO], tiny, tiny_folder, TURNS)


@pytest.mark.parametrize("accepted", [0, 1, 2, 4])
def test_bug_04_rejected_drafts_leave_nothing_behind(tiny, accepted):
    """Verify a draft, accept a prefix of it, go on from there: equal to plain greedy decoding."""
    prompt, length = [5, 9, 300, 9, 300, 17], 12
    plain = greedy(play(tiny)[0], prompt, length)
    played = play(tiny)[0]
    out = [int(played.feed(prompt)[-1].argmax())]
    while len(out) < length:
        right = plain[len(out) : len(out) + 4]
        draft = right[:accepted] + [(token + 1) % 320 for token in right[accepted:]]
        choices = played.feed([out[-1], *draft]).argmax(-1).tolist()
        agreed = 0
        while agreed < len(draft) and draft[agreed] == choices[agreed]:
            agreed += 1
        assert agreed == min(accepted, len(draft))
        played.reject(len(draft) - agreed)
        out += choices[: agreed + 1]
    assert out[:length] == plain


def test_bug_04_drafted_ids_reach_the_hash(tiny):
    """Logits at drafted positions are those of plain decoding, which has the drafted tokens as its context."""
    ids = [5, 9, 300, 17, 40, 41, 42, 43]
    plain, drafting = play(tiny, 2)
    one_by_one = plain.feed_in_chunks(ids, 1)
    drafting.feed(ids[:3])
    assert relative_error(drafting.feed(ids[3:]), one_by_one[3:]) < TOLERANCE


@pytest.mark.parametrize("shared", [4, 5, 6, 7, 8])
def test_bug_05_a_prefix_hit_continues_as_a_cold_start_does(tiny, shared):
    """The hit shares whole blocks and copies the rest; both need the ids before the first computed one."""
    ids = [5, 9, 300, 17, 40, 41, 42, 43, 44, 45]
    cold, hit = play(tiny, 2)
    wanted = cold.feed(ids)
    whole, rest = divmod(shared, 4)
    hit.block_ids = cold.block_ids[:whole] + hit.block_ids[whole:]
    if rest:
        hit.runner.run([BlockCopy(cold.block_ids[whole], hit.block_ids[whole], rest)], [])
    hit.ids = ids[:shared]
    assert relative_error(hit.feed(ids[shared:]), wanted[shared:]) < TOLERANCE


def test_bug_05_an_empty_context_would_show(tiny):
    ids = [5, 9, 300, 17, 40, 41, 42, 43]
    played = play(tiny)[0]
    wanted = played.feed(ids)
    played.reject(4)
    run = played.run(ids[4:])
    assert run.context_ids == ids[1:4]
    forgetful = type(run)(run.request_id, run.token_ids, [], run.start, run.block_ids, None)
    assert relative_error(played.runner.logits([forgetful])[0], wanted[4:]) > VISIBLE


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_bug_06_chunked_prefill_equals_one_pass(tiny, size):
    ids = TURNS * 3
    whole, chunked = play(tiny, 2)
    assert relative_error(chunked.feed_in_chunks(ids, size), whole.feed(ids)) < TOLERANCE


@pytest.mark.parametrize("count", [1, 3, 5, 7, 17])
def test_bug_07_odd_batch_sizes(tiny, count):
    """Each row of a batch equals the same sequence alone."""
    batch = play_scattered(tiny, count, tokens=16)
    runner = batch[0].runner
    prompts = [[(7 * index + 3 * place) % 320 for place in range(5)] for index in range(count)]
    runner.logits([sequence.run(prompt) for sequence, prompt in zip(batch, prompts, strict=True)])
    stepped = runner.logits([sequence.run([index + 50]) for index, sequence in enumerate(batch)])
    for index, (prompt, got) in enumerate(zip(prompts, stepped, strict=True)):
        alone = engine_logits(tiny, [*prompt, index + 50])[-1:]
        assert relative_error(got, alone) < TOLERANCE


def test_bug_08_the_embedding_is_added_once(tiny, tiny_folder):
    """On one device: the input is the mean of its 13 parts, not that of some parts counted twice."""
    embedding = tiny.model.embedding
    ids = torch.tensor(TURNS)
    hasher = NgramHasher(embedding.spec)
    places = torch.arange(len(ids)) + 3
    windows = hasher.windows(torch.cat([torch.full((3,), -1), ids]), places)
    got = embedding(ids, windows)
    wanted = Oracle(tiny_folder).embed(TURNS)
    assert relative_error(got, wanted) < 1e-6
    words = tensors_of(tiny_folder)["model.embed_tokens.weight"][ids].double()
    assert relative_error(got, 2 * wanted - words / 13) > VISIBLE


def test_bug_09_sequences_of_unequal_length_do_not_pad_each_other(tiny):
    prompts = [[5], [9, 300, 17], [40, 41, 42, 43, 44, 45, 46], [7, EOS, 8]]
    batch = play_scattered(tiny, len(prompts), tokens=16)
    runs = [sequence.run(prompt) for sequence, prompt in zip(batch, prompts, strict=True)]
    together = batch[0].runner.logits(runs)
    for prompt, got in zip(prompts, together, strict=True):
        assert relative_error(got, engine_logits(tiny, prompt)) < TOLERANCE
    next_step = batch[0].runner.logits([sequence.run([60]) for sequence in batch])
    for prompt, got in zip(prompts, next_step, strict=True):
        assert relative_error(got, engine_logits(tiny, [*prompt, 60])[-1:]) < TOLERANCE


def test_bug_09_left_padding_would_show(lite):
    alone = kodkod_engine.ngram_row_ids([100, 200], lite)
    padded = kodkod_engine.ngram_row_ids([3, 3, 100, 200], lite)[2:]
    assert not torch.equal(alone, padded)


def test_bug_10_tables_are_in_numeric_order(lite, tiny, tiny_folder):
    assert lite.ngram is not None
    assert (lite.ngram.moduli[2], lite.ngram.moduli[10]) == (10223621, 10223637)
    model, _ = build_model(lite, with_mtp=False, dtype=torch.bfloat16, activation_dtype=torch.bfloat16, device="meta")
    shapes = {name: list(slot.shape) for name, slot in model.checkpoint_slots()}
    assert shapes["model.ngram_embeddings.embedders.2.weight"] == [10223621, 256]
    assert shapes["model.ngram_embeddings.embedders.10.weight"] == [10223637, 256]
    assert_right_and_not([Fault.TABLES_IN_STRING_ORDER], tiny, tiny_folder, TURNS)


def test_bug_11_the_score_scale_has_yarns_square(lite):
    assert lite.score_scale == pytest.approx(0.1092301, abs=5e-8)
    assert lite.score_scale / lite.rope.score_scale == pytest.approx(0.0721688, abs=5e-8)


def test_bug_11_yarn_bends_the_frequencies_and_scales_the_scores(tiny, tiny_folder):
    assert_right_and_not([Fault.NO_YARN, Fault.NO_MSCALE], tiny, tiny_folder, TURNS)


def test_bug_12_identity_experts_are_scaled_like_the_others(tiny, tiny_folder):
    assert_right_and_not([Fault.IDENTITY_UNSCALED], tiny, tiny_folder, TURNS)


def test_bug_12_a_token_with_identity_experts_alone_comes_back_scaled(tiny):
    """By hand: the router is forced to three identity experts with probabilities 1/12 each; 6 * 3/12 = 1.5."""
    experts = MixtureOfExperts(tiny.config)
    with torch.no_grad():
        experts.router.weight.zero_()
        experts.router.selection_bias.copy_(torch.tensor([0.0] * 8 + [1.0, 1.0, 1.0, 0.0]))
        experts.gate_up.normal_()
        experts.down.normal_()
    x = torch.randn(5, tiny.config.hidden_size, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(experts(x), 1.5 * x, rtol=1e-6)


def test_bug_13_latent_norms_have_their_own_epsilon(tiny_folder):
    """Made visible by small latents: with variance 1e-6 the epsilon decides the size of the result."""
    loaded = load_model(tiny_folder, mtp=False)
    right, wrong = Oracle(tiny_folder), Oracle(tiny_folder, Fault.LATENT_EPS_OF_CONFIG)
    shrunk = ("q_a_proj.weight", "kv_a_proj_with_mqa.weight")
    for name, slot in loaded.model.checkpoint_slots():
        if name.endswith(shrunk):
            slot.mul_(1e-3)
            right.weights[name] *= 1e-3
            wrong.weights[name] *= 1e-3
    got = engine_logits(loaded, TURNS)
    assert relative_error(got, right.logits(TURNS)) < TOLERANCE
    assert relative_error(got, wrong.logits(TURNS)) > VISIBLE


def test_bug_13_the_other_norms_take_the_config_s(tiny):
    layer = tiny.model.dual_layers[0].first
    assert {layer.attention.q_norm.eps, layer.attention.kv_norm.eps} == {1e-6}
    assert {layer.input_norm.eps, layer.post_norm.eps, tiny.model.norm.eps} == {1e-5}


def test_bug_14_dense_networks_and_key_value_rows_are_not_mixed_up(tiny, tiny_folder):
    faults = [
        Fault.DENSE_SWAPPED,
        Fault.EXPERTS_READ_DENSE_OUTPUT,
        Fault.VALUES_BEFORE_KEYS,
        Fault.KEYS_OF_ALL_HEADS_FIRST,
    ]
    assert_right_and_not(faults, tiny, tiny_folder, TURNS)


def test_bug_15_the_shortcut_lands_once(tiny, tiny_folder):
    assert_right_and_not([Fault.SHORTCUT_TWICE, Fault.RESIDUAL_TWICE], tiny, tiny_folder, TURNS)


@torch.inference_mode()
def test_bug_15_a_single_layer_by_hand(tiny, tiny_folder):
    oracle = Oracle(tiny_folder)
    played = play(tiny)[0]
    x = oracle.embed(TURNS)
    batch, table = _batch_of(played, TURNS)
    got = tiny.model.dual_layers[0](x.float(), batch, table, played.runner.cache)
    assert relative_error(got, oracle.layer(0, x)) < 1e-6
    assert relative_error(got, Oracle(tiny_folder, Fault.RESIDUAL_TWICE).layer(0, x)) > VISIBLE


def _batch_of(played: Played, ids):
    batch = played.runner.batch([played.run(ids)])
    return batch, played.runner.loaded.model.rope_table(batch.positions)


def test_bug_16_borders_of_tables_load_row_exactly(tiny, tiny_folder):
    """First and last rows of every table, in the one matrix that holds them all."""
    stored = tensors_of(tiny_folder)
    resident = tiny.model.embedding.resident
    for index in range(12):
        table = stored[f"model.ngram_embeddings.embedders.{index}.weight"]
        assert len(table) % 2 == 1, "odd sizes are the trap"
        assert torch.equal(resident.table(index)[[0, 1, -2, -1]], table[[0, 1, -2, -1]])
    assert resident.weight.shape[0] == sum(rows for _, rows in table_sizes(320, 7.3, 4, 4))


def test_bug_17_a_step_does_not_see_the_embedding_of_the_one_before(tiny):
    """The same runner with the same shapes again and again, other tokens each time."""
    runner = ModelRunner(tiny, 8, 4)
    choice = Choice(SamplingParams(logprobs=1), 1, None)
    for token in (5, 9, 5, 300, 9):
        played = Played(runner, [3, 1])
        [[chosen]] = runner.run([], [played.run([token], choice)])
        wanted = engine_logits(tiny, [token])[0].log_softmax(-1)
        assert chosen.token_id == int(wanted.argmax())
        assert chosen.logprob is not None
        assert chosen.logprob.logprob == pytest.approx(float(wanted.max()), abs=1e-4)


def test_bug_17_the_input_is_not_written_to(tiny):
    words = tiny.model.embedding.word.clone()
    rows = tiny.model.embedding.resident.weight.clone()
    engine_logits(tiny, TURNS)
    assert torch.equal(tiny.model.embedding.word, words)
    assert torch.equal(tiny.model.embedding.resident.weight, rows)


def test_bug_18_the_highest_row_of_the_last_table_is_reached(lite):
    """An n-gram whose id in table 11 is its last row, found by solving the hash for the current token."""
    spec = lite.ngram
    assert spec is not None
    rows, factors = spec.moduli[11], spec.multipliers[11]
    before = next(
        (first, second)
        for first in range(1, 2000)
        for second in range(3, 100)
        if (rows - 1 - first * factors[2] - second * factors[1]) % rows < V
    )
    token = (rows - 1 - before[0] * factors[2] - before[1] * factors[1]) % rows
    ids = [*before, 0, token]
    got = kodkod_engine.ngram_row_ids(ids, lite)[-1]
    assert int(got[11]) == rows - 1 == 10223638
    assert plain_row_ids(ids, LITE_TABLES, vocab_size=V)[-1] == got.tolist()
    global_row = got[11] + spec.row_offsets[11]
    assert int(global_row) == spec.row_offsets[-1] - 1 == 122_683_535
    assert int(global_row * spec.table_width) == 31_406_984_960, "far beyond 32 bits, and exact"


def test_bug_18_rows_beyond_32_bits_of_elements_are_read_right(tmp_path):
    """A sparse file with a table of 2**31 bf16 values and more: its last row is read from where it lies."""
    width, rows = 256, 2**23 + 3
    path = tmp_path / "table.bin"
    last = np.arange(width, dtype=np.int16)
    with path.open("wb") as handle:
        handle.seek((rows - 1) * width * 2)
        handle.write(last.tobytes())
    table = map_tensor(StoredTensor("table", path, "BF16", (rows, width), 0, rows * width * 2))
    assert table.numel() > 2**31
    got = table[torch.tensor([0, rows - 1])].view(torch.int16)
    assert not got[0].any()
    assert got[1].tolist() == last.tolist()


def test_bug_18_the_highest_row_of_each_tiny_table_is_looked_up(tiny, tiny_folder):
    spec = tiny.config.ngram
    sources = (tiny.model.embedding.resident, MappedRows(spec, Checkpoint(tiny_folder)))
    stored = tensors_of(tiny_folder)
    hasher = NgramHasher(spec)
    for index, rows in enumerate(spec.moduli):
        window = _window_with_id(spec, index, rows - 1)
        assert int(hasher.row_ids(window)[0, index]) == rows - 1
        columns = slice(index * spec.table_width, (index + 1) * spec.table_width)
        wanted = stored[f"model.ngram_embeddings.embedders.{index}.weight"][-1]
        for source in sources:
            assert torch.equal(source.rows(window, hasher)[0, columns], wanted)


def _window_with_id(spec, index: int, wanted: int) -> torch.Tensor:
    """A token and its predecessor whose bigram has this id; older ones are absent."""
    for before in range(3, 320):
        token = (wanted - before * spec.multipliers[index][0]) % spec.moduli[index]
        if token < 320:
            return torch.tensor([[token, before, -1, -1]])
    raise AssertionError("no such n-gram")


def test_bug_19_fourteen_dual_layers_and_every_parameter(lite):
    model, mtp = build_model(lite, with_mtp=True, dtype=torch.bfloat16, activation_dtype=torch.bfloat16, device="meta")
    assert mtp is not None
    main, draft = dict(model.checkpoint_slots()), dict(mtp.checkpoint_slots())
    assert (len(main), len(draft)) == (11_143, 17)
    sizes = [math.prod(slot.shape) for slot in main.values()]
    assert sum(sizes) == 68_562_465_024
    assert sum(sizes) + sum(math.prod(slot.shape) for slot in draft.values()) == 69_073_335_552
    assert sum(parameter.numel() for parameter in model.parameters()) == 68_562_465_024
    assert len(model.dual_layers) == 14
    assert lite.num_attention_blocks == 28


def test_bug_19_a_derived_layer_count_is_not_believed(tiny_folder, tmp_path):
    folder = tmp_path / "resaved"
    shutil.copytree(tiny_folder, folder)
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace("{", '{"num_hidden_layers": 4,', 1), encoding="utf-8")
    assert len(load_model(folder).model.dual_layers) == 2
