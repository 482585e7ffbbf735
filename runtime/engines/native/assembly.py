"""From named tensors to `Weights`: which names a family's tensors have, and which shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import InvalidInput
from .config import LanesConfig, ModelConfig
from .integers import Bits
from .weights import MLP, Experts, Lanes, LayerWeights, Linear, Weights


def assemble(
    config: ModelConfig,
    get: Callable[[str], Tensor],
    source: str,
    *,
    bits: Callable[[str], Bits | None] = lambda _: None,
    keep: bool = True,
) -> Weights:
    """All tensors under their Hugging Face names, with shapes checked; without `keep` a layer's are read whenever it is
    asked for.

    `get` raises `KeyError` for a name it does not know; `bits` tells those of `Linear`. Raises `InvalidInput`, which
    names `source`.
    """
    weights = _Assembly(config, get, bits, source).weights()
    return weights.kept() if keep else weights


class _Layers(Sequence[LayerWeights]):
    """Each is read when it is asked for."""

    def __init__(self, assembly: _Assembly) -> None:
        self._assembly = assembly

    def __len__(self) -> int:
        return self._assembly.config.num_layers

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        return self._assembly.layer(range(len(self))[index])


class _Assembly:
    def __init__(
        self, config: ModelConfig, get: Callable[[str], Tensor], bits: Callable[[str], Bits | None], source: str
    ) -> None:
        self.config = config
        self._get = get
        self._bits = bits
        self._source = source

    def weights(self) -> Weights:
        config = self.config
        if self._has(f"model.layers.{config.num_layers}.self_attn.o_proj.weight"):
            raise InvalidInput(f"{self._source} has weights of more layers than the {config.num_layers} of config.json")
        embedding = self._tensor("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        return Weights(
            embedding=embedding,
            layers=_Layers(self),
            norm=self._tensor("model.norm.weight", config.hidden_size),
            lm_head=self._head(embedding),
            lanes=None if config.lanes is None else self._lanes(config.lanes),
        )

    def _head(self, embedding: Tensor) -> Tensor:
        """The output layer: the embedding, if config.json says so and, as for transformers, the checkpoint holds no
        other one."""
        name = "lm_head.weight"
        if self.config.tie_embeddings and not self._has(name):
            return embedding
        head = self._tensor(name, *embedding.shape)
        return embedding if self.config.tie_embeddings and torch.equal(head, embedding) else head

    def _lanes(self, lanes: LanesConfig) -> Lanes:
        config, hidden = self.config, self.config.hidden_size
        shape = lanes.count, config.num_kv_heads, lanes.prefix, config.head_dim

        def prefixes(name: str) -> tuple[Tensor, ...]:
            if not lanes.prefix:
                return ()
            return tuple(self._tensor(f"model.layers.{i}.self_attn.{name}", *shape) for i in range(config.num_layers))

        return Lanes(
            prefix_k=prefixes("prefix_k"),
            prefix_v=prefixes("prefix_v"),
            inner=self._linear("model.aggregate_layer.0", hidden, lanes.count * hidden, True),
            outer=self._linear("model.aggregate_layer.2", lanes.count, hidden, True),
        )

    def layer(self, index: int) -> LayerWeights:
        config, family, at = self.config, self.config.family, f"model.layers.{index}"
        hidden, size, norms = config.hidden_size, config.head_dim, family.norms
        widths = [config.num_heads * size, config.num_kv_heads * size, config.num_kv_heads * size]
        names = [f"{at}.self_attn.{name}_proj" for name in ("q", "k", "v")]
        q, k, v = self._projections(f"{at}.self_attn.qkv_proj", names, widths, config.qkv_bias)
        q_norm = k_norm = None
        if family.qk_norm is not None:
            normed = [size, size] if family.qk_norm == "head" else widths[:2]
            q_norm, k_norm = (
                self._tensor(f"{at}.self_attn.{name}_norm.weight", n) for name, n in zip("qk", normed, strict=True)
            )

        def norm(name: str | None) -> Tensor | None:
            return None if name is None else self._tensor(f"{at}.{name}.weight", hidden)

        return LayerWeights(
            attention_norm=norm(norms.attention),
            q=q,
            k=k,
            v=v,
            q_norm=q_norm,
            k_norm=k_norm,
            o=self._linear(f"{at}.self_attn.o_proj", hidden, widths[0], config.output_bias),
            attention_out_norm=norm(norms.attention_out),
            mlp_norm=norm(norms.mlp),
            mlp=self._experts(f"{at}.mlp") if config.layers[index].is_sparse else self._mlp(f"{at}.mlp"),
            mlp_out_norm=norm(norms.mlp_out),
        )

    def _mlp(self, at: str) -> MLP:
        config = self.config
        inner, names = config.intermediate_size, [f"{at}.gate_proj", f"{at}.up_proj"]
        gate, up = self._projections(f"{at}.gate_up_proj", names, [inner, inner], config.mlp_bias)
        return MLP(gate=gate, up=up, down=self._linear(f"{at}.down_proj", config.hidden_size, inner, config.mlp_bias))

    def _experts(self, at: str) -> Experts:
        """Stacked tensors, as a live model has them, or one of each kind for each expert, as checkpoints have."""
        experts, hidden = self.config.experts, self.config.hidden_size
        assert experts is not None
        count, size = experts.count, experts.size
        router = self._tensor(f"{at}.gate.weight", count, hidden)
        if self._has(f"{at}.experts.gate_up_proj"):
            gate_up = self._tensor(f"{at}.experts.gate_up_proj", count, 2 * size, hidden)
            return Experts(
                router=router, gate_up=gate_up, down=self._tensor(f"{at}.experts.down_proj", count, hidden, size)
            )

        def each(name: str, *shape: int) -> Tensor:
            return torch.stack([self._tensor(f"{at}.experts.{i}.{name}_proj.weight", *shape) for i in range(count)])

        gate_up = torch.cat([each("gate", size, hidden), each("up", size, hidden)], dim=1)
        return Experts(router=router, gate_up=gate_up, down=each("down", hidden, size))

    def _projections(self, fused: str, names: list[str], widths: list[int], bias: bool) -> list[Linear]:
        """Linear layers of the same inputs, from one tensor each or, where the family has that, views of one."""
        hidden = self.config.hidden_size
        if not self.config.family.fused:
            return [self._linear(name, width, hidden, bias) for name, width in zip(names, widths, strict=True)]
        whole = self._linear(fused, sum(widths), hidden, bias)
        weights = torch.split(whole.weight.detach(), widths)
        biases = [None] * len(widths) if whole.bias is None else torch.split(whole.bias.detach(), widths)
        return [Linear(weight, part, whole.bits) for weight, part in zip(weights, biases, strict=True)]

    def _linear(self, name: str, outputs: int, inputs: int, bias: bool) -> Linear:
        return Linear(
            self._tensor(f"{name}.weight", outputs, inputs),
            self._tensor(f"{name}.bias", outputs) if bias else None,
            self._bits(f"{name}.weight"),
        )

    def _has(self, name: str) -> bool:
        try:
            self._get(name)
        except KeyError:
            return False
        return True

    def _tensor(self, name: str, *shape: int) -> Tensor:
        try:
            found = self._get(name)
        except KeyError:
            raise InvalidInput(f"{self._source} lacks the tensor {name}") from None
        if tuple(found.shape) != shape:
            raise InvalidInput(f"{self._source}: {name} has shape {tuple(found.shape)}, config.json asks for {shape}")
        if not is_finite(found):
            raise InvalidInput(f"{self._source}: {name} holds numbers that are not finite (as {found.dtype})")
        return found


def is_finite(weights: Tensor) -> bool:
    """Are all numbers finite? Seen of the two ends, which takes no memory: they are not where one between is not."""
    return not weights.numel() or bool(torch.stack(weights.detach().aminmax()).isfinite().all())
