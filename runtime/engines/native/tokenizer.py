"""`HFTokenizer`: the tokenizer of a model folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import jinja2
import tokenizers

from ...errors import InvalidInput
from .chat_roles import render_whole, with_known_roles
from .chat_templates import read_templates
from .continuation import encode_continuation
from .patience import within
from .special_tokens import NAMES, add_special_tokens, optional_json
from .spelling import token_bytes
from .tokenizer_classes import as_transformers_has_it, default_tokens

TOOL_MARKS = ("<tool_call>", "</tool_call>")
"""Around calls as Qwen2.5's, Qwen3's and Hermes' templates have them."""
TEMPLATE_SECONDS = 3.0
"""For one chat through the chat template, which takes milliseconds."""
_TRIED = 300
"""Tokens that are looked for a text that has one: there may be one for each byte in front."""
_LONG = 4096
"""Characters of a text whose encoding takes milliseconds."""

_RENDERED = frozenset(
    "conversations messages tools documents chat_template return_assistant_tokens_mask continue_final_message "
    "add_generation_prompt".split()
)


def check_template_kwargs(value: object) -> None:
    """Raise `InvalidInput` if these are no variables for a chat template, or some that it is given anyway."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in value):
        raise InvalidInput(f"chat_template_kwargs must be names and values, not {str(value)[:200]}")
    if given := sorted(_RENDERED.union(NAMES).intersection(value)):
        raise InvalidInput(f"chat_template_kwargs: {given[0]} is not for options to say")


class HFTokenizer:
    """A `Tokenizer` from tokenizer.json and the JSON files beside it."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        bos_id: int | None = None,
        eos_ids: Sequence[int] = (),
        chat_template: str | None = None,
        tool_template: str | None = None,
        special: Mapping[str, str] | None = None,
        additional: Sequence[str] = (),
    ) -> None:
        """`tool_template`: for chats with tools, where they have one of their own; `special` holds what a template may
        ask for by name: bos_token, eos_token, ...; `additional`: the texts of special tokens without a name."""
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._bos_id = bos_id
        self._eos_ids = tuple(eos_ids)
        self._template = chat_template
        self._tool_template = chat_template if tool_template is None else tool_template
        self._special = dict(special or {})
        self._additional = tuple(additional)
        self._prefix_ids = _prefix(tokenizer)
        self._byte_ids = _byte_tokens(tokenizer)
        self.chat_template_kwargs: Mapping[str, Any] = {}
        """Variables for the chat template beyond the messages."""
        # Prompts are encoded to be checked, and again to be run.
        self._encode_long = lru_cache(maxsize=16)(self._encode_apart)

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
        own = optional_json(folder / "tokenizer_config.json")
        model_type = optional_json(folder / "config.json").get("model_type")
        as_transformers_has_it(tokenizer, own, model_type)
        special = add_special_tokens(tokenizer, folder, {**default_tokens(tokenizer, own, model_type), **own})
        templates = read_templates(folder, own)

        def ids(kind: str) -> list[int]:
            for name in ("generation_config.json", "config.json"):
                found = optional_json(folder / name).get(f"{kind}_token_id")
                if found is not None:
                    return _ids(found, f"{folder / name}: {kind}_token_id")
            found = tokenizer.token_to_id(special.named.get(f"{kind}_token", ""))
            return [] if found is None else [found]

        return cls(
            tokenizer,
            bos_id=tokenizer.token_to_id(special.named.get("bos_token", "")),
            eos_ids=ids("eos"),
            chat_template=templates.get("default"),
            tool_template=templates.get("tool_use"),
            special=special.named,
            additional=special.additional,
        )

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """What splits texts into tokens, without templates and names."""
        return self._tokenizer

    @property
    def special_ids(self) -> dict[str, int]:
        """Special tokens by their names (`eos_token`), the others by their texts."""
        named = {**self._special, **{text: text for text in self._additional}}
        found = {name: self._tokenizer.token_to_id(text) for name, text in named.items()}
        return {name: token for name, token in found.items() if token is not None}

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

    def check_fits(self, size: int, source: str) -> None:
        """Raise `InvalidInput` if texts would become ids that a model of `size` tokens has not. Added tokens may be
        beyond it, as those for images are in models of texts alone, or a BOS that no text begins with."""
        plain = self._tokenizer.get_vocab_size(with_added_tokens=False)
        ends = [*self._eos_ids, *self._prefix_ids]
        if plain > size:
            raise InvalidInput(
                f"{source}: the tokenizer has {plain} tokens and the model {size}: it is another model's"
            )
        if ends and max(ends) >= size:
            raise InvalidInput(f"{source}: token id {max(ends)} (BOS or EOS) is outside the vocabulary of {size}")

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What the tokenizer's post-processor puts in front; what it would put behind is left out."""
        return self._prefix_ids

    @property
    def byte_ids(self) -> frozenset[int]:
        return self._byte_ids

    def token_bytes(self) -> list[tuple[bytes, bool]]:
        """What each token spells in a text, and whether it is a special one, which is no text (its name, then)."""
        return token_bytes(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        ids, prefix = self._encode_whole(text), list(self._prefix_ids)
        return ids if ids[: len(prefix)] == prefix else prefix + ids

    def encode_continuation(self, before: Sequence[int], text: str) -> list[int]:
        if before and tuple(before) == self._prefix_ids:
            return self._encode(text)[0]  # the beginning of a text
        return encode_continuation(self._encode, self.decode, before, text)

    def _encode_whole(self, text: str) -> list[int]:
        return self._encode(text)[0] if len(text) < _LONG else list(self._encode_long(text))

    def _encode_apart(self, text: str) -> tuple[int, ...]:
        # A batch, though of one, lets other threads run meanwhile.
        with _unknown_refused():
            return tuple(self._tokenizer.encode_batch([text], add_special_tokens=False)[0].ids)

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids without special tokens that are not in the text, and the characters each stands for."""
        with _unknown_refused():
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, token_ids: Sequence[int]) -> str:
        """Bytes that are not UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)

    @property
    def tool_marks(self) -> tuple[str, str] | None:
        template = self._tool_template or ""
        return TOOL_MARKS if "tools" in template and all(mark in template for mark in TOOL_MARKS) else None

    def chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Token ids of `chat_text`; raises as it does."""
        return self._encode_whole(self.chat_text(messages, tools))

    def chat_text(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The chat template with the generation prompt, as transformers renders it. What a developer says is the
        system's to a template that does not know the role.

        Raises `InvalidInput` when there is no template, when it is not valid, when it refuses the messages, or when it
        leaves one out that is neither the user's nor the assistant's.
        """
        template = self._tool_template if tools else self._template
        if template is None:
            raise InvalidInput("this model's tokenizer has no chat template; pass text or token ids (chat=false)")
        # A second of imports, for chats alone.
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            options: dict[str, Any] = {**self.chat_template_kwargs, "add_generation_prompt": True, **self._special}
            chat = with_known_roles(messages, template)
            if tools:
                options["tools"] = [dict(tool) for tool in tools]

            def render(chat: list[dict[str, Any]]) -> str:
                rendered: Any = render_jinja_template([chat], chat_template=template, **options)
                return str(rendered[0][0])

            text, left_out = within(TEMPLATE_SECONDS, lambda: render_whole(chat, render))
        except TimeoutError:
            raise InvalidInput(f"the chat template takes more than {TEMPLATE_SECONDS} s for these messages") from None
        except jinja2.TemplateSyntaxError as error:
            raise InvalidInput(f"the chat template is not valid: {error}") from error
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError,
                RecursionError) as error:  # fmt: skip
            raise InvalidInput(f"the chat template rejects these messages: {error}") from error
        if left_out is not None:
            role = messages[left_out].get("role")
            raise InvalidInput(f"the chat template leaves out message {left_out}, whose role is {role!r}")
        return text


