"""How vLLM is set up: the section `engine.vllm` of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class VllmConfig(BaseModel):
    """What is handed to vLLM; the defaults are its own for one device. A running server has chosen for itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tokenizer: Path | None = None
    """Folder with the model's tokenizer.json; None takes the model's own, where it is on this machine."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Devices that share each layer."""
    pipeline_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Groups of devices that hold the layers one after another."""
    enable_expert_parallel: bool = False
    """Whole experts per device, in place of a slice of each."""
    distributed_executor_backend: Literal["uni", "mp", "ray", "external_launcher"] | None = None
    """What starts the other processes; `ray` goes over machines. None leaves it to vLLM."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a device's memory that vLLM may take."""
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    """Longest context in tokens; None takes the model's."""
    quantization: str | None = None
    """As vLLM names it; None reads it off the checkpoint."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and activations."""
    enforce_eager: bool = False
    """No graphs and no compilation: a quicker start, slower steps."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further engine arguments by vLLM's own names (`speculative_config`, `kv_cache_dtype`, ...); they win."""
    api_key_variable: str = "VLLM_API_KEY"
    """Environment variable with the key of a server that wants one."""
    connect_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """How long a server may take to accept a connection."""
    read_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long it may be silent; a long prompt is computed in silence."""

    def engine_arguments(self) -> dict[str, Any]:
        """Those that were set, by vLLM's names."""
        own = {"tokenizer", "arguments", "api_key_variable", "connect_timeout_s", "read_timeout_s"}
        return {**self.model_dump(exclude=own, exclude_none=True), **self.arguments}
