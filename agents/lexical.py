"""Which files and functions an issue is about, by its words alone: what is left when no model has said so."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TypeVar

from .definitions import definitions, parse
from .edits.base import Excerpt
from .edits.lines import split
from .outline import functions

K = TypeVar("K", str, int)

_STOP = frozenset(
    "a about after all also an and any are as at be been but by can could did do does doing e for from g get given has "
    "have how i if in is it its just like me more my no not of on one only or other our should so some than that the "
    "their them then there these they thing this to try trying up use used using was we were what when where which "
    "while will with work would you your def class self cls return import none true false else elif raise except "
    "pass lambda yield assert del with async await str int".split()
)
_SYMBOL = re.compile(r"`([^`\n]+)`|\b(_*[A-Za-z]\w*_\w+|[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+|[A-Za-z_]\w*(?=\())")


def rank_files(issue: str, files: Mapping[str, str]) -> list[str]:
    """All paths, best first.

    Words shared with the issue count as in BM25, in the text, in names of definitions and in the path each; so do
    definitions that the issue writes as code. Files that the issue or a traceback in it names come first of all. Ties
    go by path.
    """
    query, symbols = _query(issue), _symbols(issue)
    defined = {path: _defined(path, text) for path, text in files.items()}
    scores = _sum(
        (1.0, _bm25(query, {path: _words(text) for path, text in files.items()})),
        (1.0, _bm25(query, {path: _words(" ".join(names)) for path, names in defined.items()})),
        (1.0, _bm25(query, {path: _words(str(PurePosixPath(path).with_suffix(""))) for path in files})),
        (0.5, _bm25(symbols, {path: Counter(name.strip("_") for name in names) for path, names in defined.items()})),
    )
    named = {path for path in files if _is_named(path, issue)}
    return sorted(files, key=lambda path: (path not in named, -scores[path], path))


def rank_functions(issue: str, files: Mapping[str, str], paths: Iterable[str]) -> list[Excerpt]:
    """The functions and methods in some of the files, best first.

    Words count as in `rank_files`; besides, that the function is the constructor of a class that the issue names, takes
    an argument it names, or raises an error it names. Ties go by path and line.
    """
    found = [one for path in dict.fromkeys(paths) for one in functions(path, files[path])]
    names = [(one.name or "").split(".") for one in found]
    query, symbols = _query(issue), _symbols(issue)
    scores = _sum(
        (1.0, _bm25(query, {number: _words(one.text) for number, one in enumerate(found)})),
        (1.0, _bm25(query, {number: _words(" ".join(parts)) for number, parts in enumerate(names)})),
        (0.5, _bm25(symbols, {number: Counter([parts[-1].strip("_")]) for number, parts in enumerate(names)})),
    )
    most = max(scores.values(), default=0.0)
    # A class is written large within a sentence, too.
    classes = {name.removesuffix("s") for name in re.findall(r"(?<![.!?\n])[ `(]([A-Z]\w+)", issue)}
    for number, one in enumerate(found):
        *owners, name = names[number]
        points = 0.5 * (name == "__init__" and bool(owners) and owners[-1].removesuffix("s") in classes)
        arguments = set(re.findall(r"\w+", one.text.partition("(")[2].partition(":\n")[0]))
        points += 0.1 * sum(1 for argument in arguments if argument in query)
        points += 0.2 * sum(1 for error in set(re.findall(r"raise (\w+)", one.text)) if error in issue)
        scores[number] += points * most
    order = sorted(scores, key=lambda number: (-scores[number], found[number].path, found[number].first_line))
    return [found[number] for number in order]


@lru_cache(maxsize=100_000)
def _parts(name: str) -> tuple[str, ...]:
    """An identifier whole and in parts, in small letters and without a plural's `s`."""
    parts = [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)]
    parts = parts if len(parts) < 2 else [*parts, name.strip("_").lower()]
    return tuple(part[:-1] if len(part) > 3 and part[-1] == "s" and part[-2] != "s" else part for part in parts)


def _words(text: str) -> Counter[str]:
    words: Counter[str] = Counter()
    for name, count in Counter(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text)).items():
        for part in _parts(name):
            words[part] += count
    return words


def _symbols(issue: str) -> Counter[str]:
    """Identifiers that the issue writes as code."""
    found = [code or name for code, name in _SYMBOL.findall(issue)]
    return Counter({name.strip("_"): 1 for text in found for name in re.findall(r"\w+", text)})


def _query(issue: str) -> Counter[str]:
    """Words of the issue and their weights: those of its first line and those written as code count twice."""
    query = _words(issue) + _words(issue.strip().partition("\n")[0]) + _words(" ".join(_symbols(issue)))
    return Counter({word: count for word, count in query.items() if word not in _STOP and len(word) > 1})


def _defined(path: str, text: str) -> list[str]:
    """Names of the functions and classes of a file."""
    tree = parse(text) if path.endswith((".py", ".pyi")) else None
    return [one.node.name for one in definitions(tree, split(text))] if tree is not None else []


def _sum(*parts: tuple[float, dict[K, float]]) -> dict[K, float]:
    return {key: sum(weight * scores[key] for weight, scores in parts) for key in parts[0][1]}


def _bm25(query: Mapping[str, int], documents: Mapping[K, Counter[str]]) -> dict[K, float]:
    """Weights as in Robertson and Zaragoza (2009), k1 = 1.5 and b = 0.75; a word counts by the square root of how often
    it is asked for."""
    sizes = {key: sum(words.values()) for key, words in documents.items()}
    mean = sum(sizes.values()) / max(len(sizes), 1) or 1.0
    scores = dict.fromkeys(documents, 0.0)
    for word, asked in query.items():
        holding = [key for key, words in documents.items() if word in words]
        rarity = math.log(1 + (len(documents) - len(holding) + 0.5) / (len(holding) + 0.5))
        for key in holding:
            count = documents[key][word]
            size = 0.25 + 0.75 * sizes[key] / mean
            scores[key] += math.sqrt(asked) * rarity * count * 2.5 / (count + 1.5 * size)
    return scores


def _is_named(path: str, issue: str) -> bool:
    """Whether the issue holds the path, from its end, as a traceback or a person writes it, or the module's name."""
    parts = PurePosixPath(path).parts
    tail = "/".join(parts[-2:])
    if re.search(rf"(?<![\w.-]){re.escape(path)}(?![\w-])|(?<=/){re.escape(tail)}(?![\w-])", issue):
        return True
    module = ".".join(PurePosixPath(*parts[1:] if parts[0] in ("src", "lib") else parts).with_suffix("").parts)
    return module.count(".") >= 1 and re.search(rf"(?<![\w.]){re.escape(module)}(?!\w)", issue) is not None
