"""Hogwild! inference told a second time, from the paper: the loop, and attention by rotate-and-concatenate.

Nothing here uses plait. Every block keeps its keys and values in local coordinates, as if it began at position 0; in
every layer of every pass each worker's view is put together anew: all keys rotated by the offset of their block,
concatenated, and attended to with a mask (arXiv 2504.06261, section 3; the public code's naive form).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class ToyTokenizer:
    """Pieces are characters, and a few that hold a blank line; what it does not know becomes a blank."""

    bos_id = None
    prefix_ids: tuple[int, ...] = ()
    byte_ids: frozenset[int] = frozenset()
    tool_marks: tuple[str, str] | None = None
    eos_ids: tuple[int, ...] = ()

    def __init__(self) -> None:
        letters = "abcdefghijklmnopqrstuvwxyz0123456789 *[]:'?,\n.#ABCDEFGHIJKLMNOPQRSTUVWXYZ-+/=()"
        words = ["### ", "Work in ", "progress ", "(others)", "(own)", "<...>", "]:** ", "**", " [", "```", "$$"]
        self.pieces = [*letters, *words, "\n\n", ".\n\n", "?\n\n", "x\n\n"]
        self.pieces += [f"{word}.\n\n" for word in ("so", "yes", "no", "thus", "hence", "done")]
        self.vocab_size = len(self.pieces)

    def encode_continuation(self, before: Sequence[int], text: str) -> list[int]:
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        tokens = []
        at = 0
        while at < len(text):
            found = [piece for piece in self.pieces if text.startswith(piece, at)]
            best = max(found, key=len) if found else None
            tokens.append(self.pieces.index(best or " "))
            at += len(best or " ")
        return tokens

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.pieces[token] for token in token_ids)

    def chat(self, messages: object, tools: object = ()) -> list[int]:
        raise NotImplementedError


@dataclass
class Block:
    """Tokens, and for each layer keys (rotated to their index in the block) and values."""

    keys: list[Any]
    values: list[Any]
    tokens: list[int] = field(default_factory=list)

    def append(self, layer: int, k: Tensor, v: Tensor) -> None:
        old_k, old_v = self.keys[layer], self.values[layer]
        self.keys[layer] = k if old_k is None else torch.cat([old_k, k], 1)
        self.values[layer] = v if old_v is None else torch.cat([old_v, v], 1)


class Naive:
    """One model's forward pass over workers, each with its view."""

    def __init__(self, hf_model) -> None:
        self.model = copy.deepcopy(hf_model).double()
        config = hf_model.config
        self.layers = config.num_hidden_layers
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.inv_freq = hf_model.model.rotary_emb.inv_freq.double()

    def block(self) -> Block:
        return Block([None] * self.layers, [None] * self.layers)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """(heads, tokens, size) by (tokens,) positions."""
        angles = positions.double()[:, None] * self.inv_freq
        cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
        half = self.size // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    @torch.no_grad()
    def forward(self, inputs: list[list[int]], views: list[list[Block]]) -> Tensor:
        """Feed each worker its tokens, which go to the last block of its view; (workers, V) logits of the last ones."""
        weights = self.model.model
        owns = [view[-1] for view in views]
        starts = [len(own.tokens) for own in owns]
        for own, tokens in zip(owns, inputs, strict=True):
            own.tokens += tokens
        hidden = [weights.embed_tokens(torch.tensor(tokens)) for tokens in inputs]
        for index, layer in enumerate(weights.layers):
            attention = layer.self_attn
            queries = []
            for w, x in enumerate(hidden):  # every worker's new keys are written before anybody attends
                h = layer.input_layernorm(x)
                q, k, v = (
                    part(h).view(len(x), -1, self.size)
                    for part in (attention.q_proj, attention.k_proj, attention.v_proj)
                )
                if hasattr(attention, "q_norm"):
                    q, k = attention.q_norm(q), attention.k_norm(k)
                local = torch.arange(starts[w], starts[w] + len(x))
                owns[w].append(index, self.rotate(k.transpose(0, 1), local), v.transpose(0, 1))
                queries.append(q.transpose(0, 1))
            for w, x in enumerate(hidden):
                keys, values, shifts, offset = [], [], [], 0
                for block in views[w]:
                    if block.tokens:
                        shifts += [offset] * len(block.tokens)
                        keys.append(block.keys[index])
                        values.append(block.values[index])
                        offset += len(block.tokens)
                k, v = self.rotate(torch.cat(keys, 1), torch.tensor(shifts)), torch.cat(values, 1)
                groups = self.heads // self.kv_heads
                k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
                place = torch.arange(offset - len(x), offset)
                q = self.rotate(queries[w], place)
                scores = q @ k.transpose(1, 2) * self.size**-0.5
                scores = scores.masked_fill(torch.arange(offset) > place[:, None], -torch.inf)
                out = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
                x = x + attention.o_proj(out)
                hidden[w] = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.model.lm_head(weights.norm(torch.stack([x[-1] for x in hidden])))


