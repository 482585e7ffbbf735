"""On several models, and on a real one: what is shared is read once, whatever way the context is encoded."""

from __future__ import annotations

import pytest

from plait import CodeMonkeys, Recorder, ReplayEngine, Runtime, ScriptedEngine, register_scheme
from plait.agents.fields import CONTEXT_SHARE
from plait.runtime.engines.registry import last_part
from plait.tests import real
from plait.tests.agents.test_code_monkeys import PASSES_GOOD, folder, model  # noqa: F401 - a fixture
from plait.tests.agents.tools import GOOD, ISSUE, PRETENDED, WRONG, edit, run, test

OTHERS: list[ScriptedEngine] = []


def load_other(rest, options):
    limit = options.get("context_limit", 60_000)
    OTHERS.append(ScriptedEngine(model(), name=f"other-{last_part(rest)}", context_limit=limit))
    return OTHERS[-1]


register_scheme("test_monkeys", load_other)


async def test_stages_run_on_models_of_their_own(folder):  # noqa: F811
    OTHERS.clear()
    models = {"tests": {"model": "test_monkeys:t", "options": {"context_limit": 9_000}}, "ranking": "test_monkeys:r"}
    result, own = await run(model(), folder, models=models, prices={"tests": {"input": 1, "output": 1}})
    stages = result.details["costs"]["stages"]
    assert {name: stage["model"] for name, stage in stages.items()} == {
        "relevance": "scripted", "ranking": "other-r", "tests": "other-t", "edits": "scripted",
    }  # fmt: skip
    assert not any("Write a Python script" in prompt for prompt in own.prompts)
    assert {engine.context_limit for engine in OTHERS} == {9_000, 60_000}
    labels = {branch.label: branch.model for branch in result.trace.branches.values()}
    assert labels["test 0"] == "other-t" and labels["edit 0"] is None
    assert "price" in stages["tests"] and "price" not in stages["edits"]
    assert all(not engine.branches for engine in OTHERS)


@pytest.mark.parametrize("place", ["own", "adapter", "stage", "stage's adapter"])
async def test_a_folder_of_jobs_knows_models_of_one_name_apart(folder, tmp_path, place):  # noqa: F811
    written = []
    for number in (0, 1, 0):
        path = tmp_path / str(number) / "model"
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(str(number))
        # The stage's model is another one in the same place: fields tell others apart.
        (tmp_path / "model").unlink(missing_ok=True)
        (tmp_path / "model").symlink_to(path)
        fields = {"issue": ISSUE, "edits": "functions", "n": 1, "sandbox": PRETENDED, "folder": tmp_path / "jobs"}
        edits = {
            "stage": f"test_monkeys:{tmp_path / 'model'}",
            "stage's adapter": {"model": "test_monkeys:model", "options": {"adapter": str(tmp_path / "model")}},
        }
        models = {"edits": edits[place]} if place in edits else {}
        options = {"adapter": str(path)} if place == "adapter" else {}
        async with Runtime(f"test_monkeys:{path if place == 'own' else 'model'}", **options) as runtime:
            result = await (await runtime.submit(CodeMonkeys(repository=folder, models=models, **fields)))
        written.append(result.usage.generated_tokens)
    assert written[0] == written[1] > 0 == written[2]


@pytest.mark.parametrize("encoding", ["sequential", "parallel"])
async def test_a_real_model_reads_shared_context_once(folder, encoding):  # noqa: F811
    """SmolLM2 fixes nothing; that what it writes is no edit is normal."""
    fields = {
        "issue": ISSUE,
        "n": 4,
        "edits": "functions",
        "sandbox": PRETENDED,
        "scan": 0,
        "test_calls": 1,
        "edit_calls": 2,
        "max_tokens": 24,
        "encoding": encoding,
    }
    async with Runtime(str(real.folder("smol135")), kv_tokens=16_384) as runtime:
        job = await runtime.submit(CodeMonkeys(repository=folder, **fields))
        result = await job
        usage = runtime.engine.block_usage()
        assert usage.used == 0 and usage.free + usage.cached == usage.total
    costs, context = result.details["costs"], result.details["context"]
    assert set(context["parts"]) == {"texttools/slug.py", "texttools/__init__.py", "texttools/numbers.py"}
    assert 0 < context["tokens"] < CONTEXT_SHARE * 8192
    naive = costs["input"] + costs["cached"] + (4 * 2 * context["tokens"] if encoding == "parallel" else 0)
    assert result.usage.prefilled_tokens < naive / 3, "four trajectories, two calls each, and one reading"
    calls = [one["calls"] for one in result.details["edit_trajectories"]]
    assert calls == [2, 2, 2, 2] and result.answer is None


async def test_a_recorded_job_is_played_back(folder, tmp_path):  # noqa: F811
    """Any engine's run comes again without the engine: the same calls, patches and votes."""
    script = model(edits=[edit(WRONG), edit(GOOD)], decided=["<done>", test(PASSES_GOOD), "<done>"])
    recorder = Recorder(ScriptedEngine(script, context_limit=60_000), tmp_path / "calls.jsonl")
    fields = {"repository": folder, "issue": ISSUE, "project": "texttools", "edits": "functions", "n": 2}
    job = CodeMonkeys(**fields, sandbox=PRETENDED)
    async with Runtime(engine=recorder) as runtime:
        first = await (await runtime.submit(job, seed=3))
    async with Runtime(engine=ReplayEngine(tmp_path / "calls.jsonl")) as runtime:
        again = await (await runtime.submit(job, seed=3))
    assert again.answer == first.answer is not None
    for name in ("candidates", "tests", "edit_trajectories", "test_trajectories", "chosen_by"):
        assert again.details[name] == first.details[name]
