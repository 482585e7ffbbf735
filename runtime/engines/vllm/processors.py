"""What vLLM calls before it samples: `constrained.Text`s in the forms of its two model runners.

These classes are found by their names and made in vLLM's processes, one in each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as RunnerProcessor

from ..native.tokenizer import HFTokenizer
from .constrained import Text, Texts

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams as VllmParams
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState


def _texts(config: VllmConfig) -> Texts:
    return Texts(HFTokenizer.load(config.model_config.tokenizer))


class Constrained(LogitsProcessor):  # type: ignore[misc]
    """For the first model runner, which moves requests between the rows of its batch."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._texts = _texts(vllm_config)
        self._rows: dict[int, tuple[Text, list[int]]] = {}
        """By row: the text, and its tokens, a list that vLLM appends to."""

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        rows = self._rows
        for index in batch_update.removed:
            rows.pop(index, None)
        for index, params, _, output in batch_update.added:
            rows.pop(index, None)
            if (text := self._texts.begin(params.extra_args)) is not None:
                rows[index] = (text, output)
        for one, other, direction in batch_update.moved:
            held = rows.pop(one, None), rows.pop(other, None)
            if held[0] is not None:
                rows[other] = held[0]
            if held[1] is not None and direction is MoveDirectionality.SWAP:
                rows[one] = held[1]

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for index, (text, output) in self._rows.items():
            text.mask(logits[index], output)
        return logits


class RunnerConstrained(RunnerProcessor):  # type: ignore[misc]
    """For the second model runner, whose requests keep their slots and whose tokens are on the device."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self._texts = _texts(vllm_config)
        self._requests = req_states
        self._slots: dict[int, Text] = {}

    def add_request(self, req_idx: int, sampling_params: VllmParams) -> bool:
        self._slots.pop(req_idx, None)
        if (text := self._texts.begin(sampling_params.extra_args)) is None:
            return False
        self._slots[req_idx] = text
        return True

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        for row, slot in enumerate(ctx.idx_mapping_np.tolist()):
            if (text := self._slots.get(slot)) is not None:
                begin, end = int(self._requests.prompt_len.np[slot]), int(ctx.seq_lens_upper_bound_np[row])
                text.mask(logits[row], self._requests.all_token_ids.gpu[slot, begin:end].tolist())
        return logits
