"""Masks against brute force over small vocabularies, and what is refused."""

from __future__ import annotations

import itertools
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import Constraint, InvalidInput, SamplingParams, UnsupportedByEngine
from plait.runtime.engines.constraints.matcher import Compiler, accepts, check_text

WORDS = ["a", "b", "ab", "ba", "aab", "bb", "abab"]
EOS = len(WORDS)


class Words:
    """A tokenizer of few words; the last two tokens are EOS and one that is no text."""

    eos_ids = (EOS,)

    def token_bytes(self):
        return [(word.encode(), False) for word in WORDS] + [(b"<eos>", True), (b"<pad>", True)]


@st.composite
def languages(draw, depth=3):
    """A regular expression, the same as a grammar, and all texts it stands for. The grammar's terminals are letters: a
    longer one is taken as a whole wherever it can be, as in Lark."""
    kind = draw(st.sampled_from(["text", "text", "then", "or", "maybe", "twice"] if depth else ["text"]))
    if kind == "text":
        text = draw(st.text("ab", min_size=1, max_size=2))
        return text, " ".join(map(json.dumps, text)), {text}
    left = draw(languages(depth - 1))
    if kind == "maybe":
        return f"({left[0]})?", f"({left[1]})?", left[2] | {""}
    if kind == "twice":
        return f"({left[0]}){{1,2}}", f"(({left[1]}) | ({left[1]}) ({left[1]}))", left[2] | put(left[2], left[2])
    right = draw(languages(depth - 1))
    if kind == "or":
        return f"({left[0]}|{right[0]})", f"(({left[1]}) | ({right[1]}))", left[2] | right[2]
    return left[0] + right[0], f"({left[1]}) ({right[1]})", put(left[2], right[2])


def put(some, others):
    return {one + other for one, other in itertools.product(some, others)}


def check_against(constraint, texts, stop_ids=()):
    """Along every way through the words: those are allowed behind which some text goes on, EOS and stop tokens where
    one ends."""
    compiler = Compiler(Words(), "words")
    waiting = [()]
    for tokens in waiting[:60]:
        written = "".join(WORDS[token] for token in tokens)
        params = SamplingParams(constraint=constraint, constrained=tokens, stop_token_ids=stop_ids)
        matcher = compiler.matcher(params)
        allowed = set(matcher.allowed(len(WORDS) + 5).nonzero()[:, 0].tolist())
        expected = {i for i, word in enumerate(WORDS) if any(text.startswith(written + word) for text in texts)}
        expected -= set(stop_ids)
        ends = {EOS, *stop_ids} if written in texts else set()
        assert allowed == expected | ends == {token for token in range(EOS + 2) if matcher.could(token)}
        assert matcher.is_complete == (written in texts)
        check_given(compiler, constraint, tokens, stop_ids, ends)
        waiting += [(*tokens, token) for token in sorted(expected)]
        if len(waiting) > 60:
            break


def check_given(compiler, constraint, tokens, stop_ids, ends):
    """Given instead of sampled, the tokens and an end behind them are allowed just where they could be sampled."""
    for end in {EOS, *stop_ids}:
        params = SamplingParams(constraint=constraint, forced=(*tokens, end, EOS + 1), stop_token_ids=stop_ids)
        if end in ends:
            compiler.matcher(params)
        else:
            with pytest.raises(InvalidInput, match=f"forced.*token {end} in place {len(tokens)}"):
                compiler.matcher(params)


@settings(max_examples=25, deadline=None)
@given(languages(), st.sets(st.integers(0, EOS + 1), max_size=2).map(tuple))
def test_what_is_allowed_is_what_can_be_completed(language, stop_ids):
    pattern, grammar, texts = language
    assert all(re.fullmatch(pattern, text) for text in texts)
    check_against(Constraint(kind="regex", source=pattern), texts, stop_ids)
    check_against(Constraint(kind="grammar", source=f"start: {grammar}"), texts, stop_ids)
    check_against(Constraint(kind="choice", source=json.dumps(sorted(texts))), texts, stop_ids)


def test_a_grammar_that_no_expression_can_say():
    nested = Constraint(kind="grammar", source='start: x\nx: "a" x "b" | ""')
    assert [n for n in range(5) if accepts(nested, "a" * n + "b" * 3)] == [3]
    check_against(nested, {"a" * n + "b" * n for n in range(12)})


@pytest.mark.parametrize(
    "text", ["a/b", "tab\there", "é", "😀", 'quo"te', "back\\slash", "<eos>", "line\nend", "%json {}"]
)
def test_texts_of_all_kinds_are_choices(text):
    choice = Constraint(kind="choice", source=json.dumps([text, "other"]))
    assert accepts(choice, text) and accepts(choice, "other") and not accepts(choice, text + "x")
    assert accepts(Constraint(kind="regex", source=re.escape(text)), text)


def test_many_choices_that_begin_alike():
    texts = [f" {n} + {m}" for n in range(60) for m in range(60)]
    choice = Constraint(kind="choice", source=json.dumps(texts))
    assert accepts(choice, " 59 + 59") and not accepts(choice, " 59 + 60")


def test_tokens_that_are_given_must_be_allowed():
    constraint = Constraint(kind="choice", source='["ab"]')
    compiler = Compiler(Words(), "words")
    for name in ("constrained", "forced"):
        with pytest.raises(InvalidInput, match=f"{name}: the constraint does not allow token 1 in place 0"):
            compiler.matcher(SamplingParams(constraint=constraint, **{name: (1,)}))
    with pytest.raises(InvalidInput, match="forced.*token 0 in place 0"):
        compiler.matcher(SamplingParams(constraint=constraint, constrained=(0,), forced=(0,)))


