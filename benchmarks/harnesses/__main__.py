"""lm-eval and inspect_ai over the server against `plait eval`: the same problems, the same scores.

    pip install 'plait[server]' 'lm-eval[hf]' inspect-ai openai
    python -m plait.benchmarks.harnesses --count 100

lm-eval also scores given answers by their log-probabilities: over the server, and by transformers itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ...evals.benchmarks.countdown.benchmark import Countdown
from ...runtime.methods.apr.compact import prompt

HERE = Path(__file__).parent
MODEL = HERE.parents[1] / "models" / "countdown"
LENGTH = 1024
"""New tokens of an answer at most."""


def write_problems(path: Path, count: int, numbers: int) -> None:
    lines = []
    for sample in Countdown(numbers=numbers, count=count).load():
        a, b, c = sample.data.nums[:3]
        steps = [f" {a} {b} + {a + b}", f" {b} {c} * {b * c}", f" {a} {c} + {a + c}", f" {a} {b} * {a * b}"]
        doc = {"nums": sample.data.nums, "target": sample.data.target, "choices": steps, "gold": 0}
        lines.append(json.dumps({**doc, "prompt": prompt(sample.data.nums, sample.data.target, "seq")}))
    path.write_text("\n".join(lines) + "\n")


@contextmanager
def serving() -> Iterator[str]:
    """The shipped model behind HTTP, at a free port: its address."""
    command = [sys.executable, "-m", "plait", "serve", str(MODEL), "--port", "0", "--name", "countdown"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next((line for line in process.stderr if "http://" in line), "")
        yield re.findall(r"http://[\d.:]+", line)[0]
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def run(folder: Path, *arguments: str, **environment: str) -> None:
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=os.environ | quiet | environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def by_plait(folder: Path) -> float:
    method = f"sequential:max_tokens={LENGTH},temperature=0"
    run(folder, "-m", "plait", "eval", "--benchmark", "countdown", "--data", "problems.jsonl", "--method", method,
        "--model", str(MODEL), "--out", "out")  # fmt: skip
    run(folder, "-m", "plait", "eval", "out", "--export", "rows.jsonl")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return sum(bool(row["correct"]) for row in rows) / len(rows)


def by_lm_eval(folder: Path, model: str, arguments: str, task: str, metric: str) -> float:
    out = folder / f"lm-eval-{model}-{task}"
    run(folder, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments, "--tasks", task,
        "--include_path", str(HERE), "--output_path", str(out), "--device", "cpu")  # fmt: skip
    results = json.loads(next(out.rglob("results_*.json")).read_text())["results"]
    return float(results[task][f"{metric},none"])


def by_inspect(folder: Path, url: str) -> float:
    run(folder, "-m", "plait.benchmarks.harnesses.inspect_task", "problems.jsonl", "logs",
        PLAIT_BASE_URL=f"{url}/v1", PLAIT_API_KEY="none")  # fmt: skip
    log = json.loads(next((folder / "logs").glob("*.json")).read_text())
    assert log["status"] == "success", log.get("error")
    return float(log["results"]["scores"][0]["metrics"]["accuracy"]["value"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="problems")
    parser.add_argument("--numbers", type=int, default=3, help="of each problem")
    options = parser.parse_args()
    count = options.count
    missing = [name for name in ("lm_eval", "inspect_ai") if find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}")
        return 1
    scores: dict[str, list[tuple[str, float]]] = {"answers": [], "choices": []}
    with TemporaryDirectory() as name, serving() as url:
        folder = Path(name)
        write_problems(folder / "problems.jsonl", count, options.numbers)
        common = f"tokenizer={MODEL},add_bos_token=True,max_length=4096"
        remote = (
            f"model=countdown,base_url={url}/v1/completions,num_concurrent=8,tokenizer_backend=huggingface,{common}"
        )
        scores["answers"].append(("`plait eval`", by_plait(folder)))
        told = by_lm_eval(folder, "local-completions", remote, "plait_countdown", "correct")
        scores["answers"].append(("lm-eval over the server", told))
        scores["answers"].append(("inspect_ai over the server", by_inspect(folder, url)))
        local = f"pretrained={MODEL},dtype=float32,{common}"
        scores["choices"].append(("lm-eval with transformers", by_lm_eval(folder, "hf", local, "plait_choice", "acc")))
        told = by_lm_eval(folder, "local-completions", remote, "plait_choice", "acc")
        scores["choices"].append(("lm-eval over the server", told))
    print(f"| {count} problems | by | score |\n| --- | --- | --- |")
    for task, rows in scores.items():
        for by, score in rows:
            print(f"| {task} | {by} | {score:.3f} |")
    return int(any(len({score for _, score in rows}) > 1 for rows in scores.values()))


if __name__ == "__main__":
    sys.exit(main())
