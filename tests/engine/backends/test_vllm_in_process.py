"""What is particular to vLLM in this process. `test_vllm.py` runs it in an environment that has vLLM."""

from __future__ import annotations

import pytest

from engine.backends.bench import VOCAB_SIZE, Dictation, answer_to, ask, engine_threads

pytest.importorskip("vllm", reason="vLLM is tested in an environment of its own", exc_type=ImportError)
pytestmark = pytest.mark.slow

PROMPT = tuple(range(30, 70))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from engine.backends.vllm_bench import write_llama

    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder, 256)
    return folder


def loaded(checkpoint, **arguments):
    from kodkod_engine.backends.vllm import load_vllm
    from kodkod_engine.backends.vllm_config import VllmConfig

    room = {"block_size": 32, "num_gpu_blocks_override": 65, "kv_cache_memory_bytes": 2**28, "max_num_seqs": 4}
    return load_vllm(checkpoint, VllmConfig(dtype="float32", enforce_eager=True, arguments={**room, **arguments}))


def test_what_vllm_refuses_is_one_line_and_leaves_no_thread(checkpoint):
    from kodkod_engine.errors import BackendUnavailable

    for wrong in ({"no_such_option": 1}, {"kv_cache_dtype": "nonsense"}):
        with pytest.raises(BackendUnavailable, match=r"engine\.vllm") as refusal:
            loaded(checkpoint, **wrong)
        assert "\n" not in str(refusal.value)
        assert refusal.value.exit_code == 4
    assert not engine_threads()


async def test_prefixes_are_reused_in_whole_blocks(checkpoint):
    engine = loaded(checkpoint)
    try:
        first, second = [await answer_to(engine, PROMPT, 5) for _ in range(2)]
    finally:
        engine.close()
    assert (first.usage.reused_tokens, second.usage.reused_tokens) == (0, 32)
    assert first.token_ids == second.token_ids


async def test_draws_are_those_of_our_own_sampler(checkpoint):
    """Log-probabilities of all ids in hand, each token is what `core.sampler` draws from them at its position."""
    import torch

    from kodkod_engine.core.sampler import draw

    engine = loaded(checkpoint)
    sampling = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 7}
    try:
        done = await answer_to(engine, PROMPT, 10, logprobs=VOCAB_SIZE, **sampling)
    finally:
        engine.close()
    asked = ask(PROMPT, **sampling).sampling
    for place, entry in enumerate(done.logprobs):
        row = torch.full((VOCAB_SIZE,), -torch.inf)
        for token_id, value in entry.top:
            row[token_id] = value
        assert draw(row, asked, len(PROMPT) + place) == entry.token_id


async def test_while_vllm_speculates_constraints_are_refused_and_greedy_answers_are_the_same(checkpoint):
    from kodkod_engine.errors import RequestError

    plain = loaded(checkpoint)
    speculative = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    drafting = loaded(checkpoint, speculative_config=speculative)
    try:
        with pytest.raises(RequestError, match="speculative_config"):
            drafting.generate(ask(PROMPT, constraint=Dictation([5])))
        wanted = await answer_to(plain, PROMPT * 2, 40)
        assert (await answer_to(drafting, PROMPT * 2, 40)).token_ids == wanted.token_ids
    finally:
        plain.close()
        drafting.close()
