"""`PRM`: a process reward model on an engine of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ...runtime.engine import Engine
from ...runtime.engines.model_digest import model_digest
from ...runtime.engines.registry import find_model
from ...runtime.errors import InvalidInput, UnsupportedByEngine
from ...runtime.plain import read_object
from .base import Reward, Scorer
from .frames import PUBLISHED, Frame, Plain, Published, check_tag

if TYPE_CHECKING:
    from ...runtime.jobs.context import Context
    from ...runtime.tokenizer import Tokenizer
    from .head import Head

MARK = "prm.json"
"""File in a model's folder that tells its `format`, or its words `good` and `bad` and its `tag`."""

_TEXTS = ("format", "good", "bad", "tag")

Format = Literal["auto", "plain", "math_shepherd", "rlhflow", "qwen", "skywork", "llemma"]


class PRM(Reward):
    """A Hugging Face process reward model: a causal language model that tells good steps from bad by two words, or a
    classifier. See `head.load_head`."""

    shorthand = "model"

    reward: Literal["prm"] = "prm"
    """The kind's name."""
    model: str = Field(min_length=1)
    """As for `Runtime`: a shipped model, a folder, a GGUF file or a model of the hub."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of its engine, as for `Runtime`: `{"device": "cuda", "kv_tokens": 65536}`."""
    format: Format = "auto"
    """How it reads a question and steps: `math_shepherd`, `rlhflow`, `qwen` (Qwen2.5-Math-PRM), `skywork`, `llemma`;
    `plain`: as the policy wrote them, with `tag`. `auto`: what its folder's `prm.json` says, else its architecture or
    its name; a language model that nothing marks as a reward model is refused, unless `good` and `bad` are given."""
    good: str | None = None
    """What a language model would write behind a good step; one token. None: the format's own."""
    bad: str | None = None
    """What a language model would write behind a bad step; one token."""
    tag: str = ""
    """`plain`: text put behind every step; the score is read at its last token. Empty: at the step's own last token,
    which is EOS for a step that the policy ended with it."""

    def check(self, engine: Engine) -> None:
        from ...runtime.engines.native.gguf_tokenizer import load_tokenizer
        from ...runtime.engines.native.options import read_options

        try:
            read_options(self.options)
        except InvalidInput as error:  # the runtime's own have the same names
            raise InvalidInput(f"reward model {self.model}: {error}") from None
        path = find_model(self.model).path
        self._load(path, load_tokenizer(path))

    def inputs(self) -> dict[str, Any]:
        return {"model": model_digest(self.model)}

    async def open(self, ctx: Context, question: str) -> Scorer:
        from .head import has_own_head
        from .tree import TreeScorer

        path = find_model(self.model).path
        options: dict[str, Any] = {"headless": True} if has_own_head(path) else {}
        engine = await ctx.companion(self.model, **{**self.options, **options})
        if not engine.capabilities.hidden_states:
            raise UnsupportedByEngine(f"{engine.name} gives no hidden states to score steps by; the native engine does")
        frame, head = self._load(path, engine.tokenizer)
        return TreeScorer.of(ctx, engine, frame, head, question)

    def _load(self, path: Path, tokenizer: Tokenizer) -> tuple[Frame, Head]:
        from .head import has_own_head, load_head

        form = self._form(path)
        if form.tag:
            check_tag(tokenizer, form.tag)
        good, bad = self.good or form.good, self.bad or form.bad
        if not has_own_head(path) and not (good and bad):
            raise InvalidInput(
                f"{self.model} is a language model that nothing marks as a reward model: give its format "
                f"({', '.join(PUBLISHED)}), or `good` and `bad`, the words by which it tells good steps from bad; any "
                "chat model can be the reward 'judge'"
            )
        form.frame.head(tokenizer, "q")  # the chat template is there, if it is needed
        return form.frame, load_head(path, tokenizer, good, bad, form.head)

    def _form(self, path: Path) -> Published:
        """What the format is, words left empty where nobody has told them. Raises `InvalidInput`."""
        from .head import architectures

        mark = _mark(path) if self.format == "auto" else {}
        name = str(mark.get("format", self.format))
        if name == "auto" and not (self.good or self.bad or self.tag or mark):
            named = [n for n, p in PUBLISHED.items() if any(part in self.model.lower() for part in p.names)]
            built = [
                n
                for n, p in PUBLISHED.items()
                if p.architecture and any(a.endswith(p.architecture) for a in architectures(path))
            ]
            name = (built or named or ["plain"])[0]
        if name in PUBLISHED:
            return PUBLISHED[name]
        if name not in ("auto", "plain"):
            raise InvalidInput(f"{path / MARK}: unknown format {name!r}; known: plain, {', '.join(PUBLISHED)}")
        tag = self.tag or str(mark.get("tag", ""))
        return Published(frame=Plain(tag), good=str(mark.get("good", "")), bad=str(mark.get("bad", "")))


def _mark(path: Path) -> dict[str, Any]:
    """What the model's folder says of it. Raises `InvalidInput`."""
    file = path / MARK
    try:
        data = read_object(file)
    except FileNotFoundError:
        return {}
    for name, value in data.items():
        if name in _TEXTS and not isinstance(value, str):
            raise InvalidInput(f"{file}: {name} must be a text, not {value!r}")
    return data
