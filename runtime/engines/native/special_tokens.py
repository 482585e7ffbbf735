"""The special tokens of a model folder: those of tokenizer.json, and those that only the files beside it name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from ...errors import InvalidInput
from ...plain import read_object

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MORE = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Their texts."""

    named: Mapping[str, str]
    """By what a chat template calls them."""
    additional: Sequence[str]
    """Those without a name."""


def add_special_tokens(tokenizer: tokenizers.Tokenizer, folder: Path, own: Mapping[str, Any]) -> SpecialTokens:
    """Give the tokenizer what tokenizer.json lacks, in transformers' order, which decides the ids: the tokens of
    tokenizer_config.json (`own`) and, where that lists none with their ids, of the files that older models have.

    Raises `InvalidInput` for what is no token.
    """
    older = {} if "added_tokens_decoder" in own else optional_json(folder / "special_tokens_map.json")
    names, additional = _beyond(own, older)
    named = {name: older.get(name, own.get(name)) for name in NAMES} | names
    special = {name: token for name, value in named.items() if (token := _token(value, name)).content}
    unnamed = [token for value in additional if (token := _token(value, _MORE[0])).content]
    texts = {token.content for token in special.values()}

    if "added_tokens_decoder" in own:
        listed = _decoder(own["added_tokens_decoder"])
    else:
        listed = _older(optional_json(folder / "added_tokens.json"), texts.union(token.content for token in unnamed))
        listed |= tokenizer.get_added_tokens_decoder()
    tokens = [listed[id] for id in sorted(listed)]
    known = {token.content for token in (*tokens, *tokenizer.get_added_tokens_decoder().values())}
    for token in (*special.values(), *unnamed):
        if token.content not in known and token not in tokens:
            tokens.append(token)
    for token in tokens:
        token.special = token.special or token.content in texts
    tokenizer.add_tokens(tokens)  # a token that is there takes the flags; one of the vocabulary is no longer split
    return SpecialTokens(
        {name: token.content for name, token in special.items()}, tuple(token.content for token in unnamed)
    )


def optional_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        return read_object(path)
    except FileNotFoundError:
        return {}


def _beyond(own: Mapping[str, Any], older: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Special tokens beyond `NAMES`: by names of their own, and without one."""
    names = {
        name: value
        for data in (older, own)
        for name, value in data.items()
        if name.endswith("_token") and name not in NAMES and isinstance(value, str)
    }
    places = [data.get(key) for data in (own, older) for key in _MORE]
    for place in places:
        if not isinstance(place, dict | list | None):
            raise InvalidInput(f"tokenizer_config.json: {' or '.join(_MORE)} must be a list, not {place!r}")
    extra, additional, older_extra, older_additional = places
    if extra:
        additional = additional if isinstance(extra, dict) else None
    elif additional is not None:
        extra, additional = additional, None
    for place in (additional, extra, older_extra):
        names |= place if isinstance(place, dict) else {}
    if isinstance(extra, list) or isinstance(older_extra, list):
        lists = [extra, older_extra]
    else:
        lists = [additional if older_additional is None else older_additional]
    return names, [token for place in lists if isinstance(place, list) for token in place]


def _token(value: Any, name: str) -> AddedToken:
    """From its text, or an object that holds the text and flags; None: an empty one."""
    fields = value if isinstance(value, dict) else {"content": value or ""}
    text = fields.get("content", "")
    if not isinstance(text, str):
        raise InvalidInput(f"tokenizer_config.json: {name}: a special token is a text, not {text!r}")
    try:
        return AddedToken(text, **{"special": True, **{flag: fields[flag] for flag in _FLAGS if flag in fields}})
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"tokenizer_config.json: {name}: {error}") from None


def _decoder(listed: Any) -> dict[int, AddedToken]:
    try:
        return {
            int(id): _token({"special": False, **token}, f"added_tokens_decoder {id}") for id, token in listed.items()
        }
    except (AttributeError, TypeError, ValueError):
        raise InvalidInput("tokenizer_config.json: added_tokens_decoder must hold tokens by their ids") from None


def _older(ids: Mapping[str, Any], special: set[str]) -> dict[int, AddedToken]:
    """From added_tokens.json."""
    if not all(type(id) is int for id in ids.values()):
        raise InvalidInput("added_tokens.json must hold ids of tokens")
    flags = {text: {"special": text in special, "normalized": text not in special} for text in ids}
    return {id: _token({"content": text, **flags[text]}, "added_tokens.json") for text, id in ids.items()}
