"""The plug-in among vLLM's own classes; `engine/backends/test_vllm.py` runs it in an environment that has them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is tested in an environment of its own", exc_type=ImportError)
pytestmark = pytest.mark.slow

CONFIG = SimpleNamespace(
    vocab_size=320, ngram_vocab_size_ratio=7, emb_neighbor_num=4, emb_split_num=2, hidden_size=96, eos_token_id=2
)
SLOT = 2


def requests(committed: list[int], beyond: list[int]) -> SimpleNamespace:
    """What of vLLM's `RequestState` is read: ids by slot, and how many are computed."""
    ids = torch.full((4, 32), 77, dtype=torch.int32)
    ids[SLOT, : len(committed) + len(beyond)] = torch.tensor(committed + beyond)
    computed = torch.zeros(4, dtype=torch.int32)
    computed[SLOT] = len(committed)
    return SimpleNamespace(all_token_ids=SimpleNamespace(gpu=ids), num_computed_tokens=SimpleNamespace(gpu=computed))


def batch(step_ids: list[int]):
    """vLLM's own input of a step, for one request."""
    from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers

    buffers = InputBuffers(4, 32, torch.device("cpu"))
    made = InputBatch.make_dummy(1, len(step_ids), buffers)
    made.input_ids[: len(step_ids)] = torch.tensor(step_ids, dtype=torch.int32)
    made.idx_mapping[:1] = SLOT
    return made


def bare(state_class):
    """A state of that class without a model of gigabytes behind it."""
    from kodkod_engine.layers.ngram_hash import NgramHasher
    from kodkod_engine.vllm_plugin.context import spec_of

    state = state_class.__new__(state_class)
    spec = spec_of(CONFIG)
    state._hasher, state._first_rows = NgramHasher(spec), torch.tensor(spec.row_offsets[:-1])
    state.ctx_len, state.n, state.eos_id = 3, 4, 2
    state.token_context = torch.full((4, 3), -1, dtype=torch.int32)
    state.ngram = SimpleNamespace(
        num_embedders=spec.num_tables, k=2, ne_weights=None, ne_mods=None, exclusive_sizes=None
    )
    return state


def test_rows_are_those_of_the_committed_ids_after_drafts_were_refused():
    from kodkod_engine.layers.ngram_hash import ngram_row_ids
    from kodkod_engine.vllm_plugin.context import spec_of
    from kodkod_engine.vllm_plugin.state import CommittedNgramState

    spec, state = spec_of(CONFIG), bare(CommittedNgramState)
    committed, step = [30, 31, 2, 33, 34], [35, 36, 2]
    for refused in ([], [90, 91]):
        state._requests = requests(committed, refused)
        rows = state._compute_oe_ids(batch(step)) - state._first_rows
        assert torch.equal(rows, ngram_row_ids([*committed, *step], spec)[len(committed) :])


def test_vllms_own_state_rolls_over_what_was_refused(monkeypatch):
    """The fault that is mended: when this fails vLLM has mended it, and the plug-in may go."""
    from vllm.model_executor.models import longcat_flash_ngram as stock

    monkeypatch.setattr(stock.ops, "ngram_compute_n_gram_ids", lambda *_: None, raising=False)
    state = bare(stock.LongcatNgramModelState)
    state._compute_oe_ids(batch([30, 90, 91]))  # one new id, and two drafts that will be refused
    assert state.token_context[SLOT].tolist() == [30, 90, 91]


def test_the_state_fits_this_vllm_and_the_registry_takes_the_model():
    from vllm import ModelRegistry
    from vllm.model_executor.models import longcat_flash_ngram as stock

    from kodkod_engine.vllm_plugin.registration import ARCHITECTURE, misfit, register

    assert misfit(stock) is None
    for _ in range(2):
        register()
    loaded = ModelRegistry._try_load_model_cls(ARCHITECTURE)
    assert loaded is not None
    assert loaded.__module__ == "kodkod_engine.vllm_plugin.model"
    assert issubclass(loaded, stock.LongcatFlashNgramForCausalLM)
    assert loaded.get_model_state_cls().__name__ == "CommittedNgramState"
