"""Training documents of the compact Countdown language: what a thread that makes no mistake writes.

The words come from the dialect; here is only the search that they record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ...runtime.methods.apr import compact as lang

EOS = "<eos>"
DRILL = "drill"

Steps = tuple[str, ...]


@dataclass(slots=True)
class Document:
    """One training sequence, without BOS."""

    words: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    """What to predict in each word's place; None: masked, because the runtime writes it."""
    skips: dict[int, int] = field(default_factory=dict)
    """How many words are left out in front of a word; positions count them."""

    def write(self, text: str) -> None:
        """Append what the model writes."""
        words = text.split()
        self.words += words
        self.labels += words

    def given(self, text: str, instead: str | None = None) -> None:
        """Append what the runtime writes; `instead` is what the model writes where it begins."""
        words = text.split()
        self.words += words
        self.labels += [instead] + [None] * (len(words) - 1)

    def given_end(self, text: str, begin: int) -> None:
        """Append the words from `begin` on of what the runtime writes, at the positions they have behind the others."""
        words = text.split()
        self.skips[len(self.words)] = begin
        self.given(" ".join(words[begin:]))


def row(p: int, q: int, x: int, target: int) -> tuple[str, Steps | None]:
    """One row of a leaf with its verdict; the two equations that make the target from the pair and the number held out.

    The verdict `hit` follows at once the value that is on both sides: whether to write it is a matter of one token.
    """
    left = lang.results(p, q)
    words = [lang.quad(p, q), f"| {target} {x}"]
    for op, r in zip(lang.OPS, lang.results(target, x), strict=True):
        words.append(f"{op} {lang.UNMATCHED if r is None else r}")
        if r is None or r not in left:
            continue
        last = {
            "+": lang.step(r, "-", x, target),
            "-": lang.step(r, "+", x, target) if target > x else lang.step(x, "-", r, target),
            "*": lang.step(r, "/", x, target),
            "/": lang.step(r, "*", x, target) if target >= x else lang.step(x, "/", r, target),
        }[op]
        first = lang.step(p, lang.OPS[left.index(r)], q, r)
        return " ".join((*words, lang.HIT)), (first, last)
    return " ".join((*words, ";")), None


def leaf(nums: Sequence[int], target: int) -> tuple[str, Steps | None]:
    """The rows of a leaf, up to the first that solves it, and the solution."""
    rows = []
    for p, q, (x,) in lang.pairs(nums):
        text, steps = row(p, q, x, target)
        rows.append(text)
        if steps:
            return " ".join(rows), steps
    return " ".join(rows), None


def table(nums: Sequence[int]) -> str:
    """All first moves."""
    return " ".join(f"{lang.quad(a, b)} ;" for a, b, _ in lang.pairs(nums))


