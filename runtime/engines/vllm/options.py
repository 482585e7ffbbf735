"""`VllmOptions`: plait's own options of the vllm engine; all others are vLLM's, and vLLM checks them."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, ValidationError

from ...errors import InvalidInput
from ...mistakes import mistakes
from ...printable import printable
from ...spec import Spec
from ..registry import find_model

if TYPE_CHECKING:
    from vllm.config import VllmConfig

CPU_CACHE_BYTES = 1 << 30
"""For keys and values on the CPU, where nothing else is said: vLLM's own default there is nearly all memory."""

_OURS = {"model", "max_model_len", "tokenizer"}
_SHOWN = 400
"""Characters of vLLM's messages in ours."""


class VllmOptions(Spec):
    """How a `VllmEngine` runs. Fields that are not named here are vLLM's engine arguments (`tensor_parallel_size`,
    `quantization`, `distributed_executor_backend`, ...)."""

    model_config = ConfigDict(extra="allow")
    refusal = InvalidInput

    tokenizer: str | None = None
    """Whose tokenizer: a folder, a shipped model or one of the hub; None: the model's own."""
    context_limit: int | None = Field(default=None, ge=1)
    """Tokens one branch may span (vLLM's `max_model_len`); None: what the model was made for."""
    chat_template_kwargs: dict[str, Any] = {}
    """Variables for the chat template beyond the messages: `{"enable_thinking": False}` for Qwen3."""
    lora: str | None = None
    """Folder of a LoRA adapter that all branches use."""

    def engine_config(self, model: Path) -> VllmConfig:
        """All of it as vLLM takes it. Raises `InvalidInput` for what vLLM does not take."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform

        given: dict[str, Any] = self.model_extra or {}
        known = {field.name for field in dataclasses.fields(AsyncEngineArgs)} - _OURS
        if unknown := sorted(set(given) - known):
            near = [name for one in unknown for name in get_close_matches(one, [*known, *type(self).model_fields], 2)]
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise InvalidInput(f"neither plait nor vLLM has an option {', '.join(unknown)} for an engine{hint}")
        # vLLM's tokenizer is not needed: token ids go in and out. The limits are plait's own.
        arguments: dict[str, Any] = {
            "enable_prefix_caching": True,
            "scheduling_policy": "priority",
            "skip_tokenizer_init": True,
            "max_logprobs": -1,
            "generation_config": "vllm",
            "disable_log_stats": True,
        }
        if self.context_limit is not None:
            arguments["max_model_len"] = self.context_limit
        if self.lora is not None:
            arguments["enable_lora"] = True
        if current_platform.is_cpu() and "gpu_memory_utilization" not in given:
            arguments["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
        if self.tokenizer is not None:
            arguments["tokenizer"] = str(find_model(self.tokenizer).path)
        try:
            config = AsyncEngineArgs(model=str(model), **{**arguments, **given}).create_engine_config()
        except Exception as error:  # Whatever any of its checks raises.
            raise InvalidInput(f"vLLM does not take these options: {message(error)}") from error
        if has_constraints(config):
            # Only now is it known which of its model runners will ask.
            kind = "RunnerConstrained" if config.use_v2_model_runner else "Constrained"
            own = config.model_config.logits_processors or ()
            config.model_config.logits_processors = [*own, f"{__package__}.processors:{kind}"]
        return config


def has_constraints(config: VllmConfig) -> bool:
    """vLLM asks nobody about logits whose tokens are guessed ahead."""
    return config.speculative_config is None


def message(error: BaseException) -> str:
    """What vLLM, or what it calls, says is wrong: short, harmless."""
    if isinstance(error, ValidationError):
        text = "; ".join(f"{where}: {what}".removeprefix(": ") for where, what in mistakes(error))
    else:
        text = str(error).strip() or type(error).__name__
    return printable(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
