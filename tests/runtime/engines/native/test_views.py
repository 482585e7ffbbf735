"""View operations against one dense masked forward of the same trace (design, section 7).

`Mirror` re-states the contract of `Branch` in the plainest way: every token ever written is a row of one global list,
and each row lists what it sees. `dense_logits` then computes all rows at once, without cache, blocks or segments.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait.attention import int8
from plait.attention.reference import rotate
from plait.runtime.engine import SamplingParams
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.model import Model
from plait.runtime.engines.native.options import NativeOptions
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.engines.native.parscale import ParScale, parscale


@dataclass(frozen=True)
class Seen:
    """One key that a row sees: the row that wrote it, moved by `shift`, in the group of one `attach`."""

    row: int
    shift: int = 0
    group: tuple[int, float, float] | None = None  # (which attach, temperature, scale)


@dataclass
class Part:
    """What `Branch.watch` points at: the rows a branch wrote since its view last changed."""

    rows: list[int] = field(default_factory=list)


@dataclass
class Row:
    token: int
    position: int
    attached: list[Seen]
    live: list[tuple[Part, int]]
    sees: list[Seen] | None = None  # None until computed; itself not included


class Mirror:
    """The trace, told without segments."""

    def __init__(self, ranges: Sequence[torch.Tensor] | None = None) -> None:
        """`ranges`: of the keys of each layer, if these and values are rounded to 8 bits when they are written."""
        self.rows: list[Row] = []
        self.attached = 0
        self.ranges = ranges

    def compute(self, *branches: MirrorBranch) -> None:
        """What one forward pass computes: all pending rows of the branches, seeing each other live."""
        pending = [(row, b) for b in branches for row in b.pending()]
        now = {row for row, _ in pending}
        for row, b in pending:
            before = [s for s in b.text if s.row != row][: [s.row for s in b.text].index(row)]
            written = self.rows[row]
            live = [
                Seen(r, shift)
                for part, shift in written.live
                for r in part.rows
                if self.rows[r].sees is not None or r in now
            ]
            written.sees = before + written.attached + live
            now.add(row)


class MirrorBranch:
    def __init__(self, mirror: Mirror, parent: MirrorBranch | None = None) -> None:
        self.mirror = mirror
        self.parent = parent
        self.text: list[Seen] = list(parent.text) if parent else []
        self.attached: list[Seen] = list(parent.attached) if parent else []
        self.live: list[tuple[Part, int]] = list(parent.live) if parent else []
        self.when: list[tuple[int, int, int]] = list(parent.when) if parent else []
        """(tokens of text, attached, live) whenever something was attached or watched, before it was."""
        self.base = len(self.text)
        self.position: int = parent.position if parent else 0
        self.part = Part()

    def pending(self) -> list[int]:
        return [s.row for s in self.text if self.mirror.rows[s.row].sees is None]

    def extend(self, tokens: list[int]) -> None:
        for token in tokens:
            self.mirror.rows.append(Row(token, self.position, list(self.attached), list(self.live)))
            self.text.append(Seen(len(self.mirror.rows) - 1))
            self.part.rows.append(len(self.mirror.rows) - 1)
            self.position += 1

    def freeze(self) -> None:
        if self.part.rows:
            self.part = Part()

    def contribution(self) -> list[Seen]:
        self.freeze()
        return self.text[self.base :]

    def merge(self, branches: list[MirrorBranch]) -> None:
        self.freeze()
        for b in branches:
            self.text += b.contribution()
            self.position = max(self.position, b.position)

    def attach(self, branches: list[MirrorBranch], temperature: float, scale: float) -> None:
        self.freeze()
        self.when.append((len(self.text), len(self.attached), len(self.live)))
        self.mirror.attached += 1
        group = (self.mirror.attached, temperature, scale)
        for b in branches:
            self.attached += [Seen(s.row, s.shift, group) for s in b.contribution()]
            self.position = max(self.position, b.position)

    def watch(self, other: MirrorBranch, shift: int) -> None:
        self.freeze()
        self.when.append((len(self.text), len(self.attached), len(self.live)))
        self.live.append((other.part, shift))

    def rewind(self, length: int, *, is_watched: bool) -> None:
        """What was attached or watched after the first token that goes, goes too."""
        if length == len(self.text):
            return
        self.position = self.mirror.rows[self.text[length].row].position
        while self.when and self.when[-1][0] > length:
            _, attached, live = self.when.pop()
            del self.attached[attached:], self.live[live:]
        before = len(self.text) - len(self.part.rows)
        if length >= before:
            del self.part.rows[length - before :]  # who watches sees them go
        if length < before or is_watched or self.live:
            self.part = Part()
        del self.text[length:]
        self.base = min(self.base, length)


def dense_logits(hf_model, mirror: Mirror) -> torch.Tensor:
    """(rows, V) float32 logits of every row of the trace in one forward pass over all of them."""
    if isinstance(hf_model, ParScale):
        lanes = range(hf_model.count)
        return hf_model.output(torch.stack([dense_hidden(hf_model.base, mirror, hf_model.prefixes(p)) for p in lanes]))
    logits = hf_model.lm_head(dense_hidden(hf_model, mirror))
    cap = getattr(hf_model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def dense_hidden(hf_model, mirror: Mirror, prefixes: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()) -> torch.Tensor:
    """(rows, C) after the final norm. `prefixes`: of each layer keys and values (K, T, D) that all rows see as they are
    where they stand themselves."""
    config, weights = hf_model.config, hf_model.model
    n = len(mirror.rows)
    position = torch.tensor([row.position for row in mirror.rows])
    groups = {(0, 1.0, 1.0): 0}
    seen = [
        (i, s.row, s.shift, groups.setdefault(s.group or (0, 1.0, 1.0), len(groups)))
        for i, row in enumerate(mirror.rows)
        for s in [*(row.sees or []), Seen(i)]
    ]
    *pair, shifts, numbers = torch.tensor(seen).T
    visible = torch.zeros(n, n, dtype=torch.bool).index_put(tuple(pair), torch.tensor(True))
    shift, group = (torch.zeros(n, n, dtype=torch.long).index_put(tuple(pair), x) for x in (shifts, numbers))
    temperature = torch.tensor([t for _, t, _ in groups])[group]
    factor = {i: s * t for i, (_, t, s) in enumerate(groups)}
    # Only the difference of positions enters: the rotation of the query to the key's frame, and windows.
    distance = position[:, None] - position[None, :] - shift
    if prefixes:  # A query that is turned for its position meets keys that are not, as if they stood at 0.
        more = prefixes[0][0].shape[1]
        distance = torch.cat([distance, position[:, None].expand(n, more)], 1)
        visible, group, temperature = (
            torch.cat([part, torch.full((n, more), value, dtype=part.dtype)], 1)
            for part, value in ((visible, True), (group, 0), (temperature, 1.0))
        )
    x = weights.embed_tokens(torch.tensor([row.token for row in mirror.rows]))
    for number, layer in enumerate(weights.layers):
        h = layer.input_layernorm(x) if hasattr(layer, "input_layernorm") else x
        written = None if mirror.ranges is None else (position, mirror.ranges[number])
        scores, v = _scores(hf_model, number, h, distance, prefixes[number] if prefixes else None, written)
        scores = scores / temperature
        window = _window(config, number)
        in_window = visible if window is None else visible & (distance < window)
        outs, weightings = [], []
        for index, f in factor.items():
            masked = scores.masked_fill(~(in_window & (group == index)), -torch.inf)
            lse = masked.logsumexp(-1, keepdim=True)
            outs.append(torch.einsum("hij,jhd->hid", (masked - lse).exp().nan_to_num(0.0), v))
            weightings.append(torch.where(lse.isinf(), lse, f * lse))
        weight = torch.cat(weightings, -1).softmax(-1)
        out = torch.stack([weight[..., i : i + 1] * o for i, o in enumerate(outs)]).sum(0)
        out = layer.self_attn.o_proj(out.transpose(0, 1).reshape(n, -1))
        if hasattr(layer, "post_feedforward_layernorm"):
            x = x + layer.post_attention_layernorm(out)
            h = layer.pre_feedforward_layernorm(x) if hasattr(layer, "pre_feedforward_layernorm") else x
            x = x + layer.post_feedforward_layernorm(layer.mlp(h))
        else:
            x = x + out
            x = x + layer.mlp(layer.post_attention_layernorm(x)[None])[0]
    return weights.norm(x)


def _window(config, number: int) -> int | None:
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    return window if kinds is None or kinds[number] == "sliding_attention" else None


def _scores(
    hf_model,
    number: int,
    h: torch.Tensor,
    distance: torch.Tensor,
    prefix: tuple[torch.Tensor, torch.Tensor] | None,
    written: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (H, n, keys) of all rows with all keys at these distances, and values (keys, H, D): those of all rows,
    then those of the prefix. `written`: where the keys stand when they are rounded to 8 bits, and their ranges."""
    config, attention = hf_model.config, hf_model.model.layers[number].self_attn
    n, size = len(h), attention.head_dim
    widths = [config.num_attention_heads * size] + [config.num_key_value_heads * size] * 2
    if hasattr(attention, "qkv_proj"):
        q, k, v = attention.qkv_proj(h).split(widths, -1)
    else:
        q, k, v = attention.q_proj(h), attention.k_proj(h), attention.v_proj(h)
    headwise = hasattr(attention, "q_norm") and attention.q_norm.weight.numel() == size
    if hasattr(attention, "q_norm") and not headwise:
        q, k = attention.q_norm(q), attention.k_norm(k)
    q, k, v = (part.view(n, -1, size) for part in (q, k, v))
    if headwise:
        q, k = attention.q_norm(q), attention.k_norm(k)
    rotary = hf_model.model.rotary_emb
    kind = "" if hasattr(rotary, "inv_freq") else f"{config.layer_types[number]}_"
    inv_freq, scaling = getattr(rotary, f"{kind}inv_freq"), getattr(rotary, f"{kind}attention_scaling")
    if not getattr(attention, "use_rope", True):
        inv_freq, scaling = inv_freq[:0], 1.0
    half = len(inv_freq)
    if written is not None:
        position, ranges = written
        angles = (position[:, None] * inv_freq.double())[:, None]
        k = rotate(_rounded(rotate(k.double(), angles) / ranges) * ranges, -angles).float()
        v = _rounded(v)
        if prefix is not None:
            prefix = _rounded(prefix[0] / ranges[:, None]) * ranges[:, None], _rounded(prefix[1])
    if prefix is not None:
        k, v = (torch.cat([part, more.transpose(0, 1)]) for part, more in zip((k, v), prefix, strict=True))
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
    delta = distance[..., None] * inv_freq
    cos, sin = torch.cat([delta, delta], -1).cos(), torch.cat([delta, delta], -1).sin()
    turned = torch.cat([-q[..., half : 2 * half], q[..., :half]], -1)
    rotated = torch.einsum("ihd,ijd,jhd->hij", q[..., : 2 * half], cos, k[..., : 2 * half])
    rotated = rotated + torch.einsum("ihd,ijd,jhd->hij", turned, sin, k[..., : 2 * half])
    scores = scaling**2 * rotated + torch.einsum("ihd,jhd->hij", q[..., 2 * half :], k[..., 2 * half :])
    scores = scores * attention.scaling
    cap = getattr(config, "attn_logit_softcapping", None)
    return scores if cap is None else cap * torch.tanh(scores / cap), v