MARKS = ".?!"
OTHERS = "### Work in progress (others)\n\n"
OWN = "<...>\n\n### Work in progress (own)\n\n"
SPLIT = " <the assistant will continue here>\n\n"


def step_is_over(pieces: list[str]) -> bool:
    text = "".join(pieces)
    if "\n\n" not in pieces[-1] or any(text.count(fence) % 2 for fence in ("```", "~~~", "$$")):
        return False
    return text[: text.rindex("\n\n")].strip()[-1:] in tuple(MARKS)


@dataclass
class Told:
    """What the loop did."""

    sampled: dict[str, list[int]]
    history: list[list[int]]
    checks: list[tuple[str, int]] = field(default_factory=list)
    """(worker, step) that began with a self-check."""


def hogwild(
    naive: Naive,
    tokenizer: ToyTokenizer,
    prompt: list[int],
    names: Sequence[str],
    passes: int,
    *,
    layout: str = "combined",
    headers: bool = True,
    check_every: int = 1024,
    openers: Sequence[str],
    self_check: str,
) -> Told:
    """`passes` passes of greedy decoding."""
    common, header_a, header_b = naive.block(), naive.block(), naive.block()
    naive.forward([prompt], [[common]])
    if headers and layout == "combined":
        naive.forward([tokenizer.encode(OTHERS)], [[header_a]])
        naive.forward([tokenizer.encode(OWN)], [[header_b]])
    if headers and layout == "contiguous":
        naive.forward([tokenizer.encode(SPLIT)], [[header_b]])
    past: list[Block] = []
    own = {name: naive.block() for name in names}
    step = dict.fromkeys(names, 1)
    inputs = {name: tokenizer.encode(text) for name, text in zip(names, openers, strict=True)}
    current = {name: list(tokens) for name, tokens in inputs.items()}
    told = Told({name: [] for name in names}, [])
    since = 0
    for _ in range(passes):
        views = []
        for name in names:
            others = [] if layout == "interleaved" else [own[other] for other in names if other != name]
            views.append([common, *past, header_a, *others, header_b, own[name]])
        new = naive.forward([inputs[name] for name in names], views).argmax(-1).tolist()
        for name, token in zip(names, new, strict=True):
            told.sampled[name].append(token)
            current[name].append(token)
            inputs[name] = [token]
            if layout != "contiguous" and step_is_over([tokenizer.pieces[t] for t in current[name]]):
                step[name] += 1
                told.history.append(current[name])
                message = f"**{name} [{step[name]}]:** "
                if since > check_every:
                    message += self_check
                    told.checks.append((name, step[name]))
                    since = 0
                current[name] = tokenizer.encode(message)
                past.append(own[name])
                own[name] = naive.block()
                inputs[name] = [token, *current[name]]
            since += len(inputs[name])
    return told
