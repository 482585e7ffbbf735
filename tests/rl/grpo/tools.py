"""Traces by hand, a tiny model with a tokenizer of its own, and a benchmark that any model is sometimes right on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from plait.evals.benchmark import Benchmark, Sample, Verdict, register_benchmark
from plait.rl.countdown.tokenizer import BOS, PAD, UNKNOWN, save, word_level
from plait.rl.countdown.traces import EOS
from plait.rl.grpo.judges import JUDGES
from plait.runtime.methods.apr.dialect import Child, Spawn, register_dialect
from plait.runtime.trace.record import BranchRecord, Piece, SpanRecord
from plait.runtime.trace.trace import Trace

WORDS = [BOS, EOS, PAD, UNKNOWN, "spawn", "join", "end", "go", *"abcdefgh"]


class TraceWriter:
    """Segments of a trace, one call for each."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.trace.end = {}

    def branch(self, name: str, parent: str | None = None, **fields: Any) -> str:
        self.trace.branches[name] = BranchRecord(
            id=name, parent=parent, origin="open", label=name, level=0, finish="eos", **fields
        )
        return name

    def segment(
        self,
        branch: str,
        *pieces: tuple[Sequence[int], Sequence[float] | None],
        view: Sequence[tuple[int, int]] = (),
        position: int | None = None,
    ) -> int:
        """Pieces are (tokens, log-probabilities): sampled, or given if there are none. Returns the segment's number."""
        spans = tuple(SpanRecord(segment=segment, length=length) for segment, length in view)
        start = sum(length for _, length in view) if position is None else position
        segment = self.trace.new_segment(branch, start, spans)
        for tokens, logprobs in pieces:
            kind: Literal["sampled", "prompt"] = "prompt" if logprobs is None else "sampled"
            given = None if logprobs is None else list(logprobs)
            segment.pieces.append(Piece(kind=kind, token_ids=list(tokens), text="", logprobs=given))
        return segment.id


def save_tiny(folder, seed: int = 0) -> None:
    """A tiny random model of `WORDS`, which ends and spawns often."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=2,
            initializer_range=0.15,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    save(word_level(WORDS, WORDS[:4], UNKNOWN), folder, 256)


class Spelling:
    """A dialect: at `spawn` the last two words are handed to a child each, which gives back its last word."""

    name = "test_spelling"
    spawn_end = "spawn"
    reserved = {"join": "spawn"}

    def spawn(self, context, level):
        words = context.split()[:-1]
        children = tuple(Child(label=word, prompt=f"go {word}") for word in words[-2:] if len(word) == 1)
        return Spawn(keep=context.rindex("spawn"), children=children)

    def join(self, joined, level):
        return " ".join(["join", *(one.result or "go" for one in joined), "end"])

    join_short = join

    def result(self, context):
        words = [word for word in context.split() if len(word) == 1]
        return words[-1] if words else None

    def verify(self, child, result):
        return True


register_dialect("test_spelling", Spelling)


@register_benchmark
class Vowels(Benchmark):
    """Right is what ends in a vowel, or has an even number of words."""

    name: Literal["test_vowels"] = "test_vowels"
    """What configurations call it."""

    def load(self) -> list[Sample]:
        prompts = ["go a", "go b", "go c d", "go e f", "go g", "go h a"]
        return [Sample(id=str(i), question=prompt) for i, prompt in enumerate(prompts)]

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        extra = {"dialect": "test_spelling", "depth": 1} if method == "apr" else {}
        return {"prompt": sample.question, "max_tokens": 16, **extra}

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        words = text.split()
        is_right = words[-1:] in (["a"], ["e"]) or len(words) % 2 == 0
        return Verdict(correct=is_right, extracted=answer, reason="correct" if is_right else "consonant")


def judge(sample, thread):
    return float(len(thread.text.split()) % 2)


JUDGES.register("test_vowels", judge)
