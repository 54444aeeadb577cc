"""vLLM's LongCat-Flash-Lite with its N-gram context from committed ids. Imported by vLLM, for this model alone."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models import longcat_flash_ngram as stock

from kodkod_engine.vllm_plugin.registration import misfit, require_sound


class LongcatFlashNgramForCausalLM(stock.LongcatFlashNgramForCausalLM):
    """The same network; another state."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        require_sound(misfit(stock), speculates=vllm_config.speculative_config is not None)
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    @staticmethod
    def get_model_state_cls() -> Any:
        """See vLLM: the class that prepares the model's inputs."""
        if misfit(stock) is not None:
            return stock.LongcatFlashNgramForCausalLM.get_model_state_cls()
        from kodkod_engine.vllm_plugin.state import CommittedNgramState

        return CommittedNgramState
