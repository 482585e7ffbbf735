"""API keys: who may use the server, and how much of it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from ..errors import InvalidInput
from .problems import Refused


@dataclass(slots=True, kw_only=True)
class Client:
    """Whoever holds one key."""

    name: str
    max_jobs: int
    """Running and waiting at the same time."""
    tokens: int | None = None
    """Spent tokens while the server runs; None: no limit."""
    spent: int = 0
    reserved: int = 0
    """Tokens that its running jobs may still spend."""
    jobs: int = 0

    @property
    def left(self) -> int | None:
        return None if self.tokens is None else max(self.tokens - self.spent - self.reserved, 0)

    def reserve(self, wanted: Sequence[int | None], width: int = 1) -> list[int | None]:
        """Set aside what each of some jobs can spend at most (None: any number); None for each: no limit. Where less is
        left, and no other job could give some back, each gets an equal share at most: one that is less than a token for
        each of its `width` branches would give nothing but empty texts. Raises `Refused`."""
        if self.tokens is None or (left := self.left) is None:
            return [None for _ in wanted]
        most = [self.tokens if tokens is None else tokens for tokens in wanted]
        if sum(most) > left or not left:
            if self.reserved:
                message = f"{left} tokens of this key are left beside those that its running jobs may spend: try later"
                raise Refused(429, message, code="rate_limit_exceeded", retry=1)
            share = left // len(wanted)
            if share < width:
                message = f"the token budget of this key is used up: {left} are left for {width * len(wanted)} texts"
                raise Refused(429, message, code="insufficient_quota")
            most = [min(tokens, share) for tokens in most]
        self.reserved += sum(most)
        return list(most)


class Keys:
    """Clients by their keys, which are kept as digests; without any, all callers are one client."""

    def __init__(self, lines: Iterable[str] = (), *, max_jobs: int = 16) -> None:
        """Lines `NAME KEY [jobs=N] [tokens=N]`, empty ones apart and what follows a word that begins with `#`. Raises
        `InvalidInput`."""
        self._clients: list[tuple[bytes, Client]] = []
        for number, line in enumerate(lines, 1):
            if words := list(takewhile(lambda word: not word.startswith("#"), line.split())):
                self._add(number, words, max_jobs)
        self._anyone = None if self._clients else Client(name="anyone", max_jobs=max_jobs)

    @property
    def is_open(self) -> bool:
        """Does the server ask for no key?"""
        return self._anyone is not None

    def find(self, authorization: str | None) -> Client:
        """The client of an `Authorization: Bearer KEY` header, each character of which is a byte. Raises `Refused`."""
        if self._anyone is not None:
            return self._anyone
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip(" \t")
        if scheme.lower() != "bearer" or not key:
            raise Refused(401, "no API key: send the header `Authorization: Bearer KEY`", code="missing_api_key")
        digest, found = _digest(key.encode("latin-1", "replace")), None
        # All are compared, so that the time does not tell which came near.
        for known, client in self._clients:
            if hmac.compare_digest(known, digest):
                found = client
        if found is None:
            raise Refused(401, "this API key is not known", code="invalid_api_key")
        return found

    def _add(self, number: int, words: list[str], max_jobs: int) -> None:
        if len(words) < 2:
            raise InvalidInput(f"keys, line {number}: it should be NAME KEY [jobs=N] [tokens=N]")
        name, key, *rest = words
        limits: dict[str, int] = {}
        for word in rest:
            field, _, value = word.partition("=")
            is_number = value.isdecimal() and len(value) < 19 and int(value) > 0
            if field not in ("jobs", "tokens") or field in limits or not is_number:
                raise InvalidInput(f"keys, line {number}: {word!r} should be jobs=N or tokens=N")
            limits[field] = int(value)
        if any(client.name == name for _, client in self._clients):
            raise InvalidInput(f"keys, line {number}: there are two keys of {name!r}")
        digest = _digest(key.encode("utf-8", "surrogateescape"))
        if any(known == digest for known, _ in self._clients):
            raise InvalidInput(f"keys, line {number}: the key of {name!r} is another's")
        client = Client(name=name, max_jobs=limits.get("jobs", max_jobs), tokens=limits.get("tokens"))
        self._clients.append((digest, client))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
