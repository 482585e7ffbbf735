"""The configuration of the Hogwild! paper, and answers at many budgets from one run in a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import plait
from plait import Hogwild, Runtime
from plait.evals import EvalConfig, MethodConfig
from plait.evals.config import read_toml
from plait.evals.rows import Row
from plait.evals.runner import run
from plait.evals.store import Store
from plait.evals.windows import narrow
from plait.tests.runtime.methods.hogwild.random_model import build

CONFIG = Path(plait.__file__).parent / "evals" / "configs" / "papers" / "hogwild.toml"
ROWS = [{"id": "a", "problem": "What is $2+3$?", "answer": "5"}, {"id": "b", "problem": "What is $7$?", "answer": "7"}]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "aime.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def rows(folder: Path) -> list[tuple[str, Row]]:
    return [(key.method, row) for key, unit in Store(folder).read().units.items() for row in unit.rows]


async def test_the_papers_configuration_runs(tmp_path, data):
    """On a random model of the family of QwQ-32B (Qwen2)."""
    given = read_toml(CONFIG)
    assert given["model"] == "Qwen/QwQ-32B"
    given |= {"model": str(build(tmp_path / "model", 17)), "engine": {"device": "cpu", "kv_tokens": 16384}}
    given["benchmark"] |= {"data": str(data), "count": 2}
    for method in given["methods"]:
        assert method["conclusion_tokens"] == 16
        method |= {"attempts": 1}
        if method["method"] == "hogwild":
            assert method["answer_at"][-1] < method["max_tokens"] == 16384
            method |= {"max_tokens": 24, "answer_at": [6, 12]}
        else:
            method |= {"max_tokens": [24, 12]}
    config = EvalConfig(**given)
    assert [method.name for method in config.methods][:2] == ["Hogwild", "Sequential max_tokens=24"]
    spoken = config.methods[1].build(config.benchmark, config.benchmark.load()[0], None).conclusion
    assert spoken == Hogwild(prompt="p").conclusion
    await run(config, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert len(found) == 2 * 5 and not any(row.error for _, row in found)
    for name, row in found:
        if name.startswith("Hogwild"):
            assert row.extra is not None and list(row.extra.numbers) == ["at 6 passes", "at 12 passes"]
    assert "at 12 passes" in (tmp_path / "out" / "report.html").read_text()


async def test_windows_are_derived_where_the_team_has_room(tmp_path, data):
    config = EvalConfig(benchmark={"name": "aime25", "data": str(data)}, methods=[{"method": "hogwild"}])
    sample = config.benchmark.load()[0]
    fields = {"method": "hogwild", "max_tokens": 40, "rules": False, "answer_at": [10], "conclusion_tokens": 8}
    fields |= {"temperature": 0, "self_check_every": 60, "repetition_penalty": 1}
    method = MethodConfig(fields=fields)
    async with Runtime(str(build(tmp_path / "model", 17)), kv_tokens=16384) as runtime:

        async def outcome(window):
            result = await (await runtime.submit(method.build(config.benchmark, sample, window)))
            usage = result.usage
            return result, (result.answer, result.text, result.finish_reason, usage.total_tokens, usage.critical_tokens)

        whole, expected = await outcome(4000)
        least = whole.details["context"]
        for window in (least - 1, least, least + 100):
            built = method.build(config.benchmark, sample, window)
            derived = narrow(built, whole, window, runtime.engine.tokenizer)
            again, seen = await outcome(window)
            if window < least:
                assert derived is None and seen != expected
            else:
                values = (derived.answer, derived.text, derived.finish)
                assert (*values, derived.total_tokens, derived.critical_tokens) == seen == expected
                assert again.details["answers"] == derived.details["answers"]
