"""Rewards: a benchmark's grader says whether a rollout was right, and what its parts were worth."""

from __future__ import annotations

from ...evals.benchmark import Benchmark, Sample
from ...evals.failures import failure
from ...evals.verdicts import checked
from ...evals.verdicts import judge as judged
from ...runtime.engine import Tokenizer
from ...runtime.methods.answers import extract
from ...runtime.methods.base import Method
from ...runtime.methods.prompt import context_text
from ...runtime.methods.sequential import Answering
from ...runtime.result import Result
from ...runtime.trace.trace import Trace
from .credit import Told
from .judges import Judge, Thread


async def outcome(benchmark: Benchmark, sample: Sample, method: Method, result: Result) -> tuple[float | None, str]:
    """1.0 for a right answer, 0.0 for a wrong one, None where the machine failed the job; and the grader's reason.
    Raises as `evals.verdicts.judge` does."""
    failed = failure(result.trace)
    if failed is not None:
        return None, failed[1]
    verdict = await judged(benchmark, sample, method, result.answer, result.text, result.details)
    return float(verdict.correct), verdict.reason


def told(sample: Sample, trace: Trace, tokenizer: Tokenizer, judge: Judge) -> dict[str, Told]:
    """The verdict on every branch whose result another one took over. May block."""
    joined = {child: None for join in trace.joins for child in join.children if child in trace.branches}
    threads = {branch: _thread(trace, branch, tokenizer) for branch in joined}
    return {
        branch: Told(f"{thread.prompt}\n{thread.label}", judge(sample, thread)) for branch, thread in threads.items()
    }


def grown(
    benchmark: Benchmark, sample: Sample, method: Method, trace: Trace, tokenizer: Tokenizer
) -> dict[str, float | None]:
    """The grade of every leaf that was not pruned, as it stands in the end, cut off or not: the samples of a vote, the
    trajectories of a search. May block; raises as `evals.verdicts.checked` does."""
    if not isinstance(method, Answering):
        return {}
    inner = {record.parent for record in trace.branches.values()}
    joined = {child for join in trace.joins for child in join.children}
    found: dict[str, float | None] = {}
    for record in trace.branches.values():
        is_leaf = record.parent is not None and record.id not in inner and record.id not in joined
        if not is_leaf or record.pruned is not None or trace.model_of(record.id) is not None:
            continue
        text = _thread(trace, record.id, tokenizer).text
        verdict = checked(benchmark, sample, benchmark.grade(sample, extract(method.answer, text), text))
        found[record.id] = float(verdict.correct)
    return found


def _thread(trace: Trace, branch: str, tokenizer: Tokenizer) -> Thread:
    """A branch as it stood in the end. The text of a fork is what came since the root's prompt, that of others what
    came behind their own."""
    segments = trace.segments_of(branch)
    if not segments:
        return Thread(label=trace.branches[branch].label, prompt="", text="")
    last = segments[-1]
    tokens: list[int] = []
    prompt = 0
    for span in last.view:
        if span.is_text:
            seen = trace.segments[span.segment]
            tokens += seen.token_ids[: span.length]
    tokens += last.token_ids
    first = trace.segments[last.view[0].segment] if last.view else last
    if first.pieces and first.pieces[0].kind == "prompt":
        prompt = len(first.pieces[0].token_ids)
    opened = context_text(tokens[:prompt], tokenizer)
    return Thread(
        label=trace.branches[branch].label,
        prompt=opened,
        text=context_text(tokens, tokenizer).removeprefix(opened),
    )
