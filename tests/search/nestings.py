"""Methods inside methods, as hypothesis draws them, and models that write what they are steered by."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any, ClassVar

from hypothesis import strategies as st

from plait import APR, Hogwild, Multiverse, ScriptedEngine, SelfConsistency, Sequential
from plait.runtime.engines.scripted import WordTokenizer
from plait.runtime.methods.apr.dialect import Child, Joined, Spawn, register_dialect
from plait.runtime.methods.base import Method
from plait.search.tree_search import TreeSearch
from plait.tests.runtime.methods.hogwild.oracle import ToyTokenizer

SPAWN = "!go "
FORK = (
    "<Parallel>\n<Goal>\n<Outline>\n1: up\n</Outline>\n<Outline>\n2: down\n</Outline>\n</Goal>",
    "</Path>",
    "</Conclusion>\n</Parallel>",
)


class Calls:
    """A dialect of spawn and join in which a mark spawns two children, who are told the end of what was said."""

    name = "test_calls"
    spawn_end = SPAWN
    reserved: ClassVar[dict[str, str]] = {"(joined": ""}

    def spawn(self, context: str, level: int) -> Spawn | None:
        if not context.endswith(SPAWN):
            return None
        keep = len(context) - len(SPAWN)
        told = context[max(0, keep - 6) : keep]
        return Spawn(keep=keep, children=tuple(Child(label=who, prompt=f"{who} {told}") for who in ("x", "y")))

    def join(self, joined: Sequence[Joined], level: int) -> str:
        return "".join(f"(joined {one.child.label}: {(one.result or '-')[-8:]})" for one in joined)

    def join_short(self, joined: Sequence[Joined], level: int) -> str:
        return "()"

    def result(self, context: str) -> str | None:
        return context[-4:] or None

    def verify(self, child: Child, result: str) -> bool:
        return True


register_dialect(Calls.name, Calls)


class MarksTokenizer(ToyTokenizer):
    """Has what methods are steered by as pieces, and often, so that random weights write it."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces += [*FORK, "(joined ", SPAWN, ";", "<Path>\n1:", "<Conclusion>\n"]
        self.pieces += [SPAWN] * 6 + [";"] * 6 + [FORK[0]] * 6 + [FORK[1]] * 8 + [FORK[2]] * 8
        self.eos_ids = (len(self.pieces), len(self.pieces) + 1, len(self.pieces) + 2)
        self.pieces += [""] * 3
        self.vocab_size = len(self.pieces)


def scripted() -> ScriptedEngine:
    """An engine whose text follows from the context alone."""

    def script(context: str) -> str:
        rng = random.Random(hashlib.sha256(context.encode()).digest())
        words = [*"abc ;;", SPAWN, *FORK, *FORK[1:], "so.\n\n"]
        return " ".join(rng.choice(words) for _ in range(rng.randint(0, 12)))

    return ScriptedEngine(script, tokenizer=WordTokenizer(), name="toy", context_limit=400)


def by_length(prompt: str, steps: Sequence[str]) -> float:
    """A reward that needs no model."""
    return 1 / (1 + len(steps[-1]))


_sampled = {"temperature": st.sampled_from([0.0, 1.5]), "max_tokens": st.integers(1, 40)}
_prompts = st.sampled_from(["a", "what ", "so.\n\nno"])


def _made(cls: type[Method], **fields: Any) -> st.SearchStrategy[Method]:
    return st.builds(cls, prompt=_prompts, **{**_sampled, **fields})


def leaves(live: bool) -> st.SearchStrategy[Method]:
    """Methods that hold none. `live`: those too that need live views."""
    kinds = [
        _made(Sequential, stop=st.sampled_from([(), (";",)])),
        _made(Multiverse, max_tokens=st.integers(20, 60), conclusion=st.sampled_from([None, "="]),
              conclusion_tokens=st.just(3)),
    ]  # fmt: skip
    if live:
        kinds.append(
            _made(
                Hogwild, workers=st.sampled_from([("A", "B"), ("A", "B", "C")]), rules=st.just(False),
                max_tokens=st.integers(1, 12), answer=st.just("text"), conclusion=st.sampled_from([None, "="]),
                conclusion_tokens=st.just(3), layout=st.sampled_from(["combined", "interleaved", "contiguous"]),
            )
        )  # fmt: skip
    return st.one_of(kinds)


def _around(inner: st.SearchStrategy[Method]) -> st.SearchStrategy[Method]:
    return st.one_of(
        _made(SelfConsistency, n=st.integers(1, 3), generator=inner),
        _made(APR, dialect=st.just(Calls.name), generator=inner, max_rounds=st.just(2), reserve=st.just(8)),
        _made(
            TreeSearch, generator=inner, width=st.integers(1, 3), strategy=st.sampled_from(["rebase", "beam"]),
            reward=st.just(by_length), delimiters=st.just((";",)), max_depth=st.integers(1, 2),
            step_tokens=st.integers(4, 24), merge=st.booleans(),
        ),
    )  # fmt: skip


def nestings(*, live: bool) -> st.SearchStrategy[Method]:
    """Two or three methods, one in another."""
    inner = leaves(live)
    return st.one_of(_around(inner), _around(_around(inner)))
