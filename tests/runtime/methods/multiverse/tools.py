"""Structures to play: what a model that was trained on Multiverse would write, and engines that make it write that."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import strategies as st

from plait import Capabilities, ScriptedEngine
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.scripted import CharTokenizer
from plait.runtime.methods.multiverse.dialects import MULTIVERSE, Dialect
from plait.tests.data import SHARED

MERGES = Capabilities(kv_merge=True, logprobs=True)


@dataclass
class Par:
    """A block: paths by index, each a list of texts and blocks."""

    paths: dict[str, list[Any]]
    conclusion: str = "so"

    @property
    def goal(self) -> str:
        return self.goal_in(MULTIVERSE)

    def goal_in(self, dialect: Dialect) -> str:
        if not dialect.plan:
            return f"<{dialect.block}>"
        line = "\n" if dialect is MULTIVERSE else ""
        item = dialect.item
        outlines = "".join(f"<{item}>{line}{index}: plan {index}{line}</{item}>\n" for index in self.paths)
        around = f"<{dialect.block}>\n" if dialect.block else ""
        return f"{around}<{dialect.plan}>\n{outlines}</{dialect.plan}>"

    def ending_in(self, dialect: Dialect) -> str:
        return {
            "multiverse": f"{self.conclusion}\n</Conclusion>\n</Parallel>\n",
            "npr": f"{self.conclusion}\n</takeaway>\n\n",
            "threadweaver": "</Parallel>\n",
            "parallel_r1": f"{self.conclusion}</Summary>\n",
        }[dialect.name]


def render(items: list[Any], dialect: Dialect = MULTIVERSE) -> str:
    """Canonical text of texts and blocks."""
    out = ""
    closing = dialect.close(dialect.path) + dialect.tail
    for item in items:
        if isinstance(item, str):
            out += item
        else:
            paths = "".join(dialect.open_path(i) + render(body, dialect) + closing for i, body in item.paths.items())
            out += item.goal_in(dialect) + dialect.gap + paths + dialect.join + item.ending_in(dialect)
    return out


class Play:
    """A script for `ScriptedEngine`: given what a branch sees, what comes next. Paths that see the same take turns."""

    def __init__(self, items: list[Any], prompt: str = "Q", dialect: Dialect = MULTIVERSE) -> None:
        self.calls: dict[str, str] = {}
        self.dialect = dialect
        self.turns: dict[str, list[str]] = {}
        self._walk(prompt, items, "")

    def _walk(self, at: str, items: list[Any], end: str) -> str:
        """All the text that stands behind `at` when the items are written."""
        begin, pending = len(at), ""
        for item in items:
            if isinstance(item, str):
                pending += item
                continue
            dialect = self.dialect
            self.calls[at] = pending + item.goal_in(dialect)
            view = at + self.calls[at] + dialect.gap
            heads = {index: dialect.open_path(index) for index in item.paths}
            close = dialect.close(dialect.path)
            paths = [head + self._walk(view + head, item.paths[i], close) + dialect.tail for i, head in heads.items()]
            at, pending = view + "".join(paths) + dialect.join, item.ending_in(dialect)
        self.calls[at] = pending + end
        self.turns.setdefault(at, []).append(self.calls[at])
        return at[begin:] + self.calls[at]

    def __call__(self, context: str) -> str:
        if len(self.turns.get(context, ())) > 1:
            return self.turns[context].pop(0)
        if context in self.calls:
            return self.calls[context]
        known = [at for at, text in self.calls.items() if (at + text).startswith(context)]
        assert known, f"nobody expected {context!r}"
        at = max(known, key=len)
        return (at + self.calls[at])[len(context) :]


def loose(model):
    """As the model, and something short where it is asked what it did not expect."""

    def write(context):
        try:
            return model(context)
        except AssertionError:
            return "short"

    return write


class TagTokenizer(CharTokenizer):
    """One token per printable ASCII character, newline and tag; EOS is 0."""

    bos_id = None
    prefix_ids = ()
    eos_ids = (0,)
    vocab_size = 131

    def __init__(self, dialect: Dialect = MULTIVERSE) -> None:
        tags = dialect.tags
        self._pieces = ["</s>", "\n", *map(chr, range(32, 127)), *tags]
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}
        self._pattern = re.compile("|".join(map(re.escape, tags)) + r"|</s>|[\s\S]")

    def encode_continuation(self, before: Sequence[int], text: str) -> list[int]:
        return [self._ids[piece] for piece in self._pattern.findall(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self._pieces[t] if t < len(self._pieces) else "?" for t in token_ids)


def scripted(items, *, merges=True, tokenizer=None, **options) -> ScriptedEngine:
    script = Play(items) if isinstance(items, list) else items
    capabilities = MERGES if merges else None
    return ScriptedEngine(script, tokenizer=tokenizer or TagTokenizer(), capabilities=capabilities, **options)


class PlayedEngine(NativeEngine):
    """The native engine, forced to write what a script says: real KV under a scripted text."""

    def __init__(self, model, script, *, dialect: Dialect = MULTIVERSE, **options) -> None:
        options.setdefault("kv_tokens", 16384)
        super().__init__(model, TagTokenizer(dialect), NativeOptions(**options))
        self.script = script

    def open(self, *args, **kwargs):
        return _Played(self, super().open(*args, **kwargs))


class _Played:
    def __init__(self, engine, branch) -> None:
        self.engine, self.branch = engine, branch

    def __getattr__(self, name):
        return getattr(self.branch, name)

    def generate(self, params):
        tokenizer = self.engine.tokenizer
        forced = tokenizer.encode(self.engine.script(tokenizer.decode(self.branch.tokens)))
        return self.branch.generate(replace(params, forced=(*forced, *tokenizer.eos_ids)))

    def fork(self, n):
        return [_Played(self.engine, branch) for branch in self.branch.fork(n)]

    def merge(self, branches):
        self.branch.merge([branch.branch for branch in branches])


def structures(depth: int = 2) -> st.SearchStrategy[list[Any]]:
    """Texts and blocks, nested up to `depth`; every text is different, so that every context is."""
    return st.integers(0, 2**32 - 1).map(lambda seed: _structure(seed, depth))


def _structure(seed: int, depth: int) -> list[Any]:
    rng = random.Random(seed)
    count = iter(range(10_000))

    def text() -> str:
        return f" t{next(count)} " + "ab c,"[: rng.randrange(6)]

    def body(level: int, parent: str) -> list[Any]:
        items: list[Any] = [text()]
        for _ in range(rng.choice([0, 1, 1, 2]) if level else rng.choice([1, 1, 2])):
            if level < depth and rng.random() < (0.9 if level == 0 else 0.4):
                names = [f"{parent}{i}" for i in range(1, 1 + rng.choice([1, 2, 2, 3]))]
                paths = {name: body(level + 1, f"{name}.") for name in names}
                items += [f"\n{text()}\n", Par(paths, text().strip()), text()]
        return items

    return ["<Think>\n", *body(0, ""), "\n</Think>\n\nAnswer: 7"]


def examples() -> list[str]:
    """The published texts; skips the test where they are not."""
    file = SHARED / "multiverse_examples.jsonl"
    if not file.is_file():
        pytest.skip("no multiverse_examples.jsonl")
    return [json.loads(line)["text"] for line in file.read_text().splitlines()]
