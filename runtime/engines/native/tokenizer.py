"""`HFTokenizer`: the tokenizer of a model folder; `IncrementalDecoder`: its text, token by token."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
import tokenizers

from ...engine import Tokenizer
from ...errors import InvalidInput

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_UNDECODED = "\ufffd"


class HFTokenizer:
    """A `Tokenizer` from tokenizer.json and the JSON files beside it."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        bos_id: int | None = None,
        eos_ids: Sequence[int] = (),
        chat_template: str | None = None,
        special: Mapping[str, str] | None = None,
    ) -> None:
        """`special` holds what a template may ask for by name: bos_token, eos_token, pad_token, unk_token.

        Raises `InvalidInput` when the template does not compile.
        """
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._bos_id = bos_id
        self._eos_ids = tuple(eos_ids)
        self._template = None if chat_template is None else _compile(chat_template)
        self._special = dict(special or {})

    @classmethod
    def load(cls, path: str | Path) -> HFTokenizer:
        """From a model folder; raises `InvalidInput` when tokenizer.json is missing or a file is damaged.

        End-of-sequence ids are those of generation_config.json, else of config.json, else the tokenizer's own, as
        transformers' `generate` has it.
        """
        folder = Path(path)
        if not (folder / "tokenizer.json").is_file():
            raise InvalidInput(f"{folder} holds no tokenizer.json")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception
            raise InvalidInput(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
        own = _optional_json(folder / "tokenizer_config.json")
        special = {name: text for name in _SPECIAL if (text := _text(own.get(name)))}

        def ids(kind: str) -> list[int]:
            for name in ("generation_config.json", "config.json"):
                found = _optional_json(folder / name).get(f"{kind}_token_id")
                if found is not None:
                    return list(found) if isinstance(found, list) else [found]
            found = tokenizer.token_to_id(special.get(f"{kind}_token", ""))
            return [] if found is None else [found]

        return cls(
            tokenizer,
            bos_id=next(iter(ids("bos")), None),
            eos_ids=ids("eos"),
            chat_template=_template(folder, own),
            special=special,
        )

    @property
    def bos_id(self) -> int | None:
        return self._bos_id

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return self._eos_ids

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; the model's logits may be padded beyond it."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids; none are added, but the text of a special token becomes that token."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text, special tokens included; bytes that are not UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of the chat template with the generation prompt.

        Raises `InvalidInput` when there is no template or the template refuses the messages.
        """
        if self._template is None:
            raise InvalidInput("this model's tokenizer has no chat template; pass text or token ids")
        try:
            text = self._template.render(messages=list(messages), add_generation_prompt=True, **self._special)
        except jinja2.TemplateError as error:
            raise InvalidInput(f"the chat template rejects these messages: {error}") from error
        return self.encode(text)


class IncrementalDecoder:
    """Text of a growing token sequence, in pieces that never hold half a character.

    All pieces of `push` and the last one of `flush` joined are `decode` of the whole sequence.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        """The tokens of the last two completed pieces and those since: enough for what a decoder makes of a token to
        depend on its neighbours (a leading space that only the first token loses)."""
        self._last_piece = 0
        """Where in the window the last completed piece begins."""
        self._emitted = 0
        """Characters of the window's text that were returned."""

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        piece = text.rstrip(_UNDECODED)[self._emitted :]
        if piece and not text.endswith(_UNDECODED):
            del self._window[: self._last_piece]
            self._last_piece = len(self._window)
            self._emitted = len(self._tokenizer.decode(self._window))
        else:
            self._emitted += len(piece)
        return piece

    def flush(self) -> str:
        """What was held back: an incomplete character, as U+FFFD. Call it once, at the end."""
        return self._tokenizer.decode(self._window)[self._emitted :]


def _optional_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InvalidInput(f"{path} is not valid JSON: {error}") from error
    return data if isinstance(data, dict) else {}


def _text(token: Any) -> str | None:
    """A special token of tokenizer_config.json: its text, or an object that holds the text."""
    return token.get("content") if isinstance(token, dict) else token


def _template(folder: Path, own: Mapping[str, Any]) -> str | None:
    """The chat template: from a file of its own, or one (of several) in tokenizer_config.json."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    source = own.get("chat_template")
    if isinstance(source, list):
        source = next((t["template"] for t in source if t["name"] == "default"), None)
    return source


def _compile(source: str) -> jinja2.Template:
    """With what templates written for transformers expect to find."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise InvalidInput(f"the chat template is not valid: {error}") from error


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Unlike jinja2's own, without escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