MALFORMED = {
    "json": [
        "{", "[]", "3", '{"type": "nonsense"}', '{"$ref": "http://example.org/x"}', '{"$ref": "#/nowhere"}', "false",
        '{"not": {"type": "string"}}', '{"uniqueItems": true}', '{"type": "string", "pattern": "(?=a)"}',
        '{"enum": []}',
        '{"type": "integer", "minimum": 3, "maximum": 1}', '{"x-guidance": {"lenient": true}, "if": {}}',
        '{"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}', "[" * 10_000,
    ],
    "regex": ["(", "a{3,", "(?=a)", r"(a)\1", r"\bfoo", "[b-a]"],
    "choice": ["", "{}", "[]", "[1]"],
    "grammar": [
        "start: (", "start: x", "x: y", 'start: "a"\nstart: "b"', "start: x\nx: x", 'start: "a"\n%llguidance {}',
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "source"), [(kind, one) for kind, all_ in MALFORMED.items() for one in all_])
def test_what_is_malformed_is_refused(kind, source):
    with pytest.raises(InvalidInput) as caught:
        check_text(Constraint(kind=kind, source=source))
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_what_is_no_constraint():
    with pytest.raises(InvalidInput, match="unknown kind"):
        Constraint(kind="xml", source="")
    with pytest.raises(InvalidInput, match="65536 at most"):
        Constraint(kind="regex", source="a" * 100_000)
    with pytest.raises(InvalidInput, match="surrogates"):
        Constraint(kind="regex", source="\ud800")
    with pytest.raises(InvalidInput, match="ignore_eos"):
        SamplingParams(constraint=Constraint(kind="regex", source="a"), ignore_eos=True)
    with pytest.raises(InvalidInput, match="constrained"):
        SamplingParams(constrained=(1,))


BOMBS = [
    Constraint(kind="regex", source="x{200}{200}{200}{200}"),
    Constraint(kind="regex", source="(a|b)*a(a|b){500}"),
    Constraint(kind="regex", source="((((a{1,99}){1,99}){1,99}){1,99}){1,99}"),
    Constraint(kind="json", source='{"type": "string", "maxLength": 1000000000}'),
    Constraint(kind="json", source='{"type": "array", "minItems": 1000000000}'),
    Constraint(
        kind="json", source=json.dumps({"properties": {f"p{i}": {"type": "string"} for i in range(2000)}})
    ),
    Constraint(kind="json", source='{"type": "array", "maxItems": 1e300}'),
    Constraint(kind="json", source='{"type": "array", "min\\u0049tems": 1000000000}'),
    Constraint(
        kind="json", source=json.dumps({"type": "array", "prefixItems": [{"type": "array", "minItems": 9999}] * 1500})
    ),
    Constraint(kind="grammar", source='start: "a" | %json\n {"type": "array", "minItems": 1000000000}'),
    Constraint(kind="grammar", source="start: " + "x " * 1000 + "\nx: " + "y " * 1000 + '\ny: "a"?'),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BOMBS)))
def test_what_is_too_large_costs_little(number):
    """Either it is refused, or it can be followed at a bounded cost a token."""
    began = time.process_time()
    compiler = Compiler(Words(), "words")
    try:
        matcher = compiler.matcher(SamplingParams(constraint=BOMBS[number]))
    except InvalidInput:
        matcher = None
    assert time.process_time() - began < 3
    for _ in range(20):
        began = time.process_time()
        if matcher is None or not matcher.allowed(EOS)[0]:
            break
        matcher.advance(0)
        assert time.process_time() - began < 0.5


def test_arrays_of_many_items_are_refused_whatever_the_library_would_do():
    for bomb in BOMBS:
        if "tems" in bomb.source and "1500" not in bomb.source:
            with pytest.raises(InvalidInput, match="100,000 in all"):
                check_text(bomb)
    check_text(Constraint(kind="json", source='{"type": "array", "minItems": 100, "maxItems": 1000}'))
    check_text(Constraint(kind="grammar", source='start: "%json" | %json {"type": "array", "maxItems": 9}'))


def test_a_tokenizer_that_does_not_spell():
    with pytest.raises(UnsupportedByEngine, match="what its tokens spell is not known"):
        Compiler(object(), "odd").check(Constraint(kind="regex", source="a"))


def test_a_model_that_cannot_write_it_or_cannot_end():
    with pytest.raises(InvalidInput, match="no text of this model's tokens"):
        Compiler(Words(), "words").check(Constraint(kind="regex", source="c"))
    endless = Words()
    endless.eos_ids = ()
    with pytest.raises(InvalidInput, match="no end-of-sequence token"):
        Compiler(endless, "words").check(Constraint(kind="regex", source="a"))


def test_words_that_lead_nowhere_are_not_allowed():
    """A text can begin with them, but no word goes on."""

    class Spaced(Words):
        def token_bytes(self):
            return [(b" 1", False), (b" 2", False), (b" 24", False), *([(b"", False)] * 4), (b"<eos>", True)]

    compiler = Compiler(Spaced(), "words")
    for pattern, tokens, expected in (
        (" 1 24", (), [0]),
        (" 1 24", (0,), [2]),  # behind one that leads nowhere
        (" 1 24", (0, 2), [EOS]),
        (" 1 1| 2x", (), [0]),  # in front of it
    ):
        params = SamplingParams(constraint=Constraint(kind="regex", source=pattern), constrained=tokens)
        assert compiler.matcher(params).allowed(EOS + 1).nonzero()[:, 0].tolist() == expected
