"""What the native back end has of its own: options, table homes, real draws, memory."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numba
import pytest
import torch

from engine.backends.bench import answer_to
from kodkod_engine import load_engine
from kodkod_engine.api import FinishReason, GenerationRequest, SamplingParams
from kodkod_engine.backends.native import steps_per_visit
from kodkod_engine.config import EngineConfig
from kodkod_engine.core import first_costs
from kodkod_engine.core.torch_threads import usual_threads
from kodkod_engine.errors import CheckpointCorrupt
from kodkod_engine.models.checkpoint import Checkpoint
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint
from kodkod_engine.speculation.costs import FIRST_SIZES

PROMPT = tuple(range(30, 60))


@pytest.fixture
def load(tiny_folder):
    """Engines of the tiny checkpoint, closed at the end."""
    engines = []

    def build(**options):
        engines.append(load_engine(tiny_folder, **{"max_cached_tokens": 512, **options}))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


async def test_the_tokenizer_beside_the_checkpoint_is_taken(load):
    engine = load()
    done = await answer_to(engine, engine.tokenizer.encode_text("hello"), 5)
    assert done.text == engine.tokenizer.decode(done.token_ids, skip_special=False)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda text: text[:99], ("tokenizer.json", "download it again")),
        (
            lambda text: text.replace("</longcat_s>", "<x>").replace("<longcat_pad>", "</longcat_s>"),
            ("is 3 in", "says 2"),
        ),
    ],
)
def test_a_tokenizer_that_is_not_the_models_is_told_before_weights_are_read(
    tiny_folder, tmp_path, monkeypatch, damage, parts
):
    folder = shutil.copytree(tiny_folder, tmp_path / "mixed")
    path = folder / "tokenizer.json"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    monkeypatch.delattr(Checkpoint, "load_into")
    with pytest.raises(CheckpointCorrupt) as caught:
        load_engine(folder)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize("block_size", [3, 16])
async def test_steps_are_timed_whatever_the_first_prompt_is(load, monkeypatch, block_size):
    monkeypatch.setattr(first_costs, "MEASURING_S", 60.0)
    engine = load(block_size=block_size)
    run, timed = engine.runner.run, set()
    monkeypatch.setattr(
        engine.runner,
        "run",
        lambda copies, runs, *rest: (timed.add(len(runs[0].token_ids)), run(copies, runs, *rest))[1],
    )
    done = await answer_to(engine, (30,), 3)
    assert done.error is None
    assert timed >= set(FIRST_SIZES)


async def test_mapped_tables_and_a_missing_draft_block_change_nothing(load):
    wanted = await answer_to(load(), PROMPT, 20)
    assert (await answer_to(load(ngram_tables="mapped"), PROMPT, 20)).token_ids == wanted.token_ids
    assert (await answer_to(load(mtp=False), PROMPT, 20)).token_ids == wanted.token_ids


async def test_rows_of_a_long_prompt_are_asked_for_in_advance_and_change_nothing(load, monkeypatch):
    prompt = tuple(range(30, 230))
    wanted = await answer_to(load(max_step_tokens=16, max_running=4), prompt, 8)
    mapped = load(max_step_tokens=16, max_running=4, ngram_tables="mapped")
    rows, expected = mapped.runner.loaded.model.embedding.row_source, []
    expect = rows.expect
    monkeypatch.setattr(rows, "expect", lambda windows: (expected.append(windows), expect(windows)))
    assert (await answer_to(mapped, prompt, 8)).token_ids == wanted.token_ids
    told = torch.cat(expected)
    assert told[:, 0].tolist() == list(prompt[16:])
    assert told[:, 1:].tolist() == [[token - 1, token - 2, token - 3] for token in prompt[16:]]


async def test_draws_differ_by_seed_and_by_position(load):
    engine = load()
    answers = [(await answer_to(engine, PROMPT, 20, temperature=1.0, seed=seed)).token_ids for seed in (1, 2, 1)]
    assert answers[0] == answers[2] != answers[1]
    assert len(set(answers[0])) > 5


async def test_every_logprob_is_of_the_whole_distribution(load):
    done = await answer_to(load(), PROMPT, 3, logprobs=320, temperature=1.0)
    for entry in done.logprobs:
        assert len(entry.top) == 320
        assert dict(entry.top)[entry.token_id] == entry.logprob


async def test_keys_of_the_conversation_at_hand_are_kept_between_turns(load):
    """As many as there may be, and what is answered is the same."""
    answers = []
    for allowed in (None, 0, 40):
        engine = load(expanded_bytes=allowed and allowed * _token_bytes(load))
        turns = [PROMPT * 4, PROMPT * 8]
        answers.append([(await answer_to(engine, turn, 5)).token_ids for turn in turns])
        kept = engine.runner.expanded
        assert (kept is None) == (allowed == 0)
        assert kept is None or (kept.num_tokens == allowed if allowed else kept.num_tokens >= len(turns[-1]))
    assert answers[0] == answers[1] == answers[2]


def _token_bytes(load) -> int:
    runner = load().runner
    attention, num_layers = (
        runner.loaded.model.dual_layers[0].first.attention,
        runner.loaded.config.num_attention_blocks,
    )
    return num_layers * attention.expanded_bytes(runner.loaded.device, runner.loaded.activation_dtype)


async def test_a_closed_engine_keeps_no_cache_and_no_weights(load):
    engine = load()
    await answer_to(engine, PROMPT, 2)
    runner = engine.runner
    kept = [weakref.ref(one) for one in (runner.cache, runner.loaded.model, runner.expanded)]
    del runner
    engine.close()
    gc.collect()
    assert [ref() for ref in kept] == [None, None, None]
    engine.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_running": 0}, ValueError),
        ({"block_size": 0}, ValueError),
        ({"steps_per_visit": 0}, ValueError),
        ({"expanded_bytes": -1}, ValueError),
        ({"kv_folder_bytes": -1}, ValueError),
        ({"ngram_tables": "floppy"}, ValueError),
        ({"weights": "floppy"}, ValueError),
        ({"precision": "int5"}, ValueError),
        ({"dtype": "int8"}, ValueError),
        ({"colour": "red"}, TypeError),
    ],
)
def test_options_that_cannot_be_are_refused(load, options, error):
    with pytest.raises(error) as refusal:
        load(**options)
    assert "\n" not in str(refusal.value)


async def test_no_more_sequences_run_than_a_step_has_tokens(load):
    engine = load(max_step_tokens=3, max_running=9)
    wanted = await answer_to(load(), PROMPT, 6)
    answers = await asyncio.gather(*(answer_to(engine, PROMPT, 6) for _ in range(7)))
    assert {answer.token_ids for answer in answers} == {wanted.token_ids}


@pytest.mark.parametrize(
    ("asked", "device", "steps"), [(None, "cpu", 1), (None, "cuda", 4), (3, "cpu", 3), (1, "cuda", 1)]
)
def test_a_visit_is_as_long_as_suits_the_device_unless_told(asked: int | None, device: str, steps: int) -> None:
    assert steps_per_visit(EngineConfig(steps_per_visit=asked), torch.device(device)) == steps


@pytest.mark.parametrize(("device", "tokens"), [("cpu", 512), ("cuda", 4096), ("cuda:1", 4096)])
def test_how_long_a_step_is_suits_the_device_unless_told(device: str, tokens: int) -> None:
    assert EngineConfig(device=device).step_tokens == tokens
    assert EngineConfig(device=device, max_step_tokens=64).step_tokens == 64


# --- prefixes kept over restarts ---


LONG = tuple(5 + place * 7 % 200 for place in range(300))


async def test_an_engine_goes_on_where_one_before_it_ended(load, tmp_path):
    first = load(kv_folder=str(tmp_path / "kv"))
    wanted = await answer_to(first, LONG, 30)
    assert first.stats().restored_tokens == wanted.usage.reused_tokens == 0
    first.close()
    again = load(kv_folder=str(tmp_path / "kv"))
    found = await answer_to(again, LONG, 30)
    assert found.token_ids == wanted.token_ids
    assert found.usage.reused_tokens == again.stats().restored_tokens == 288, "all but the end"
    more = await answer_to(again, (*LONG, *wanted.token_ids), 5)
    assert more.usage.reused_tokens >= 288
    assert again.stats().restored_tokens == 288, "what is in memory is not read"
    again.check_integrity()


async def test_the_first_tokens_of_an_answer_are_kept_while_it_is_written(load, tmp_path):
    """So a process that is killed loses no more than the end."""
    engine = load(kv_folder=str(tmp_path / "kv"))
    stream = engine.generate(GenerationRequest(LONG, SamplingParams(max_tokens=150, ignore_eos=True)))
    written = [token async for chunk in stream for token in chunk.token_ids]
    assert len(written) == 150
    engine.close()
    again = load(kv_folder=str(tmp_path / "kv"))
    found = await answer_to(again, (*LONG, *written), 1)
    assert found.usage.reused_tokens == 448 - 448 % 16


async def test_what_the_cache_had_no_room_for_comes_back_from_disk(load, tmp_path):
    engine = load(kv_folder=str(tmp_path / "kv"), max_cached_tokens=400)
    wanted = await answer_to(engine, LONG, 20)
    await answer_to(engine, tuple(reversed(LONG)), 20)
    found = await answer_to(engine, LONG, 20)
    assert (found.token_ids, found.usage.reused_tokens) == (wanted.token_ids, 288)
    assert 0 < engine.stats().restored_tokens <= 288
    engine.check_integrity()


@pytest.mark.parametrize("options", [{"kv_folder_bytes": 0}, {"kv_folder": None}, {"block_size": 32}], ids=str)
async def test_nothing_is_kept_where_that_is_not_wanted(load, tmp_path, options):
    engine = load(**{"kv_folder": str(tmp_path / "kv"), **options})
    await answer_to(engine, LONG, 5)
    engine.close()
    assert not (tmp_path / "kv").exists()


async def test_other_weights_and_other_precisions_have_prefixes_of_their_own(tiny_folder, tmp_path):
    folder, names = tmp_path / "model", set()
    shutil.copytree(tiny_folder, folder)

    async def kept(**options):
        engine = load_engine(folder, max_cached_tokens=512, kv_folder=str(tmp_path / "kv"), **options)
        reused = (await answer_to(engine, LONG, 1)).usage.reused_tokens
        engine.close()
        names.update(path.name for path in (tmp_path / "kv").iterdir())
        return reused

    assert [await kept(), await kept()] == [0, 288]
    assert [await kept(precision="int8"), await kept(dtype="bfloat16")] == [0, 0]
    weights = next(folder.glob("*.safetensors"))
    os.utime(weights, (1, 1))
    assert await kept() == 0
    assert len(names) == 4
    other = write_random_checkpoint(tmp_path / "other", TINY, seed=2)
    for path in other.glob("*.safetensors"):
        assert path.stat().st_size == (folder / path.name).stat().st_size
        shutil.copy(path, folder)
    os.utime(weights, (1, 1))
    assert await kept() == 0, "as old and as large, but others"


def test_what_is_no_file_of_the_model_is_in_nobodys_way(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "notes.json").mkdir()
    (folder / "other.safetensors").symlink_to(folder / "nowhere")
    (folder / "config.json.lock.json").symlink_to(folder / "config.json.lock.json")
    load_engine(folder).close()


async def test_a_model_that_is_loaded_while_another_computes_gets_its_threads(load):
    """A step keeps to one thread, and what begins meanwhile on a thread of its own is not to take that over."""
    entered, go_on, seen = threading.Event(), threading.Event(), []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = load(speculation="none")
        first.runner.watchers.append(lambda *_: (entered.set(), go_on.wait(60)))
        answer = asyncio.create_task(answer_to(first, PROMPT, 2))
        await asyncio.to_thread(entered.wait, 60)
        with ThreadPoolExecutor(1) as other:
            second = await asyncio.get_running_loop().run_in_executor(other, load)
        second.runner.watchers.append(lambda *_: seen.append(usual_threads()))
        go_on.set()
        await answer
        await answer_to(second, PROMPT, 2)
    finally:
        go_on.set()
        torch.set_num_threads(before)
    assert set(seen) == {2}


def all_unknown(model) -> None:
    model.norm.weight.fill_(float("nan"))


def one_without_bounds(model) -> None:
    model.head_weight[7:9, 0] = torch.tensor([float("inf"), -float("inf")])  # the logit of one of the two is +inf


@pytest.mark.parametrize("damage", [all_unknown, one_without_bounds])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_model_whose_weights_are_no_numbers_says_so_and_nothing_else(load, temperature, damage, caplog):
    engine = load()
    damage(engine.runner.loaded.model)
    done = await answer_to(engine, PROMPT, 5, temperature=temperature)
    assert (done.finish_reason, done.token_ids) == (FinishReason.ERROR, ())
    assert done.error.startswith("the model computes no numbers any more (NaN)")
    assert "check the checkpoint" in done.error
    assert caplog.records == [], "once"


async def test_the_first_step_that_compiles_is_told_once(load):
    engine, told = load(), []
    engine.runner.on_compile = lambda: told.append(threading.current_thread().name)
    await answer_to(engine, PROMPT, 2)
    told.clear()  # of kernels that no earlier run has left on disk
    engine.runner.on_compile = lambda: told.append(threading.current_thread().name)
    await answer_to(engine, PROMPT, 2)
    assert told == [], "everything is compiled"
    engine.runner.watchers.append(lambda _runs, hidden: numba.njit(lambda value: value)(len(hidden)))
    await answer_to(engine, PROMPT, 3)
    assert told == ["kodkod-engine"]
