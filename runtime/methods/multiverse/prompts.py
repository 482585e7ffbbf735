"""How a preset puts a question: the published wording where it is a sentence, our own where it is a page.

NPR's `npr.txt` and the instructions in Parallel-R1's data are pages that come with those projects: here stand texts of
our own that ask for the same. For figures to be compared with the published ones give the original as `preset`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...engine import Tokenizer
from ...errors import InvalidInput
from ..prompt import Prompt, chat_messages

QUESTION = "{question}"
"""What the question takes the place of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The user's turn, with `QUESTION` in it, and the system's; None: there is none, or the chat template's own."""

    parallel: str
    sequential: str
    system: str | None = None

    def of(self, preset: str) -> str:
        """The template of a preset, which may be one itself."""
        return {"parallel": self.parallel, "sequential": self.sequential}.get(preset, preset)


_BOXED = "{question}\n\nReason step by step, and put the final answer within \\boxed{}."

_NPR = r"""{question}

Solve this in rounds. Every round has this form, with nothing between its tags:

<guideline>
<plan>1: what the first step is to do</plan>
<plan>2: what the second step is to do</plan>
</guideline>
<step>
1: the first plan carried out
</step>
<step>
2: the second plan carried out
</step>
<takeaway>
what the steps found
</takeaway>

There are as many steps as plans, with the same numbers. Steps are done at the same time: none may use or mention
another. A takeaway puts together what the steps of its round found and computes nothing new. Use further rounds where
they help, then write the solution and end with the answer in \\boxed{}."""

_PARALLEL_R1 = """\
Solve the problem below step by step. Where several independent views help, open <Parallel>, write at least two paths,
each as <Path>...</Path> and each complete without the others, close with </Parallel>, and put what they found together
in <Summary>...</Summary>. Do so as often as it helps, without announcing it, and do not number the paths. The last line
is "Final Answer: " followed by the answer.

Problem: {question}"""

PROMPTS = {
    "multiverse": Prompts(
        parallel="{question} Think step by step and in parallel before answering.\n",
        sequential="{question} Think step by step before answering.\n",
        system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    "npr": Prompts(parallel=_NPR, sequential=_BOXED),
    "threadweaver": Prompts(
        parallel="{question} Let's think step by step and output the final answer within \\boxed{}.",
        sequential="{question} Let's think step by step and output the final answer within \\boxed{}.",
    ),
    "parallel_r1": Prompts(parallel=_PARALLEL_R1, sequential=_BOXED),
}
"""By dialect."""


def put(
    prompt: Prompt, template: str, tokenizer: Tokenizer, *, chat: bool, system: str | None, preset_system: str | None
) -> Prompt:
    """The prompt with its question, a text or the last message, in a template's place. Text becomes a chat where the
    model has a chat template. `preset_system` goes in front of a chat without a system message. Raises `InvalidInput`
    for token ids."""
    is_text = isinstance(prompt, str)
    messages = chat_messages(prompt, chat=chat or (is_text and has_chat(tokenizer)), system=system)
    if messages:
        *before, last = messages
        messages = [*before, {**last, "content": template.replace(QUESTION, last["content"].rstrip())}]
        if preset_system is not None and messages[0].get("role") != "system":
            messages = [{"role": "system", "content": preset_system}, *messages]
        return messages
    if isinstance(prompt, str):
        return template.replace(QUESTION, prompt.rstrip())
    raise InvalidInput("a preset is for text and messages; this prompt is token ids")


def has_chat(tokenizer: Tokenizer) -> bool:
    """Is there a chat template?"""
    try:
        tokenizer.chat([{"role": "user", "content": "?"}])
    except InvalidInput:
        return False
    return True