def _ids(value: Any, where: str) -> list[int]:
    """One token id or several."""
    ids = value if isinstance(value, list) else [value]
    for token in ids:
        if type(token) is not int or token < 0:
            raise InvalidInput(f"{where} must hold token ids, not {token!r}")
    return ids


@contextmanager
def _unknown_refused() -> Iterator[None]:
    """Raise `InvalidInput` for a text that the tokenizer has no token for, nor one for what is unknown."""
    try:
        yield
    except Exception as error:  # the library raises bare Exception
        raise InvalidInput(f"the tokenizer cannot read a text: {error}") from error


def _prefix(tokenizer: tokenizers.Tokenizer) -> tuple[int, ...]:
    """The special tokens that the post-processor puts in front of a text."""
    for text in _texts(tokenizer):
        try:
            encoding = tokenizer.encode(text, add_special_tokens=True)
        except Exception:  # the library raises bare Exception: there is no token for it
            continue
        count = len(list(takewhile(bool, encoding.special_tokens_mask)))
        if count < len(encoding.ids):
            return tuple(encoding.ids[:count])
    return ()


def _texts(tokenizer: tokenizers.Tokenizer) -> Iterator[str]:
    """Some that the tokenizer may have tokens for: a small vocabulary has no "a"."""
    yield "a"
    for id in sorted(tokenizer.get_vocab(with_added_tokens=False).values())[:_TRIED]:
        yield tokenizer.decode([id])


def _byte_tokens(tokenizer: tokenizers.Tokenizer) -> frozenset[int]:
    """Ids of `<0x00>` to `<0xFF>`, if the decoder takes them for bytes."""
    decoder = tokenizer.decoder
    if decoder is None or b"ByteFallback" not in decoder.__getstate__():
        return frozenset()
    ids = (tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
    return frozenset(id for id in ids if id is not None)
