"""What Hogwild! workers are told, and the prompt that all of them share. The wording is our own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...engine import Tokenizer
from ..prompt import Prompt
from .policy import Layout
from .text import IN_PROGRESS, PAST_STEPS, PIVOT, SEPARATOR, SPLIT, prefix, workspace

Place = Literal["user", "system", "reply"]
PROBLEM = f"# Solve the following problem{SEPARATOR}"
_FIELD = re.compile(r"\{(names|first|count|layout|problem)\}")


def describe(names: Sequence[str], layout: Layout, *, has_headers: bool, has_past: bool) -> str:
    """How the text is laid out, for those who read it."""
    lines = []
    if layout == "contiguous":
        lines.append(f'Each of you has a workspace of their own, which begins with its name: "{workspace(names[0])}".')
        if len(names) > 1:
            lines.append("The workspaces of the others come first and grow while you write.")
        end = f', behind "{SPLIT.strip()}"' if has_headers else ""
        lines.append(f"Yours is the last one{end}. You write there only, as yourself.")
    else:
        where = f'"{PAST_STEPS}" holds' if has_past else "First come the"
        lines.append(
            f"{where} finished steps in the order in which they were finished, each under its author's name and "
            f'number: "{prefix(names[0], 1).strip()}".'
        )
        if layout == "interleaved" and len(names) > 1:
            lines.append("What the others are writing cannot be seen until they have finished the step.")
        elif layout == "combined" and has_headers:
            lines.append(
                f'"{IN_PROGRESS} (others)" holds what the others are writing now; it breaks off where they are.'
            )
        elif layout == "combined" and len(names) > 1:
            lines.append("Behind them comes what the others are writing now; it breaks off where they are.")
        if layout == "combined" and has_headers:
            lines.append(
                f'"{IN_PROGRESS} (own)", behind "{PIVOT}", holds your own unfinished step. You write there only, as '
                "yourself."
            )
        else:
            lines.append("Your own unfinished step is the last one. You write there only, as yourself.")
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


ENDINGS = {
    "boxed": "writes \\boxed{answer here}",
    "choice": "writes the letter of the right choice as \\boxed{letter}",
    "code": "writes all of the code in one block, between ```python and ```",
}
"""How an answer is given, by its rule."""
AS_ASKED = "writes it in the form that the problem asks for"


def instructions(
    names: Sequence[str],
    layout: Layout,
    *,
    has_headers: bool = True,
    has_past: bool = True,
    answer: str = "boxed",
) -> str:
    """The rules of the layout in use, without the problem."""
    laid_out = describe(names, layout, has_headers=has_headers, has_past=has_past)
    has_steps = layout != "contiguous"
    how = ["Begin with a plan."] if len(names) == 1 else []
    if has_steps:
        how.append("Write short paragraphs; a blank line after a full sentence ends your step.")
    if len(names) == 1:
        team = f"You are {names[0]}, who solves the problem below{' in short steps' if has_steps else ''}."
    else:
        team = (
            f"You are {len(names)} assistants, {listed(names)}, who solve one problem together. All of you write at "
            f"the same time, and each sees what the others {'have finished' if layout == 'interleaved' else 'write'}."
        )
        how += [
            f"Begin with a plan, and agree on who does what. If two plans compete, the one of {names[0]} counts.",
            "Read what the others write. Use their results, answer their questions, and point out their mistakes.",
            "Say what you have found and what you will do next, so that nobody has to guess.",
            "If you notice that somebody does what you are doing, or is ahead of you, stop, even in the middle of a\n"
            "  sentence, and do something else that is still missing. If asked whether you do redundant work, answer\n"
            "  honestly.",
        ]
    how.append(f"Whoever is sure of the answer {ENDINGS.get(answer, AS_ASKED)}. Nothing can be changed after that.")
    listed_how = "\n".join(f"- {line}" for line in how)
    return f"# Collaborative reasoning\n\n{team}\n\nHow the text is laid out:\n{laid_out}\n\nHow to work:\n{listed_how}"


def listed(names: Sequence[str]) -> str:
    """`Ann, Ben and Cy`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a team is told, and where."""

    text: bool | str
    """Ours, none, or a text with the fields `{names}`, `{first}`, `{count}`, `{layout}` and `{problem}`; where it has
    no `{problem}`, this follows behind a blank line."""
    place: Place
    names: Sequence[str]
    layout: Layout
    has_headers: bool
    has_past: bool
    answer: str
    """The rule by which answers are found."""

    def told(self, problem: str | None = None) -> str:
        """The rules, with the problem if it is given."""
        shown = {"has_headers": self.has_headers, "has_past": self.has_past}
        if self.text is True:
            ours = instructions(self.names, self.layout, **shown, answer=self.answer)
            return ours if problem is None else ours + SEPARATOR + PROBLEM + problem
        values = {
            "names": listed(self.names),
            "first": self.names[0],
            "count": str(len(self.names)),
            "layout": describe(self.names, self.layout, **shown),
            "problem": problem or "",
        }
        text = _FIELD.sub(lambda field: values[field[1]], str(self.text))
        return text if problem is None or "{problem}" in str(self.text) else text + SEPARATOR + problem

    def in_chat(self, messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """The messages of a chat with the rules in them, unless they stand behind."""
        messages = [dict(message) for message in messages]
        asked = [message for message in messages if message["role"] == "user"]
        if self.text and self.place == "user" and asked:
            asked[-1]["content"] = self.told(asked[-1]["content"])
        if self.text and self.place == "system" and messages:
            if messages[0]["role"] == "system":
                messages[0]["content"] += SEPARATOR + self.told()
            else:
                messages.insert(0, {"role": "system", "content": self.told()})
        return messages


def build_prompt(prompt: Prompt, messages: Sequence[dict[str, str]], rules: Rules, tokenizer: Tokenizer) -> list[int]:
    """The tokens that all workers share; `messages` are those of a chat, with the rules in them (`Rules.in_chat`).
    Token ids stay as they are.

    A chat template that knows thinking but does not begin it gets its opening tag in front of the past steps, since
    steps are thoughts.
    """
    behind = f"{SEPARATOR}{rules.told()}" if rules.text and rules.place == "reply" else ""
    past = f"\n{PAST_STEPS}{SEPARATOR}" if rules.has_past else ""
    if messages:
        tokens = tokenizer.chat(messages)
        if past and len(tokenizer.encode_continuation((), "<think>")) == 1:
            past = past if "think>" in tokenizer.decode(tokens[-8:]) else f"<think>{past}"
        return lengthened(tokens, behind + past, tokenizer)
    if isinstance(prompt, str):
        text = rules.told(prompt) if rules.text and rules.place == "user" else prompt + behind
        return tokenizer.encode(f"{text}\n{past}" if past else text)
    return [token for token in prompt if isinstance(token, int)]


def lengthened(tokens: Sequence[int], text: str, tokenizer: Tokenizer) -> list[int]:
    """Tokens and a text behind them encoded as one text, as both published codes do; where the tokens are not what
    their own text is encoded as, the text as their continuation."""
    whole = tokenizer.decode(tokens)
    if text and without_prefix(tokenizer, whole, tokens) == list(tokens):
        return without_prefix(tokenizer, whole + text, tokens)
    return [*tokens, *tokenizer.encode_continuation(tokens, text)]


def without_prefix(tokenizer: Tokenizer, text: str, like: Sequence[int]) -> list[int]:
    """The text's tokens, with what tokenizers put in front only if `like` begins with it."""
    first = list(tokenizer.prefix_ids)
    tokens = tokenizer.encode(text)
    return tokens[len(first) :] if first and list(like[: len(first)]) != first else tokens
