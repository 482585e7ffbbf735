"""What workers are told: by layout, in words of one's own, and where it stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import Hogwild, InvalidJob, ScriptedEngine, parse_job, parse_method
from plait.runtime.methods.hogwild.rules import describe, instructions
from plait.tests.runtime.methods.hogwild.oracle import ToyTokenizer

PAST, OTHERS, OWN = "### Past steps", "### Work in progress (others)", "### Work in progress (own)"
NAMES = ("Ann", "Ben")


class Chat(ToyTokenizer):
    """Characters, with a chat template that ends in `end`."""

    def __init__(self, end: str = "<assistant>", *, thinks: bool = False) -> None:
        super().__init__()
        self.pieces = [*map(chr, range(10, 127)), *(["<think>", "</think>"] if thinks else [])]
        self.vocab_size = len(self.pieces)
        self.end = end

    def chat(self, messages, tools=()):
        return self.encode("".join(f"<{m['role']}>{m['content']}" for m in messages) + self.end)


def told(tokenizer: Chat | None = None, **fields) -> str:
    """The prompt of a job as text."""
    tokenizer = tokenizer or Chat()
    method = Hogwild(**{"prompt": "2 + 2?", "workers": NAMES, **fields})
    return tokenizer.decode(method.prompt_tokens(tokenizer))


@pytest.mark.parametrize("policy", ["package", "repo"])
@pytest.mark.parametrize("headers", [True, False])
@pytest.mark.parametrize("layout", ["combined", "interleaved", "contiguous"])
def test_rules_speak_of_the_sections_that_there_are(layout, headers, policy):
    text = told(layout=layout, headers=headers, policy=policy, chat=True)
    rules, _, behind = text.partition("2 + 2?")
    has_past = headers and policy == "package" and layout != "contiguous"
    assert (PAST in rules) == (PAST in behind) == has_past
    assert (OTHERS in rules) == (OWN in rules) == (headers and layout == "combined")
    assert ("# Ann workspace" in rules) == (layout == "contiguous")
    assert ("the assistant will continue here" in rules) == (headers and layout == "contiguous")
    assert ("ends your step" in rules) == (layout != "contiguous")
    assert "Ann and Ben" in rules and "\\boxed{answer here}" in rules


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("boxed", "writes \\boxed{answer here}."),
        ("choice", "as \\boxed{letter}."),
        ("code", "between ```python and ```."),
        ("countdown", "in the form that the problem asks for."),
    ],
)
def test_rules_ask_for_the_kind_of_answer_that_is_looked_for(answer, form):
    assert f"{form} Nothing can be changed" in told(answer=answer)
    assert ("boxed" in told(answer=answer)) == (answer in ("boxed", "choice"))


def test_teams_of_one_and_of_three():
    assert "Ann, Ben and Cy" in instructions(("Ann", "Ben", "Cy"), "combined")
    alone = instructions(("Ann",), "interleaved")
    assert "You are Ann," in alone and "others" not in alone


@pytest.mark.parametrize(
    ("end", "thinks", "added"),
    [
        ("<assistant>", False, f"\n{PAST}\n\n"),
        ("<assistant>", True, f"<think>\n{PAST}\n\n"),
        ("<assistant><think>\n", True, f"\n{PAST}\n\n"),
        ("<assistant><think>\n\n</think>\n\n", True, f"\n{PAST}\n\n"),
    ],
)
def test_chat_templates_with_and_without_thinking(end, thinks, added):
    ours = f"{instructions(NAMES, 'combined')}\n\n# Solve the following problem\n\n"
    tokenizer = Chat(end, thinks=thinks)
    assert told(tokenizer, chat=True) == f"<user>{ours}2 + 2?{end}{added}"
    assert told(tokenizer, chat=True, policy="repo", rules=False) == f"<user>2 + 2?{end}"
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "2 + 2?"}]
    alone = f"{instructions(NAMES, 'combined', has_headers=False, has_past=False)}\n\n# Solve the following problem\n\n"
    assert told(tokenizer, prompt=messages, headers=False) == f"<system>Be kind.<user>{alone}2 + 2?{end}"
    assert messages[1]["content"] == "2 + 2?"


def test_past_steps_stand_behind_plain_prompts_of_the_package_only():
    assert told(rules=False) == f"2 + 2?\n\n{PAST}\n\n"
    assert told(rules=False, layout="contiguous") == told(rules=False, policy="repo") == "2 + 2?"
    assert Hogwild(prompt=[3, 4], workers=NAMES).prompt_tokens(Chat()) == [3, 4]


def test_rules_of_ones_own():
    fields = {"chat": True, "headers": False}
    assert told(rules="Be {count}: {names}. {first} leads.", **fields).startswith(
        "<user>Be 2: Ann and Ben. Ann leads.\n\n2 + 2?<"
    )
    assert told(rules="Solve {problem} as {names}, in \\boxed{}.", prompt="{names}?", **fields) == (
        "<user>Solve {names}? as Ann and Ben, in \\boxed{}.<assistant>"
    )
    shown = describe(NAMES, "interleaved", has_headers=False, has_past=False)
    assert told(rules="{layout}", layout="interleaved", **fields) == f"<user>{shown}\n\n2 + 2?<assistant>"


def test_rules_stand_where_they_are_asked_for():
    fields = {"rules": "Be {names}.", "headers": False}
    assert told(rules_in="system", **fields) == "<system>Be Ann and Ben.<user>2 + 2?<assistant>"
    assert (
        told(rules_in="system", system="Kind.", **fields) == "<system>Kind.\n\nBe Ann and Ben.<user>2 + 2?<assistant>"
    )
    assert told(rules_in="reply", chat=True, **fields) == "<user>2 + 2?<assistant>\n\nBe Ann and Ben."
    assert told(rules_in="reply", **fields) == "2 + 2?\n\nBe Ann and Ben."
    ours = told(rules_in="system")
    assert ours.count("# Collaborative reasoning") == 1 and "# Solve the following" not in ours


@pytest.mark.parametrize("system", [None, "Kind."])
@pytest.mark.parametrize("place", ["user", "system", "reply"])
def test_contexts_stand_in_front_of_the_first_question_wherever_the_rules_are(place, system):
    tokenizer = Chat()
    fields = {"chat": True, "rules": "Be {count}.", "rules_in": place, "system": system}
    method = Hogwild(prompt="2 + 2?", contexts=["x"], instruction="Read: ", **fields)
    engine = ScriptedEngine([], tokenizer=tokenizer)
    layout = method.lay_out(method.prompt, method.prompt_tokens(tokenizer), engine, method.messages)
    plain = told(tokenizer, **fields)
    asked = plain.index("<user>") + len("<user>")
    assert tokenizer.decode(layout.tokens) == f"{plain[:asked]}Read: x\n\n{plain[asked:]}"


def test_rules_from_a_file_are_kept_as_text(tmp_path):
    path = tmp_path / "rules.md"
    path.write_text("Be {names}.\n", encoding="utf-8")
    method = Hogwild(prompt="p", rules=path)
    assert method.rules == "Be {names}." and parse_method(method.model_dump(mode="json")) == method
    with pytest.raises(InvalidJob, match=r"rules.*missing\.md cannot be read"):
        Hogwild(prompt="p", rules=tmp_path / "missing.md")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidJob, match="cannot be read"):
        Hogwild(prompt="p", rules=path)
    # A job that came as JSON cannot make the program read files.
    assert parse_method({"method": "hogwild", "prompt": "p", "rules": str(path)}).rules == str(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rules": " "}, "empty"),
        ({"rules": "Solve {problem}", "rules_in": "system"}, "rules_in"),
        ({"rules": "Solve {problem}", "rules_in": "reply"}, "rules_in"),
        ({"rules": "Be nice.", "prompt": [1, 2]}, "token ids"),
        ({"rules_in": "front"}, "rules_in"),
        ({"answer_at": (5,), "max_tokens": 4}, "answer_at"),
        ({"answer_at": (0,)}, "answer_at"),
        ({"accepts": "prose"}, "accepts"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(InvalidJob, match=message):
        Hogwild(**{"prompt": "p", **fields})


def test_each_code_and_kind_of_answer_has_its_defaults():
    ours, theirs = Hogwild(prompt="p"), Hogwild(prompt="p", policy="repo")
    assert ours.ban_impersonation and ours.max_step == 512 and ours.self_check_every == 1024
    assert (theirs.ban_impersonation, theirs.check_repeats, theirs.max_step) == (False, False, None)
    assert (theirs.self_check_every, theirs.accepts, theirs.conclusion_tokens) == (256, "number", 16)
    assert Hogwild(prompt="p", policy="repo", max_step=9).max_step == 9
    code, choice = Hogwild(prompt="p", answer="code"), Hogwild(prompt="p", answer="choice")
    assert code.conclusion.endswith("```python\n") and code.conclusion_tokens == 1024
    assert choice.conclusion.endswith("\\boxed{") and choice.conclusion_tokens == 16
    assert Hogwild(prompt="p", answer="code", conclusion=None).conclusion is None
    for method in (ours, theirs, code, choice):
        assert parse_method(method.model_dump(mode="json")) == method


class Prefixed(Chat):
    """Puts `|` in front of whole texts, as others do BOS, but for those that begin with it."""

    prefix_ids = (ord("|") - 10,)

    def encode(self, text):
        return [*([] if text.startswith("|") else self.prefix_ids), *super().encode(text)]

    def encode_continuation(self, before, text):
        return super().encode(text)

    def chat(self, messages, tools=()):
        return self.encode_continuation((), "".join(m["content"] for m in messages) + self.end)


def test_what_tokenizers_put_in_front_of_texts_stays_in_front():
    fields = {"rules": "Be {names}.", "chat": True}
    assert told(Prefixed("|end>"), **fields) == f"Be Ann and Ben.\n\n2 + 2?|end>\n{PAST}\n\n"
    fields |= {"prompt": "|2 + 2?", "rules": False}
    assert told(Prefixed("<end>"), **fields) == f"|2 + 2?<end>\n{PAST}\n\n"
    assert told(Prefixed(), rules=False) == f"|2 + 2?\n\n{PAST}\n\n"


@given(st.lists(st.sampled_from(["", "a"]), min_size=2, max_size=2), st.booleans())
def test_workers_have_something_to_go_on_from(openers, headers):
    fields = {"method": "hogwild", "prompt": "x", "openers": openers, "headers": headers}
    if headers or all(openers):
        parse_job({"method": fields})
    else:
        with pytest.raises(InvalidJob, match="opener"):
            parse_job({"method": fields})