def _rounded(x: torch.Tensor) -> torch.Tensor:
    integers, scales = int8.quantise(x)
    return (integers * scales).to(x.dtype)


_PARTIAL = {"rope_type": "default", "partial_rotary_factor": 0.75}
_YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 128}
_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {}),
    "llama-yarn": ("llama", {"rope_parameters": _YARN}),
    "mistral-window": ("mistral", {"sliding_window": 24}),
    "qwen2-window": ("qwen2", {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3_moe": ("qwen3_moe", {}),
    "smollm3": ("smollm3", {}),
    "olmo2": ("olmo2", {}),
    "phi3-partial": ("phi3", {"rope_parameters": _PARTIAL, "sliding_window": 40}),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3", {}),
}
_MODELS: dict[str, tuple[Any, Path]] = {
    "parscale": parscale(2, prefix=20, vocab_size=61),
    **{case: tiny(family, vocab_size=61, **overrides) for case, (family, overrides) in _CASES.items()},
}
_LOADED = {case: load_model(folder) for case, (_, folder) in _MODELS.items()}


class Twin:
    """A branch of the engine and its mirror, operated together."""

    def __init__(self, real, mirror: MirrorBranch) -> None:
        self.real, self.mirror = real, mirror

    def fork(self, n: int) -> list[Twin]:
        self.mirror.freeze()
        return [Twin(real, MirrorBranch(self.mirror.mirror, self.mirror)) for real in self.real.fork(n)]


async def decode(engine: NativeEngine, *twins: Twin) -> list[tuple[int, torch.Tensor]]:
    """One forward pass for all of them: (row in the trace, its logits) each; the sampled token stays, pending."""
    with engine.lock:  # so that all are in the same step
        generations = [t.real.generate(SamplingParams(max_tokens=1)) for t in twins]
    results = await asyncio.gather(*generations)
    twins[0].mirror.mirror.compute(*(t.mirror for t in twins))
    out = []
    for twin, result in zip(twins, results, strict=True):
        out.append((twin.mirror.text[-1].row, twin.real.logits))
        twin.mirror.extend(result.token_ids)
        assert twin.real.position == twin.mirror.position
        assert twin.real.tokens == [twin.mirror.mirror.rows[s.row].token for s in twin.mirror.text]
    return out


async def run_program(
    case: str, program: list[tuple[int, ...]], *, model: Model | None = None, tolerance: float = 1e-4, **options
) -> None:
    model = model or _LOADED[case]
    mirror = Mirror(model.key_ranges if options.get("kv_dtype") == "int8" else None)
    chosen = NativeOptions(kv_tokens=8192, keep_logits=True, **options)
    engine = NativeEngine(model, IdTokenizer(61), chosen)
    await engine.start()
    checks: list[tuple[int, torch.Tensor]] = []
    root = Twin(engine.open(), MirrorBranch(mirror))
    alive = [root]

    def extend(twin: Twin, seed: int) -> None:
        tokens = [(seed * 7 + 3 * i) % 61 for i in range(1 + seed % 23)]
        twin.real.extend(tokens)
        twin.mirror.extend(tokens)

    extend(root, 40)
    try:
        for op, a, b, c in program:
            twin = alive[a % len(alive)]
            if twin.real.position > 400:
                break
            if op == 0:
                extend(twin, b)
                checks += await decode(engine, twin)
            elif op == 1:  # fork; sometimes the pending token is still pending in all of them
                children = twin.fork(1 + b % 3)
                alive += children
                if c % 2:
                    for i, child in enumerate(children):
                        extend(child, b + i)
                    checks += await decode(engine, *children)
            elif op in (2, 3):  # Process: children write side by side, nested once; then merge or attach
                children = twin.fork(1 + b % 3)
                for i, child in enumerate(children):
                    extend(child, c + i)
                checks += await decode(engine, *children)
                if c % 3 == 0:
                    inner = children[0].fork(2)
                    for i, child in enumerate(inner):
                        extend(child, c + 5 * i + 1)
                    checks += await decode(engine, *inner)
                    mirror.compute(*(t.mirror for t in inner))
                    children[0].real.merge([t.real for t in inner])
                    children[0].mirror.merge([t.mirror for t in inner])
                    for t in inner:
                        t.real.close()
                    extend(children[0], b)
                    if c % 2:
                        checks += await decode(engine, children[0])
                # Pending tokens of the children are computed under the children's views, not under the parent's.
                mirror.compute(*(t.mirror for t in children))
                reals, mirrors = [t.real for t in children], [t.mirror for t in children]
                if op == 2:
                    twin.real.merge(reals)
                    twin.mirror.merge(mirrors)
                else:
                    temperature, scale = [(1.0, 1.0), (0.5, 0.8), (0.9, 0.9)][b % 3]
                    twin.real.attach(reals, temperature=temperature, scale=scale)
                    twin.mirror.attach(mirrors, temperature, scale)
                for t in children:
                    t.real.close()
                extend(twin, b + 1)
                checks += await decode(engine, twin)
            elif op == 4:  # rewind to anywhere
                length = (b * 61 + c) % (len(twin.mirror.text) + 1)
                twin.real.rewind(length)
                is_watched = any(part is twin.mirror.part for t in alive for part, _ in t.mirror.live)
                twin.mirror.rewind(length, is_watched=is_watched)
                extend(twin, c)
                checks += await decode(engine, twin)
            elif op == 5:  # workers that watch each other, in lock step
                workers = twin.fork(2)
                for me, other in (workers, workers[::-1]):
                    me.real.watch(other.real, shift=b % 5)
                    me.mirror.watch(other.mirror, b % 5)
                for i, worker in enumerate(workers):
                    extend(worker, c + i)
                for _ in range(1 + c % 3):
                    checks += await decode(engine, *workers)
                if c % 2:
                    extend(workers[0], b)
                    checks += await decode(engine, workers[0])
                alive += workers
            elif op == 7:  # contexts, some of them encoded before, some at once and some after the fact
                texts = [[(b + 3 * i + 5 * j) % 61 for j in range(1 + (b * c + 7 * i) % 19)] for i in range(1 + b % 4)]
                temperature, scale = [(1.0, 1.0), (0.5, 0.8), (0.9, 0.9)][c % 3]
                encoded = [MirrorBranch(mirror, twin.mirror) for _ in texts]
                twin.mirror.freeze()
                mirror.compute(twin.mirror)
                for context, text in zip(encoded, texts, strict=True):
                    context.extend(text)
                    mirror.compute(context)
                twin.real.attach_contexts(texts, temperature=temperature, scale=scale)
                twin.mirror.attach(encoded, temperature, scale)
                extend(twin, b + 1)
                checks += await decode(engine, twin)
            elif op == 6 and len(alive) > 1 and twin is not root:
                alive.remove(twin)
                twin.real.close()
            engine.store.check_integrity()
        with torch.no_grad():
            expected = dense_logits(_MODELS[case][0], mirror)
        for row, logits in checks:
            torch.testing.assert_close(logits, expected[row], atol=tolerance, rtol=tolerance)
    finally:
        await engine.close()
    engine.store.check_integrity()
    assert engine.block_usage().used == 0


_ops = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 20), st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=8
)