def moves(nums: Sequence[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """First moves that are not pruned, in the table's order, each with the numbers it leaves; repeats only once."""
    seen = set()
    for a, b, rest in lang.pairs(nums):
        for op, r in zip(lang.OPS, lang.results(a, b), strict=True):
            move = r is not None and lang.step(a, op, b, r)
            if r is not None and move and move not in seen:
                seen.add(move)
                yield move, (r, *rest)


def search(nums: Sequence[int], target: int) -> Steps | None:
    """The solution that a thread with these numbers hands back."""
    if len(nums) == lang.LEAF:
        return next((s for p, q, (x,) in lang.pairs(nums) if (s := row(p, q, x, target)[1])), None)
    # The last one told: copying it needs only a constant look back, however many there are.
    told = joined(nums, target)
    return told[-1] if told else None


def joined(nums: Sequence[int], target: int) -> list[Steps]:
    """The solutions that the join section tells."""
    found = ((move, *steps) for move, left in moves(nums) if (steps := search(left, target)))
    return list(islice(found, lang.MAX_JOINED))


def _conclude(document: Document, steps: Steps | None) -> None:
    document.write(f"{lang.ANSWER} {' , '.join(steps)} {EOS}" if steps else f"{lang.NONE} {EOS}")


def parallel(nums: Sequence[int], target: int) -> Document:
    """A thread of the `apr` mode.

    With more than three numbers one document serves both calls of the thread: where the join section begins, the label
    is the spawn that it replaces.
    """
    document = Document()
    document.given(lang.prompt(nums, target, "apr"))
    if len(nums) == lang.LEAF:
        rows, steps = leaf(nums, target)
        document.write(rows)
        _conclude(document, steps)
        return document
    document.write(table(nums))
    found = joined(nums, target)
    document.given(lang.join_text([" , ".join(steps) for steps in found]), instead=lang.SPAWN)
    _conclude(document, found[-1] if found else None)
    return document


def attempt(move: str, left: Sequence[int], target: int) -> tuple[str, Steps | None]:
    """A first move and the search of what it leaves, in the context of the first moves; the solution."""
    rows, steps = leaf(left, target)
    # The prompt of a child, but for the mode: what follows it is learnt once.
    return f"{lang.TRY} {move} ; {lang.prompt(left, target, '').strip()} {rows}", (move, *steps) if steps else None


def sequential(nums: Sequence[int], target: int) -> Document:
    """The same search of three or four numbers in one context, first move by first move."""
    document = Document()
    document.given(lang.prompt(nums, target, "seq"))
    if len(nums) == lang.LEAF:
        rows, steps = leaf(nums, target)
        document.write(rows)
        _conclude(document, steps)
        return document
    document.write(table(nums))
    for move, left in moves(nums):
        text, steps = attempt(move, left, target)
        document.write(text)
        if steps:
            _conclude(document, steps)
            return document
    _conclude(document, None)
    return document


def goal(nums: Sequence[int]) -> str:
    """The Multiverse goal: an outline per row of the table."""
    outlines = (f"<Outline> {i}: {lang.quad(a, b)} </Outline>" for i, (a, b, _) in enumerate(lang.pairs(nums), 1))
    return f"<Think> <Parallel> <Goal> {' '.join(outlines)} </Goal>"


def path(nums: Sequence[int], target: int, index: int) -> tuple[str, str, Steps | None]:
    """What a Multiverse path writes behind its index: it tries the results of its row, one after the other, and tells
    how that ended, in words that the conclusion can repeat; the solution."""
    a, b, rest = lang.pairs(nums)[index - 1]
    parts = []
    for op, r in zip(lang.OPS, lang.results(a, b), strict=True):
        if r is None:
            continue
        text, steps = attempt(lang.step(a, op, b, r), (r, *rest), target)
        parts.append(text)
        if steps:
            return " ".join(parts), f"{lang.ANSWER} {index}: {' , '.join(steps)}", steps
    return " ".join(parts), lang.NONE, None


def multiverse(nums: Sequence[int], target: int, *, last: int | None = None, retold: bool = False) -> Document:
    """A whole search in mode `mv`; the conclusion tells the solution of the first path that has one.

    `last`: goal and paths are cut down to their ends, which is what the conclusion reads, with so many words of the
    search in front, and only the conclusion is learnt. None: they are whole.

    `retold`: the other paths with a solution are concluded from, too, each behind the paths as if nothing stood
    between, its index given. So a search teaches several times how to find one path's words among the others'.
    """
    document = Document()
    document.given(lang.prompt(nums, target, "mv"))
    outlines = goal(nums)
    if last is None:
        document.write(outlines)
    else:
        document.given_end(outlines, len(outlines.split()) - 1)
    ends: list[tuple[str, Steps | None]] = []
    for i in range(1, len(lang.pairs(nums)) + 1):
        text, end, steps = path(nums, target, i)
        document.given(f"<Path> {i}:")
        if last is None:
            document.write(f"{text} {end} </Path>")
        else:
            document.given_end(f"{text} {end} </Path>", max(0, len(text.split()) - last))
        if steps:
            ends.append((end, steps))
    first, *others = ends or [(lang.NONE, None)]
    for number, (end, steps) in enumerate([first, *others] if retold else [first]):
        document.given("<Conclusion>")
        index = len(document.words) + 1
        document.write(f"{end} </Conclusion> </Parallel> </Think>")
        if number:
            document.labels[index] = None
        _conclude(document, steps)
    return document


def layout(document: Document) -> tuple[list[int], list[int]]:
    """The words of a Multiverse document: the position of each, and the number of the path it stands in, 0 in front of
    the paths, -1, -2, ... in conclusions.

    Paths begin behind the goal and the conclusion behind the longest path (arXiv 2506.09991, the rule of the released
    training code); a path sees the text before the goal and itself, a conclusion all but other conclusions (`sees`).
    """
    positions, paths = [], []
    position = fork = furthest = behind = path = 0
    for i, word in enumerate(document.words):
        if word == "<Path>":
            path, position = path + 1, fork
        elif word == "<Conclusion>":
            behind = behind or furthest
            path, position = min(path, 0) - 1, behind
        position += document.skips.get(i, 0)
        positions.append(position)
        paths.append(path)
        position += 1
        furthest = max(furthest, position)
        if word == "</Goal>":
            fork = position
    return positions, paths


def sees(own: Any, other: Any) -> Any:
    """May words of `layout`'s path `own` see earlier ones of path `other`? Numbers or tensors of them."""
    return (own == other) | (other == 0) | ((own < 0) & (other > 0))


def one_path(nums: Sequence[int], target: int, index: int) -> Document:
    """What the path of that index sees and writes."""
    document = Document()
    document.given(f"{lang.prompt(nums, target, 'mv')} {goal(nums)} <Path> {index}:")
    text, end, _ = path(nums, target, index)
    document.write(f"{text} {end} </Path>")
    return document


def after(nums: Sequence[int], step: lang.Step) -> list[int]:
    """The numbers that an operation leaves, its result last."""
    a, _, b, c = step
    left = list(nums)
    left.remove(a)
    left.remove(b)
    return [*left, c]


def stepwise(nums: Sequence[int], target: int, steps: Sequence[lang.Step]) -> Document:
    """A sample of mode `step`: these operations."""
    document = Document()
    document.given(lang.prompt(nums, target, "step"))
    left = list(nums)
    for a, op, b, c in steps:
        left = after(left, (a, op, b, c))
        rest = f" : {' '.join(map(str, sorted(left, reverse=True)))} ;" if len(left) > 1 else f" {EOS}"
        document.write(lang.step(a, op, b, c) + rest)
    return document


def drill(rows: Sequence[tuple[int, int, int, int]]) -> Document:
    """Rows of unrelated numbers (pair, held-out number, target): arithmetic and verdicts, away from any search."""
    document = Document()
    document.given(DRILL)
    for p, q, x, target in rows:
        p, q = max(p, q), min(p, q)
        for k, word in enumerate(row(p, q, x, target)[0].split()):
            # Nothing says which numbers come next.
            document.given(word) if k in (0, 1, 11, 12) else document.write(word)
    document.write(EOS)
    return document
