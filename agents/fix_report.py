"""What `plait fix` says in the end: the patch, its tests, why it was chosen and what it cost."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from ..runtime.printable import printable
from ..runtime.result import Finish, Result
from .executions import how
from .sandbox.base import Execution
from .voting import REPRODUCED

SHOWN_TESTS = 2
_STYLES = (("+++", "bold"), ("---", "bold"), ("diff ", "bold"), ("+", "green"), ("-", "red"), ("@@", "cyan"))


def print_patch(patch: str) -> None:
    """To standard output: byte for byte, or for people where that is a terminal."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        sys.stdout.write(patch)
        sys.stdout.flush()
        return
    for line in printable(patch).removesuffix("\n").split("\n"):
        style = next((style for start, style in _STYLES if line.startswith(start)), "")
        console.print(Text(line, style=style))


def report(result: Result, console: Console) -> None:
    """Everything but the patch."""
    details = result.details
    if not details["context"]["parts"]:
        _say(console, "the model was shown no code: nothing of what is relevant fits into context_tokens")
    if result.answer is None:
        _say(console, _why_not(details))
    else:
        chosen = details["candidates"][details["chosen"]]
        tests = _speaking(details, chosen)
        _say(console, _tests(details, chosen, tests))
        for script in tests[:SHOWN_TESTS]:
            console.print(
                Text("\n".join(f"    {line}" for line in printable(script).split("\n")).rstrip(), style="dim")
            )
        if len(tests) > SHOWN_TESTS:
            _say(console, f"    ... and {len(tests) - SHOWN_TESTS} more")
        _say(console, _why(details, chosen))
        if silent := _silent_check(details, chosen):
            _say(console, f"{silent}: it says nothing of the patch")
    if details.get("failed_machines"):
        name, error = next(iter(details["failed_machines"].items()))
        _say(console, f"{len(details['failed_machines'])} trajectories failed: {name}: {error}")
    if result.finish_reason is not Finish.STOP:
        _say(console, f"it ended early, for want of {_WANTS.get(result.finish_reason, result.finish_reason.value)}")
    _say(console, _cost(details, result.usage.seconds))


_WANTS = {
    Finish.DEADLINE: "time",
    Finish.TOTAL_TOKENS: "tokens",
    Finish.CRITICAL_TOKENS: "tokens on the critical path",
    Finish.MEMORY: "memory for the context",
}


def _say(console: Console, text: str) -> None:
    console.print(Text(printable(text)))


def _speaking(details: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """Different tests that show the issue before the patch, and pass with it."""
    tests = details["tests"]
    return list(dict.fromkeys(tests[i]["script"] for i in chosen["passed"] if tests[i]["exit_code"] == REPRODUCED))


def _tests(details: dict[str, Any], chosen: dict[str, Any], speaking: Sequence[str]) -> str:
    tests = details["tests"]
    if not tests:
        return "tests: none were written; nothing was run to see whether it is right"
    showing = sum(test["exit_code"] == REPRODUCED for test in tests)
    if not showing:
        return f"tests: none of {len(tests)} shows the issue; look at the patch with care"
    said = (
        f"tests: {showing} of {len(tests)} show the issue, {chosen['votes_of_reproducing']} of them pass with the patch"
    )
    return said + (":" if speaking else "; look at it with care")


def _why(details: dict[str, Any], chosen: dict[str, Any]) -> str:
    count, by = len(details["candidates"]), details["chosen_by"]
    found = f"chosen: {'the only candidate' if count == 1 else f'by {by}, out of {count} candidates'}; "
    if details["tests"]:
        found += f"it passes {chosen['votes']} of all {len(details['tests'])} tests; "
    found += f"proposed by {_some(chosen['sources'])}"
    if chosen["keeps"] is False:
        found += "; the check command fails with it"
    return found


def _silent_check(details: dict[str, Any], chosen: dict[str, Any]) -> str:
    """Why the check command tells nothing of the patch; empty: it does, or there is none."""
    if chosen["keeps"] is None:
        return "the check did not come to its end before the deadline"
    if "check_before" not in details or details["check_before"]["exit_code"] == 0:
        return ""
    before = Execution(output="", **details["check_before"])
    if before.ended == "exit":
        return f"the check fails without the patch, too (exit code {before.exit_code})"
    return f"the check does not come to its end without the patch{how(before)}"


def _why_not(details: dict[str, Any]) -> str:
    """The last thing that kept a trajectory from an edit says most."""
    trajectories = details["edit_trajectories"]
    ends = Counter(one["end"] for one in trajectories)
    found = f"no patch: none of {len(trajectories)} trajectories gave an edit ("
    found += ", ".join(f"{name}: {count}" for name, count in ends.most_common()) + ")"
    if details["candidates"]:
        found += f"; of {_some(source for one in details['candidates'] for source in one['sources'])} none applies"
    reasons = [step["text"] for one in trajectories for step in one["history"] if step["kind"] == "misparse"]
    return found + (f"; the last answer that could not be read: {reasons[-1]}" if reasons else "")


def _cost(details: dict[str, Any], seconds: float) -> str:
    costs = details["costs"]
    found = (
        f"cost: {costs['calls']:,} model calls, {costs['input']:,} tokens read ({costs['cached']:,} more were known), "
    )
    found += f"{costs['output']:,} written; {details['executions']:,} runs of tests; {seconds:.1f} s"
    return found + (f"; price {costs['price']:.4g}" if "price" in costs else "")


def _some(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
