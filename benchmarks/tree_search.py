"""Tree search on held-out Countdown problems: accuracy against KV memory and tokens, strategy by strategy.

    python -m plait.benchmarks.tree_search run --width 16 --width 64 --count 200 --out runs/tree_search.jsonl
    python -m plait.benchmarks.tree_search report runs/tree_search.jsonl --plot docs/tree_search.svg

`run` appends a line per job and goes on where the file ends; one job at a time, so that times and memory are its own.
Problems are the first of our validation problems, the same for every strategy, with the same seeds; `--seed` draws
others, to choose settings on, and `--strategy '{"strategy": "ets", "cost_weight": 1.5}'` tries some. KV blocks are the
unique ones that the engine counts for the job: the mean over its levels, while all children of the level are there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from ..evals.benchmarks.countdown.problems import Problem, validation
from ..evals.benchmarks.countdown.verify import verify
from ..evals.report.plots import Point, Series, line_plot
from ..evals.stats import paired_bootstrap, wilson
from ..runtime.methods.apr.compact import prompt
from ..runtime.result import Result
from ..runtime.runtime import Runtime
from ..search import DVTS, ETS, PRM, Beam, BestOfN, Rebase, Strategy, TreeSearch
from ..search.strategies import parse_strategy

COST, DISTANCE = 2.0, 0.4
"""Weight of the KV cost, and cosine distance up to which hidden states of the policy's steps are one cluster: chosen on
30 other problems at width 64. Coverage weights are the released ones."""
STRATEGIES: dict[str, Strategy] = {
    "best-of-N": BestOfN(),
    "beam": Beam(),
    "DVTS": DVTS(),
    "REBASE": Rebase(),
    "ETS": ETS(cost_weight=COST, cluster_distance=DISTANCE),
    "ETS, no coverage": ETS(cost_weight=COST, coverage_weight=0),
    "ETS, released": ETS(cluster_distance=DISTANCE),
}
STYLE = """<style>
svg { font: 12px sans-serif; background: #fff } .grid { stroke: #ddd } .axis { stroke: #333 }
polyline { fill: none; stroke: currentColor; stroke-width: 1.5 } .interval { stroke: currentColor; opacity: .4 }
circle, rect { fill: currentColor }
.c0 { color: #888 } .c1 { color: #2a7 } .c2 { color: #a5c } .c3 { color: #36c }
.c4 { color: #d33 } .c5 { color: #e90 } .c6 { color: #b88 }
</style>"""


def build(name: str, problem: Problem, width: int, reward: str) -> TreeSearch:
    """The search for one problem; a step is one operation. `name`: of `STRATEGIES`, or a strategy as JSON."""
    return TreeSearch(
        prompt=prompt(problem.nums, problem.target, "step"),
        strategy=STRATEGIES.get(name) or parse_strategy(json.loads(name)),
        width=width,
        reward=PRM(model=reward),
        delimiters=(";",),
        step_tokens=24,
        max_tokens=96,
        max_depth=len(problem.nums) - 1,
        answer="equations",
        logprobs=False,
    )


def strategy(text: str) -> str:
    """The text if `build` can use it. Raises `InvalidJob` or, where it is neither a name nor JSON, `ValueError`."""
    if text not in STRATEGIES:
        parse_strategy(json.loads(text))
    return text


def row(result: Result, problem: Problem) -> dict[str, Any]:
    """What is kept of one job."""
    usage, details = result.usage, result.details
    levels = details["levels"]
    return {
        "solved": bool(verify(problem.nums, problem.target, result.answer or "")),
        "found": any(verify(problem.nums, problem.target, answer) for answer in details["votes"]),
        "mean_blocks": details["kv_blocks"]["mean"],
        "peak_blocks": details["kv_blocks"]["peak"],
        "mean_blocks_in_time": usage.mean_kv_blocks,
        "step_tokens": sum(level["step_tokens"] for level in levels),
        "tokens": usage.generated_tokens,
        "seconds": usage.seconds,
        "step_seconds": usage.phases["steps"] + usage.phases["score"] + usage.phases.get("select", 0.0),
        "solver_seconds": [level["solver_seconds"] for level in levels if "solver_seconds" in level],
        "levels": len(levels),
        "prm_prefilled": details["reward"]["prefilled_tokens"],
        "prm_stateless": details["reward"]["stateless_tokens"],
    }


async def run(args: argparse.Namespace) -> None:
    """Work off the grid; widths outermost, so that what is done can be compared at any time."""
    done = {(r["strategy"], r["width"], r["numbers"], r["problem"]) for r in read(args.out)}
    problems = validation(args.numbers, args.count, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    async with Runtime(args.model) as runtime:
        with args.out.open("a", encoding="utf-8") as file:
            for width in args.width:
                for i, problem in enumerate(problems):
                    for name in args.strategy or STRATEGIES:
                        if (name, width, args.numbers, i) in done:
                            continue
                        job = await runtime.submit(build(name, problem, width, args.reward), seed=i)
                        key = {"strategy": name, "width": width, "numbers": args.numbers, "problem": i}
                        file.write(json.dumps({**key, **row(await job, problem)}) + "\n")
                        file.flush()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a result file; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ordered(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The strategies of the rows, those of `STRATEGIES` first."""
    found = dict.fromkeys(r["strategy"] for r in rows)
    return [*(name for name in STRATEGIES if name in found), *(name for name in found if name not in STRATEGIES)]


def mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.fmean(r[name] for r in rows)


def report(rows: Sequence[dict[str, Any]], numbers: int, width: int) -> None:
    """Tables of one width, over the problems that all of its strategies have solved or not."""
    here = [r for r in rows if r["width"] == width and r["numbers"] == numbers]
    names = ordered(here)
    shared = set.intersection(*({r["problem"] for r in here if r["strategy"] == name} for name in names))
    by_name = {
        name: sorted((r for r in here if r["strategy"] == name and r["problem"] in shared), key=lambda r: r["problem"])
        for name in names
    }
    table = Table(title=f"{numbers} numbers, width {width}, {len(shared)} problems", box=MARKDOWN)
    columns = ("mean KV", "peak KV", "KV in time", "step tokens", "tokens", "seconds", "PRM prefilled", "stateless")
    for column in ("strategy", "solved", "95 %", "found", *columns):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for name, its in by_name.items():
        solved = sum(r["solved"] for r in its)
        low, high = wilson(solved, len(its))
        table.add_row(
            name,
            f"{solved / len(its):.1%}",
            f"{low:.1%} - {high:.1%}",
            f"{mean(its, 'found'):.1%}",
            *(f"{mean(its, value):,.1f}" for value in ("mean_blocks", "peak_blocks", "mean_blocks_in_time")),
            *(f"{mean(its, value):,.0f}" for value in ("step_tokens", "tokens")),
            f"{mean(its, 'seconds'):.2f}",
            *(f"{mean(its, value):,.0f}" for value in ("prm_prefilled", "prm_stateless")),
        )
    console = Console(width=160)
    console.print(table)
    for name in names:
        if name != "REBASE" and "REBASE" in names:
            compare(by_name["REBASE"], by_name[name], name, console)


def compare(base: Sequence[dict[str, Any]], its: Sequence[dict[str, Any]], name: str, console: Console) -> None:
    """A strategy against REBASE: memory, accuracy problem by problem, time of the solver if it has one."""
    gap = paired_bootstrap([r["solved"] for r in its], [r["solved"] for r in base])
    ratios = [
        f"{mean(base, value) / mean(its, value):.2f}x {label}"
        for value, label in (
            ("mean_blocks", "smaller mean KV"),
            ("peak_blocks", "peak"),
            ("step_tokens", "by step tokens"),
            ("mean_blocks_in_time", "in time"),
        )
    ]
    line = f"{name} against REBASE: {', '.join(ratios)}; "
    line += f"accuracy {gap.mean:+.1%} ({gap.low:+.1%} to {gap.high:+.1%})"
    solver = [seconds for r in its for seconds in r["solver_seconds"]]
    if solver:
        share = sum(solver) / sum(r["step_seconds"] for r in its)
        line += f"; solver {1e3 * statistics.median(solver):.1f} ms median, {share:.1%} of the steps' time"
    console.print(line, soft_wrap=True)


def plot(rows: Sequence[dict[str, Any]], numbers: int, cost: str, label: str) -> str:
    """Accuracy against a cost, a line per strategy over its widths."""
    series = []
    for index, name in enumerate(STRATEGIES):
        points = []
        for width in sorted({r["width"] for r in rows}):
            its = [r for r in rows if (r["strategy"], r["width"], r["numbers"]) == (name, width, numbers)]
            if its:
                solved = sum(r["solved"] for r in its)
                low, high = wilson(solved, len(its))
                points.append(Point(x=mean(its, cost), y=solved / len(its), low=low, high=high, note=f"width {width}"))
        if points:
            series.append(Series(name=name, index=index, points=tuple(points)))
    return line_plot(series, x_label=label, is_logarithmic=True)


def picture(rows: Sequence[dict[str, Any]], numbers: int) -> str:
    """Both plots side by side, with a legend, as one SVG."""
    left = plot(rows, numbers, "mean_blocks", "mean KV blocks").replace("<svg ", '<svg width="520" height="320" ', 1)
    right = plot(rows, numbers, "tokens", "generated tokens").replace(
        "<svg ", '<svg x="530" width="520" height="320" ', 1
    )
    names = [name for name in STRATEGIES if any(r["strategy"] == name for r in rows)]
    legend = "".join(
        f'<g class="c{list(STRATEGIES).index(name)}"><circle cx="{60 + 145 * i}" cy="336" r="5"/>'
        f'<text x="{70 + 145 * i}" y="340" fill="#000">{name}</text></g>'
        for i, name in enumerate(names)
    )
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1060 350" width="1060" height="350">'
    return f"{head}{STYLE}{left}{right}{legend}</svg>\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--width", type=int, action="append", required=True)
    runs.add_argument("--count", type=int, default=200, help="problems")
    runs.add_argument("--numbers", type=int, default=4)
    runs.add_argument("--seed", type=int, default=0, help="of the problems; a file holds those of one seed")
    runs.add_argument("--strategy", action="append", type=strategy, help=f"{', '.join(STRATEGIES)}, or a JSON object")
    runs.add_argument("--model", default="countdown")
    runs.add_argument("--reward", default="countdown_prm")
    runs.add_argument("--out", type=Path, default=Path("runs/tree_search.jsonl"))
    reports = commands.add_parser("report")
    reports.add_argument("file", type=Path)
    reports.add_argument("--plot", type=Path, help="SVG file")
    reports.add_argument("--numbers", type=int, default=4)
    args = parser.parse_args()
    if args.command == "run":
        asyncio.run(run(args))
        return
    rows = read(args.file)
    for width in sorted({r["width"] for r in rows if r["numbers"] == args.numbers}):
        report(rows, args.numbers, width)
    if args.plot:
        args.plot.write_text(picture(rows, args.numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
