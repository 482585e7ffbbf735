"""Hogwild! runs in which the workers say what they are told to, on a tiny random model."""

from __future__ import annotations

from plait import Budget, Hogwild, Result, Runtime
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.methods.hogwild.oracle import ToyTokenizer

NAMES = ("A", "B")
TOKENIZER = ToyTokenizer()


class Other(ToyTokenizer):
    """Other pieces in place of some, for what those of `TOKENIZER` cannot write."""

    def __init__(self, changes: dict[str, str] | None = None) -> None:
        """`changes`: a piece and what stands in its place; by default mathematics in place of three capitals."""
        super().__init__()
        for old, new in (changes or {"Q": "{", "X": "}", "Z": "\\"}).items():
            self.pieces[self.pieces.index(old)] = new


_, _FOLDER = tiny(vocab_size=TOKENIZER.vocab_size, max_position_embeddings=4096)
_MODEL = load_model(_FOLDER)


def said(*parts: str) -> list[int]:
    """Tokens of each part, encoded on its own."""
    return [token for part in parts for token in TOKENIZER.encode(part)]


def job(script: dict[str, list[int]], *, passes: int | None = None, **fields) -> Hogwild:
    """Workers that begin with `script`; as many passes as the shorter one has tokens."""
    values = {
        "prompt": TOKENIZER.encode("task. "),
        "workers": NAMES,
        "openers": tuple(f"**{name} [1]:** go " for name in NAMES),
        "resume": script,
        "max_tokens": passes or min(map(len, script.values())),
        "self_check_every": None,
        "check_repeats": False,
        "ban_impersonation": False,
        "conclusion": None,
        "answer": "regex:never",
        **fields,
    }
    return Hogwild(**values)


async def play(
    method: Hogwild,
    *,
    eos_ids: tuple[int, ...] = (),
    tokenizer: ToyTokenizer | None = None,
    width: int | None = None,
) -> Result:
    tokenizer = tokenizer or ToyTokenizer()
    tokenizer.eos_ids = eos_ids
    native = NativeEngine(_MODEL, tokenizer, NativeOptions(kv_tokens=4096))
    async with Runtime(engine=native) as runtime:
        result = await (await runtime.submit(method, budget=Budget(width=width)))
        assert native.block_usage().used == 0
        native.store.check_integrity()
    return result
