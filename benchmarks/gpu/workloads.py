"""Views to attend over, as the methods make them: one table, from shapes to plans and tensors on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...attention import AttentionPlan, Group
from ...attention.plan import Int64

BLOCK = 64
Entry = tuple[int, int, int, int, int, int, int, int]
"""A line of `AttentionPlan.entries`."""
Kind = Literal["decode", "tree", "shifted", "grouped", "prefill"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """Who sees what, and how large the heads are."""

    name: str
    kind: Kind
    lengths: tuple[int, ...]
    """Tokens of each run."""
    rows: int
    entries: tuple[Entry, ...]
    groups: tuple[Group, ...] = (Group(),)
    theta: float | None = None
    """Of RoPE; None: nothing is shifted."""
    bar: float | None = None
    """Least share of the floor."""
    heads: int = 32
    kv_heads: int = 8
    size: int = 128
    dtype: torch.dtype = torch.bfloat16

    @cached_property
    def tables(self) -> tuple[np.ndarray, ...]:
        """Blocks of each run, in no order, as a store that has been in use for a while gives them."""
        counts = [-(-length // BLOCK) for length in self.lengths]
        blocks = np.random.default_rng(0).permutation(sum(counts)).astype(np.int32)
        return tuple(np.split(blocks, np.cumsum(counts)[:-1]))

    def plan(self, *, is_flat: bool = False) -> AttentionPlan:
        """`is_flat`: each entry names a run of its own, so that nothing says that several see the same one."""
        entries = np.array(self.entries, dtype=np.int32)
        tables: Sequence[np.ndarray] = self.tables
        if is_flat:
            tables = [self.tables[entry[2]] for entry in self.entries]
            entries[:, 2] = np.arange(len(entries))
        return AttentionPlan(
            num_rows=self.rows,
            run_blocks=np.concatenate(tables),
            run_start=np.cumsum([0, *map(len, tables)]).astype(np.int32),
            entries=entries,
            groups=self.groups,
        )

    @cached_property
    def lines(self) -> Int64:
        """See `AttentionPlan.row_entries`."""
        return self.plan().row_entries()

    def part(self, rows: Sequence[int]) -> AttentionPlan:
        """Some of the rows, in this order, each by itself."""
        plan, lines = self.plan(), self.lines
        entries = [
            (new, 1, run, begin, end, 0, shift, group)
            for new, row in enumerate(rows)
            for _, run, begin, end, shift, group in lines[lines[:, 0] == row].tolist()
        ]
        return replace(plan, num_rows=len(rows), entries=np.array(entries, dtype=np.int32))

    def tensors(self, device: torch.device, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """q, k_pool and v_pool of random numbers."""
        generator = torch.Generator(device).manual_seed(seed)
        blocks = sum(map(len, self.tables))

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, device=device, dtype=self.dtype, generator=generator)

        return (
            random(self.rows, self.heads, self.size),
            random(blocks, self.kv_heads, self.size, BLOCK),
            random(blocks, self.kv_heads, BLOCK, self.size),
        )

    def inv_freq(self, device: torch.device) -> Tensor | None:
        if self.theta is None:
            return None
        return self.theta ** (-torch.arange(0, self.size, 2, device=device, dtype=torch.float32) / self.size)

    @property
    def num_bytes(self) -> int:
        """Keys and values that are seen, once each, and queries and outputs."""
        tokens = sum(self.lengths)
        numbers = 2 * tokens * self.kv_heads * self.size + 2 * self.rows * self.heads * self.size
        return numbers * self.dtype.itemsize

    @property
    def flops(self) -> int:
        """Of the two matrix products, over the keys that each row sees."""
        seen = int((self.lines[:, 3] - self.lines[:, 2]).sum())
        return 4 * self.heads * self.size * seen


def decode(name: str, branches: int, prefix: int, own: int, bar: float | None = None) -> Workload:
    """Each branch sees the prefix, if any, and its own tokens."""
    shared = 1 if prefix else 0
    entries: list[Entry] = []
    for i in range(branches):
        if prefix:
            entries.append((i, 1, 0, 0, prefix, 0, 0, 0))
        entries.append((i, 1, shared + i, 0, own, 1, 0, 0))
    return Workload(
        name=name, kind="decode", lengths=(*(prefix for _ in range(shared)), *(own for _ in range(branches))),
        rows=branches, entries=tuple(entries), bar=bar,
    )  # fmt: skip


def tree(name: str, leaves: int, spans: int, longest: int, bar: float | None = None) -> Workload:
    """A tree of `spans` runs of 16 to `longest` tokens; each row sees the path from the root to one of the leaves."""
    random = np.random.default_rng(7)
    inner = spans - leaves
    # Often the node before, so that there are chains, as of a branch that forks now and then.
    chained = random.random(inner) < 0.65
    parents = [-1, *(node - 1 if chained[node] else int(random.integers(node)) for node in range(1, inner))]
    childless = sorted(set(range(inner)) - set(parents))
    assert len(childless) <= leaves, "too few leaves for this tree"
    parents += [*childless, *(int(random.integers(inner)) for _ in range(leaves - len(childless)))]
    lengths = tuple(int(length) for length in random.integers(16, longest + 1, size=spans))
    entries: list[Entry] = []
    for row, leaf in enumerate(range(inner, spans)):
        path = [leaf]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        entries += [(row, 1, node, 0, lengths[node], int(node == leaf), 0, 0) for node in reversed(path)]
    return Workload(name=name, kind="tree", lengths=lengths, rows=leaves, entries=tuple(entries), bar=bar)


def workers(name: str, count: int, length: int, bar: float | None = None) -> Workload:
    """Hogwild!: each worker sees the others' segments one behind the other, and then its own. All were written behind
    all others, so each is moved back."""
    entries: list[Entry] = []
    for row in range(count):
        others = [run for run in range(count) if run != row]
        entries += [(row, 1, run, 0, length, 0, (i - count + 1) * length, 0) for i, run in enumerate(others)]
        entries.append((row, 1, row, 0, length, 1, 0, 0))
    return Workload(
        name=name, kind="shifted", lengths=(length,) * count, rows=count, entries=tuple(entries), theta=1e6, bar=bar
    )


def contexts(name: str, count: int, length: int, rows: int, own: int, bar: float | None = None) -> Workload:
    """APE: each of `rows` branches sees all contexts as one group, and its own tokens."""
    entries: list[Entry] = [(0, rows, run, 0, length, 0, 0, 1) for run in range(count)]
    entries += [(row, 1, count + row, 0, own, 1, 0, 0) for row in range(rows)]
    return Workload(
        name=name, kind="grouped", lengths=(*(length for _ in range(count)), *(own for _ in range(rows))), rows=rows,
        entries=tuple(entries), groups=(Group(), Group(temperature=0.9, factor=0.81)), bar=bar,
    )  # fmt: skip


def prefill(name: str, sequences: int, tokens: int, behind: int) -> Workload:
    """The last `tokens` of each sequence at once, behind a run of `behind` tokens that all share."""
    shared = 1 if behind else 0
    entries: list[Entry] = []
    for i in range(sequences):
        if behind:
            entries.append((i * tokens, tokens, 0, 0, behind, 0, 0, 0))
        entries.append((i * tokens, tokens, shared + i, 0, tokens, 1, 0, 0))
    return Workload(
        name=name, kind="prefill", lengths=(*(behind for _ in range(shared)), *(tokens for _ in range(sequences))),
        rows=sequences * tokens, entries=tuple(entries),
    )  # fmt: skip


FULL = (
    decode("64 branches over 16k shared, 512 own", 64, 16384, 512, 0.75),
    decode("64 branches over 1k shared, 512 own", 64, 1024, 512),
    decode("16 branches over 128 shared, 128 own", 16, 128, 128),
    decode("64 branches of 1.5k, nothing shared", 64, 0, 1536),
    decode("8 branches of 32k, nothing shared", 8, 0, 32768),
    decode("1 branch of 16k", 1, 0, 16384),
    tree("tree: 256 branches, 1,000 spans", 256, 1000, 512, 0.6),
    workers("Hogwild!: 8 workers x 8k, all shifted", 8, 8192, 0.6),
    contexts("APE: 64 contexts x 2k, 1 row", 64, 2048, 1, 64, 0.6),
    contexts("APE: 64 contexts x 2k, 8 rows", 64, 2048, 8, 64, 0.6),
    prefill("prefill of 4,096", 1, 4096, 0),
    prefill("prefill of 2 x 4,096 over 16k shared", 2, 4096, 16384),
    prefill("chunk of 512 over 8k", 1, 512, 8192),
)
TINY = tuple(
    replace(workload, heads=4, kv_heads=2, size=32)
    for workload in (
        decode("64 branches over 16k shared, 512 own", 4, 96, 20, 0.75),
        decode("64 branches of 1.5k, nothing shared", 4, 0, 40),
        tree("tree: 256 branches, 1,000 spans", 8, 24, 40, 0.6),
        workers("Hogwild!: 8 workers x 8k, all shifted", 3, 40, 0.6),
        contexts("APE: 64 contexts x 2k, 8 rows", 5, 40, 2, 17, 0.6),
        prefill("prefill of 2 x 4,096 over 16k shared", 2, 32, 48),
    )
)
"""The same in tiny, for a dry run."""
