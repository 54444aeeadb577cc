"""What of the settings reaches vLLM."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from kodkod_engine.backends.vllm import takes_processor
from kodkod_engine.backends.vllm_config import VllmConfig


def test_what_is_not_set_is_left_to_vllm():
    arguments = VllmConfig(tokenizer=Path("/models/x")).engine_arguments()
    assert arguments == {
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "enable_expert_parallel": False,
        "dtype": "auto",
        "enforce_eager": False,
    }


def test_parallel_and_ray_options_pass_through_and_arguments_win():
    config = VllmConfig(
        tensor_parallel_size=4,
        pipeline_parallel_size=2,
        enable_expert_parallel=True,
        distributed_executor_backend="ray",
        arguments={"kv_cache_dtype": "fp8", "tensor_parallel_size": 8},
    )
    arguments = config.engine_arguments()
    assert arguments["distributed_executor_backend"] == "ray"
    assert (arguments["tensor_parallel_size"], arguments["pipeline_parallel_size"]) == (8, 2)
    assert arguments["enable_expert_parallel"] is True
    assert arguments["kv_cache_dtype"] == "fp8"


@pytest.mark.parametrize(
    "wrong",
    [
        {"tensor_parallel_size": 0},
        {"gpu_memory_utilization": 1.5},
        {"distributed_executor_backend": "mpi"},
        {"tensor_paralel_size": 2},
    ],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        VllmConfig(**wrong)


@pytest.mark.parametrize(
    ("speculates", "runs_v2", "takes"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_our_sampler_chooses_where_vllm_lets_it(speculates, runs_v2, takes):
    settings = SimpleNamespace(speculative_config=object() if speculates else None, use_v2_model_runner=runs_v2)
    assert takes_processor(settings) is takes
