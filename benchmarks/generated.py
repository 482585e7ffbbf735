"""The side of transformers in `accuracy`: its own tokenizer and chat template, `generate`, and nothing of plait's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
"""What shapes no distribution."""


@dataclass(frozen=True, slots=True)
class Part:
    """One method of the evaluation, as both sides run it."""

    label: str
    samples: int
    """Texts per problem."""
    max_tokens: int
    shape: dict[str, float]
    """What the evaluation itself says about sampling, the temperature at least."""

    @property
    def is_greedy(self) -> bool:
        return self.shape["temperature"] == 0


@dataclass(frozen=True, slots=True)
class Row:
    """One text of a side; of transformers, a line of the file."""

    label: str
    problem: str
    number: int
    """Among the texts of the problem."""
    prompt: list[int]
    ids: list[int]
    """Without the prompt."""
    text: str
    is_whole: bool
    """Did it end by itself, within the limit?"""


class Theirs:
    """transformers, loaded when it is first needed."""

    def __init__(self, folder: str, batch: int, seed: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch, self.batch, self.seed = torch, batch, seed
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        # SDPA with a padding mask is 2.5 times as slow on the CPU.
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, attn_implementation="eager"
        )
        self.model.train(False)

    def sampling(self, part: Part) -> dict[str, Any]:
        """The model's own where the evaluation says nothing. What generation_config.json does not name is off, as it is
        for plait: `generate` would take top-k 50."""
        own = self.model.generation_config
        found = {name: getattr(own, name) for name in OFF if getattr(own, name) is not None}
        found = {**OFF, **found, **part.shape}
        # Greedy decoding needs no more, and `generate` warns of it.
        return {"repetition_penalty": found["repetition_penalty"]} if part.is_greedy else found

    def run(self, part: Part, todo: Sequence[tuple[str, int, list[dict[str, str]]]]) -> Iterator[list[Row]]:
        """Batches of (problem, number, messages), in the given order."""
        tokenizer = self.tokenizer
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends)
        sampling = self.sampling(part)
        for first in range(0, len(todo), self.batch):
            some = todo[first : first + self.batch]
            texts = [tokenizer.apply_chat_template(m, add_generation_prompt=True, tokenize=False) for _, _, m in some]
            inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
            self.torch.manual_seed(self.seed + first)
            with self.torch.inference_mode():
                out = self.model.generate(
                    **inputs, max_new_tokens=part.max_tokens, do_sample=not part.is_greedy, **sampling
                )
            rows = []
            for (problem, number, _), mask, line in zip(some, inputs["attention_mask"], out, strict=True):
                width = inputs["input_ids"].shape[1]
                ids = line[width:].tolist()
                end = next((i + 1 for i, token in enumerate(ids) if token in ends), None)
                text = str(tokenizer.decode(ids[:end], skip_special_tokens=True))
                prompt = line[:width][mask.bool()].tolist()
                rows.append(Row(part.label, problem, number, prompt, ids[:end], text, end is not None))
            yield rows