@pytest.mark.parametrize("case", _MODELS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=_ops, chunk=st.sampled_from([512, 512, 7]))
def test_views_equal_one_dense_masked_forward(case, program, chunk):
    if chunk == 7 and any(op == 5 for op, *_ in program):
        chunk = 512  # with live views, what a row sees depends on the step it falls into
    asyncio.run(run_program(case, program, prefill_chunk=chunk))


@pytest.mark.parametrize(("impl", "tolerance"), [("torch", 0.02), ("auto", 0.15)])
@pytest.mark.parametrize("case", ["llama", "llama-yarn", "mistral-window", "parscale"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=_ops)
def test_views_in_8_bits_equal_a_dense_forward_that_rounds_so(case, impl, tolerance, program):
    """A number may be rounded the other way; the compiled kernels may round queries and weights to bfloat16, too."""
    asyncio.run(run_program(case, program, model=_loaded(case, impl), tolerance=tolerance, kv_dtype="int8"))


@functools.cache
def _loaded(case, impl):
    return load_model(_MODELS[case][1], impl=impl)


@pytest.mark.parametrize("case", _MODELS)
def test_the_dense_forward_equals_transformers_on_plain_text(case):
    hf_model = _MODELS[case][0]
    mirror = Mirror()
    branch = MirrorBranch(mirror)
    branch.extend([(5 * i) % 61 for i in range(50)])
    mirror.compute(branch)
    with torch.no_grad():
        expected = hf_model(torch.tensor([[row.token for row in mirror.rows]])).logits[0]
        torch.testing.assert_close(dense_logits(hf_model, mirror), expected, atol=1e-4, rtol=1e-4)
