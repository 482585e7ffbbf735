"""Greedy decoding of many short texts at once, for a look at a checkpoint during training; the engine is elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import Block, Model
from .tokenizer import IDS
from .traces import EOS


class Decoder:
    """One batch of texts of equal length, with their keys and values."""

    def __init__(self, model: Model, rows: int) -> None:
        config = model.config
        self.model, self.length = model, 0
        shape = (config.layers, 2, rows, config.heads, 64, config.hidden // config.heads)
        self.cache = torch.zeros(shape, dtype=model.embedding.dtype, device=model.embedding.device)

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows."""
        self.cache = self.cache[:, :, rows]

    def forward(self, tokens: Tensor) -> Tensor:
        """Append `[rows, new]` tokens; logits after the last one."""
        model, start, stop = self.model, self.length, self.length + tokens.shape[1]
        while stop > self.cache.shape[4]:
            self.cache = torch.cat((self.cache, torch.zeros_like(self.cache)), dim=4)
        cos, sin = model.cos[start:stop], model.sin[start:stop]
        x = model.embedding[tokens]
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            q, k, v = block.project(x, cos, sin)
            self.cache[i, 0, :, :, start:stop] = k
            self.cache[i, 1, :, :, start:stop] = v
            # Only the first call has several new tokens, and then nothing is in front of them.
            mixed = F.scaled_dot_product_attention(
                q, self.cache[i, 0, :, :, :stop], self.cache[i, 1, :, :, :stop], is_causal=tokens.shape[1] > 1
            )
            x = block.finish(x, mixed)
        self.length = stop
        return F.linear(model.final(x[:, -1]), model.embedding)


@torch.inference_mode()
def greedy(
    model: Model, prompts: Sequence[Sequence[int]], limit: int, stop: Sequence[int] = (), rows: int = 512
) -> list[list[int]]:
    """Each prompt with its continuation up to EOS, a stop token or `limit` tokens in all."""
    done: dict[int, list[int]] = {}
    groups: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        groups[len(prompt)].append(i)
    device = model.embedding.device
    ends = torch.tensor([IDS[EOS], *stop], device=device)
    for length, members in groups.items():
        for at in range(0, len(members), rows):
            owners = torch.tensor(members[at : at + rows], device=device)
            texts = torch.tensor([list(prompts[i]) for i in members[at : at + rows]], device=device)
            running = torch.ones(len(owners), dtype=torch.bool, device=device)
            decoder = Decoder(model, len(owners))
            new = texts
            for _ in range(limit - length):
                new = decoder.forward(new).argmax(-1, keepdim=True)
                texts = torch.cat((texts, new), dim=1)
                ended = running & torch.isin(new[:, 0], ends)
                for row in ended.nonzero()[:, 0].tolist():
                    done[int(owners[row])] = texts[row].tolist()
                running &= ~ended
                left = int(running.sum())
                if not left:
                    break
                if left < 0.7 * len(running):  # dropping rows copies the cache: not at every end
                    rest = running.nonzero()[:, 0]
                    owners, texts, new, running = owners[rest], texts[rest], new[rest], running[rest]
                    decoder.keep(rest)
            for row in running.nonzero()[:, 0].tolist():
                done[int(owners[row])] = texts[row].tolist()
    return [done[i] for i in range(len(prompts))]
