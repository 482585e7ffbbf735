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
from plait.runtime.methods.multiverse.grammar import TAGS
from plait.tests.data import SHARED

MERGES = Capabilities(kv_merge=True, logprobs=True)


@dataclass
class Par:
    """A block: paths by index, each a list of texts and blocks."""

    paths: dict[str, list[Any]]
    conclusion: str = "so"

    @property
    def goal(self) -> str:
        outlines = "".join(f"<Outline>\n{index}: plan {index}\n</Outline>\n" for index in self.paths)
        return f"<Parallel>\n<Goal>\n{outlines}</Goal>"

    @property
    def ending(self) -> str:
        return f"{self.conclusion}\n</Conclusion>\n</Parallel>\n"


def render(items: list[Any]) -> str:
    """Canonical text of texts and blocks."""
    out = ""
    for item in items:
        if isinstance(item, str):
            out += item
        else:
            paths = "".join(f"<Path>\n{i}:{render(body)}\n</Path>\n" for i, body in item.paths.items())
            out += f"{item.goal}\n{paths}<Conclusion>\n{item.ending}"
    return out


class Play:
    """A script for `ScriptedEngine`: given what a branch sees, what comes next."""

    def __init__(self, items: list[Any], prompt: str = "Q") -> None:
        self.calls: dict[str, str] = {}
        self._walk(prompt, items, "")

    def _walk(self, at: str, items: list[Any], end: str) -> str:
        """All the text that stands behind `at` when the items are written."""
        begin, pending = len(at), ""
        for item in items:
            if isinstance(item, str):
                pending += item
                continue
            self.calls[at] = pending + item.goal
            view = at + self.calls[at] + "\n"
            heads = {index: f"<Path>\n{index}:" for index in item.paths}
            paths = [head + self._walk(view + head, item.paths[i], "\n</Path>") + "\n" for i, head in heads.items()]
            at, pending = view + "".join(paths) + "<Conclusion>\n", item.ending
        self.calls[at] = pending + end
        return at[begin:] + self.calls[at]

    def __call__(self, context: str) -> str:
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

    def __init__(self) -> None:
        self._pieces = ["</s>", "\n", *map(chr, range(32, 127)), *TAGS]
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}
        self._pattern = re.compile("|".join(map(re.escape, TAGS)) + r"|</s>|[\s\S]")

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

    def __init__(self, model, script, **options) -> None:
        options.setdefault("kv_tokens", 16384)
        super().__init__(model, TagTokenizer(), NativeOptions(**options))
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
