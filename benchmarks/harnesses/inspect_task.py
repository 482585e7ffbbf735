"""inspect_ai: problems of the shipped model, its whole answer graded.

PLAIT_BASE_URL=http://127.0.0.1:8000/v1 PLAIT_API_KEY=none python -m plait.benchmarks.harnesses.inspect_task FILE LOGS
"""

from __future__ import annotations

import sys
from pathlib import Path

from inspect_ai import Task, eval, task
from inspect_ai.dataset import Sample, json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, scorer
from inspect_ai.solver import TaskState, generate

from plait.benchmarks.harnesses.graders import is_correct


@scorer(metrics=[accuracy()])  # type: ignore[untyped-decorator, unused-ignore]
def verified() -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=CORRECT if is_correct(state.metadata, state.output.completion) else INCORRECT)

    return score


@task  # type: ignore[untyped-decorator, unused-ignore]
def countdown(problems: str) -> Task:
    """`problems`: a file."""

    def sample(doc: dict[str, object]) -> Sample:
        return Sample(input=str(doc["prompt"]), metadata={"nums": doc["nums"], "target": doc["target"]})

    return Task(
        dataset=json_dataset(str(Path(problems)), sample),
        solver=generate(),
        scorer=verified(),
        config=GenerateConfig(temperature=0, max_tokens=1024),
    )


if __name__ == "__main__":
    eval(
        countdown(sys.argv[1]),
        model="openai-api/plait/countdown",
        log_dir=sys.argv[2],
        log_format="json",
        display="none",
    )
