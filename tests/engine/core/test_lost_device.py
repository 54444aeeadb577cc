"""A GPU that is lost in the middle of an answer: everyone is told in one line, and nothing is asked of it again."""

from __future__ import annotations

import asyncio

import pytest
import torch

from kodkod_engine.api import FinishReason, GenerationRequest, SamplingParams, Speculation, collect
from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.config import EngineConfig
from kodkod_engine.core.lost_device import is_lost
from kodkod_engine.errors import EngineClosed

LOST = "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA` to enable assertions."


@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        (torch.AcceleratorError(LOST), True),
        (RuntimeError("Triton Error [CUDA]: device-side assert triggered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"), False),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (RuntimeError("shape '[3]' is invalid for input of size 4"), False),
    ],
)
def test_what_ends_a_device(fault: RuntimeError, lost: bool) -> None:
    assert is_lost(fault) is lost


async def test_a_device_lost_in_an_answer_ends_all_answers_and_the_engine(tiny, monkeypatch, caplog) -> None:
    engine = NativeEngine(tiny, None, EngineConfig(max_cached_tokens=512, max_running=1, speculation=Speculation.NONE))
    compute, steps = engine.runner._run, []

    def until_it_is_lost(copies, runs, num_steps=1):
        steps.append(runs)
        if len(steps) > 4:
            raise torch.AcceleratorError(LOST)
        return compute(copies, runs, num_steps)

    monkeypatch.setattr(engine.runner, "_run", until_it_is_lost)
    request = GenerationRequest((5, 6, 7), SamplingParams(max_tokens=50, ignore_eos=True))
    first, waiting = await asyncio.gather(*(collect(engine.generate(request)) for _ in range(2)))
    wanted = (
        "the GPU is lost (CUDA error: an illegal memory access was encountered); start again and resume the session"
    )
    for one in (first, waiting):
        assert (one.finish_reason, one.error) == (FinishReason.ERROR, wanted)
    assert first.token_ids
    assert len(steps) == 5
    with pytest.raises(EngineClosed, match="the GPU is lost"):
        engine.generate(request)
    assert [record.message for record in caplog.records] == [wanted]
    engine.close()
