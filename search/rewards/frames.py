"""How the process reward models that are published want to read a question and the steps of its solution.

A *frame* gives the tokens whose last one is where a step is judged. What two steps of one trajectory have in common
there is computed once (`tree.TreeScorer`), so a frame may render the whole text anew each time, as the models' own code
does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from ...runtime.engine import Tokenizer
from ...runtime.errors import InvalidInput

STEP_TAG = "ки"
"""Math-Shepherd's, which Llemma's reward model uses too."""
QWEN_TAG = "<extra_0>"
QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


class Frame(ABC):
    """See the module's text."""

    def head(self, tokenizer: Tokenizer, question: str) -> list[int]:
        """What stands in front of every first step."""
        one, other = (self.tokens(tokenizer, (), question, [text], False) for text in ("a", "B"))
        return one[: shared(one, other)]

    @abstractmethod
    def tokens(
        self, tokenizer: Tokenizer, before: Sequence[int], question: str, steps: Sequence[str], is_complete: bool
    ) -> list[int]:
        """The whole text up to where the last of the steps is judged. `before`: these tokens for the step above, or the
        head. `is_complete`: the policy has ended its text with the last step."""


@dataclass(frozen=True, slots=True)
class Plain(Frame):
    """The question and the steps as the policy wrote them, each followed by a tag if there is one; else a step that
    ends the text is followed by the end of sequence."""

    tag: str = ""

    def head(self, tokenizer: Tokenizer, question: str) -> list[int]:
        return tokenizer.encode(question)

    def tokens(
        self, tokenizer: Tokenizer, before: Sequence[int], question: str, steps: Sequence[str], is_complete: bool
    ) -> list[int]:
        tokens = [*before, *tokenizer.encode_continuation(before, steps[-1])]
        if self.tag:
            return tokens + tokenizer.encode_continuation((), self.tag)
        return tokens + list(tokenizer.eos_ids[:1]) if is_complete else tokens


@dataclass(frozen=True, slots=True)
class Tagged(Frame):
    """Text with a tag behind every step, final ones too: Math-Shepherd (arXiv 2312.08935) and Llemma's reward model
    (arXiv 2408.00724), which differ in what follows the question. A tag that the policy wrote itself counts."""

    between: str
    """Question and first step."""

    def tokens(
        self, tokenizer: Tokenizer, before: Sequence[int], question: str, steps: Sequence[str], is_complete: bool
    ) -> list[int]:
        lines = (f"{step.removesuffix(STEP_TAG).rstrip()} {STEP_TAG}" for step in bodies(steps))
        return tokenizer.encode(question + self.between + "\n".join(lines))


class ChatTurns(Frame):
    """A chat in which each step is the user's turn, the first one behind the question, and `+` the answer to all but
    the last: RLHFlow's models. Judged where the next answer begins."""

    def tokens(
        self, tokenizer: Tokenizer, before: Sequence[int], question: str, steps: Sequence[str], is_complete: bool
    ) -> list[int]:
        first, *others = bodies(steps)
        messages = [{"role": "user", "content": f"{question} {first}"}]
        for step in others:
            messages += [{"role": "assistant", "content": "+"}, {"role": "user", "content": step}]
        return tokenizer.chat(messages)


class QwenMath(Frame):
    """A chat whose answer has `<extra_0>` behind every step: Qwen2.5-Math-PRM (arXiv 2501.07301)."""

    def tokens(
        self, tokenizer: Tokenizer, before: Sequence[int], question: str, steps: Sequence[str], is_complete: bool
    ) -> list[int]:
        header = tokenizer.chat([{"role": "system", "content": QWEN_SYSTEM}, {"role": "user", "content": question}])
        answer = "".join(step + QWEN_TAG for step in bodies(steps))
        return header + tokenizer.encode_continuation(header, answer)


class Lines(Frame):
    """The question, then every line of the steps as its own piece of text, a newline behind each, at the last of which
    the step is judged: Skywork-o1-Open-PRM."""

    def tokens(
        self, tokenizer: Tokenizer, before: Sequence[int], question: str, steps: Sequence[str], is_complete: bool
    ) -> list[int]:
        tokens = _alone(tokenizer, f"{question}\n")
        if tokenizer.bos_id is not None:
            tokens = [tokenizer.bos_id, *tokens]
        newline = _alone(tokenizer, "\n")[-1:]
        for step in bodies(steps):
            for line in step.split("\n"):
                tokens += _alone(tokenizer, line) + newline
        return tokens


HeadKind = Literal["words", "mean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A family of models."""

    frame: Frame
    good: str = "+"
    bad: str = "-"
    head: HeadKind = "words"
    """Of those that are language models: `words` compares the logits of `good` and `bad`, `mean` is the sigmoid of the
    mean of all logits."""
    tag: str = ""
    """Must be one token."""
    architecture: str = ""
    """How the architecture ends that tells one."""
    names: tuple[str, ...] = ()
    """What stands in the names of models of this family."""


PUBLISHED = {
    "math_shepherd": Published(frame=Tagged(" "), tag=STEP_TAG, names=("math-shepherd",)),
    "rlhflow": Published(frame=ChatTurns(), names=("rlhflow", "prm-deepseek-data", "prm-mistral-data")),
    "qwen": Published(frame=QwenMath(), tag=QWEN_TAG, architecture="ForProcessRewardModel"),
    "skywork": Published(frame=Lines(), architecture="ForPrmModel"),
    "llemma": Published(frame=Tagged("\n"), tag=STEP_TAG, head="mean", names=("llemma-reward",)),
}
"""By the name of the format."""


def bodies(steps: Sequence[str]) -> list[str]:
    """The steps without what separates them; those that are nothing else are left out, unless there is no other."""
    return [body for step in steps if (body := step.strip())] or [""]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def check_tag(tokenizer: Tokenizer, tag: str) -> None:
    """Raise `InvalidInput` unless the tag is one token of the model's."""
    tokens = _alone(tokenizer, tag)
    if tag and len(tokens) != 1:
        raise InvalidInput(f"the step tag {tag!r} must be one token of the reward model's, it is {len(tokens)}")


def _alone(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text encoded by itself, without what the tokenizer puts in front."""
    tokens, prefix = tokenizer.encode(text), tokenizer.prefix_ids
    return tokens[len(prefix) :] if tuple(tokens[: len(prefix)]) == prefix else tokens
