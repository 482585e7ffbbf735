"""What the prompts of several machines say alike."""

from __future__ import annotations

from ..executions import how, shorten
from ..sandbox.base import Execution

RULES = """\
Rules for the script:
- It is one Python file that runs by itself, without arguments: `python reproduce.py`. The project and all that it needs
  are installed; import the project by its name. There is no network.
- It tests what the issue asks for and nothing else, by calling the project's real code. No placeholders, no mocks of
  the code that is to be fixed.
- It prints what it does and what it sees.
- It ends with one of these exit codes: `sys.exit(2)` if the issue is there (the project does not do what the issue asks
  for), `sys.exit(0)` if the issue is fixed. Any other end, such as an exception that is not part of the issue, means
  that the script itself is broken (exit code 1). An exception that the issue is about is caught.

For an issue "wrap() loses the last word" of a project `textwrap`, a script could look like this:
<test>
import sys
from textwrap import wrap

result = wrap("one two three", width=7)
print("the result is", result)
if result == ["one two", "three"]:
    print("It is fixed.")
    sys.exit(0)
print("The issue is there.")
sys.exit(2)
</test>"""


def report(execution: Execution) -> str:
    """What a model is told of a run."""
    output = shorten(execution.output).strip("\n")
    return f"Exit code {execution.exit_code}{how(execution)}.\n<output>\n{output or '(nothing)'}\n</output>"


def quoted(text: str) -> str:
    """A text for a place inside a prompt, without blank lines around it."""
    return text.strip("\n")
