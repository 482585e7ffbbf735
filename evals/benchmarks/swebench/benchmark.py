"""SWE-bench: issues of real repositories, fixed by `CodeMonkeys`, graded by the repositories' own tests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from weakref import WeakKeyDictionary

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from ....agents.environments import build
from ....agents.fields import Fields
from ....agents.patches import is_empty
from ....agents.repository import Repository
from ....agents.sandbox.base import SANDBOXES, Sandbox, parse_sandbox
from ....runtime.disk import cache_folder
from ....runtime.errors import InvalidInput
from ....runtime.methods.base import Method
from ....runtime.spec import Several
from ...benchmark import Answered, Benchmark, Sample, Verdict
from ...extras import Extra
from ...trajectories import figures
from ...trajectories.replay import Trajectories, run_tests
from . import official
from .export import export
from .grading import LOCAL, CannotGrade, Grade, LocalGrader, check_package
from .instances import Instance, load_instances, read_instances
from .mirrors import clone, find_mirror
from .recipes import Recipes, TestRecipe, script_command, shipped
from .work import Prepared, Work


def _sandbox(value: object) -> object:
    return {"sandbox": value} if isinstance(value, str) else value


class SweBench(Benchmark):
    """SWE-bench Verified, or other instances in its format."""

    name: Literal["swebench"] = "swebench"
    """What configurations call it."""
    dataset: str = "SWE-bench/SWE-bench_Verified"
    """Data set of the Hugging Face hub, read by `datasets` where there is no `data`."""
    split: str = "test"
    """Its split."""
    instances: Several[str] = ()
    """Ids of those that are taken; empty: all."""
    repos: Path | None = None
    """Folder of local git mirrors, found as `owner__name`, `owner+name/repo`, `owner/name` or `name`, with or without
    `.git`."""
    clone: bool = False
    """May repositories that are not there be cloned, into `cache`?"""
    source: str = "https://github.com/{repo}.git"
    """Where they are cloned from."""
    cache: Path = Field(default_factory=lambda: cache_folder("swebench"))
    """Folder of environments and clones."""
    recipes: Path | None = None
    """TOML file of recipes, which go before those that come with plait; see `configs/recipes.toml` beside this file."""
    sandbox: Annotated[dict[str, Any], BeforeValidator(_sandbox)] = {"sandbox": "bubblewrap"}
    """What a job's and the grading's tests run in, without the environment, which is the instance's; `local` for
    short."""
    grader: Literal["auto", "docker", "local"] = "auto"
    """`docker`: the official harness in its images. `local`: the tests in the sandbox. `auto`: `docker` where a daemon
    answers and the row says what the harness needs."""
    seconds: float = Field(default=1800.0, gt=0)
    """That the tests of one grading may take."""
    gradings: int = Field(default=2, ge=1)
    """Gradings at a time."""
    coverage: bool = False
    """Grade all candidates, not only the chosen one: gives the share of problems that any of them resolves, and both
    curves by model calls."""
    excuse_environment: bool = False
    """Leave out tests of PASS_TO_PASS that fail here without any patch. The official rule does not."""
    _work: WeakKeyDictionary[asyncio.AbstractEventLoop, Work] = PrivateAttr(default_factory=WeakKeyDictionary)

    @model_validator(mode="after")
    def _check_sandbox(self) -> Self:
        if SANDBOXES.find(self.sandbox.get("sandbox")) is None:
            raise ValueError(f"sandbox: {SANDBOXES.unknown(self.sandbox.get('sandbox'))}")
        if "environment" in self.sandbox:
            raise ValueError("sandbox: the environment is the instance's: write a recipe")
        return self

    # -- problems ------------------------------------------------------------------------------------------------

    def load(self) -> list[Sample]:
        rows = load_instances(self.dataset, self.split) if self.data is None else read_instances(self.data)
        if unknown := set(self.instances) - {row.id for row in rows}:
            raise InvalidInput(f"instances: {', '.join(sorted(unknown))} is not in the data")
        rows = [row for row in rows if not self.instances or row.id in self.instances][: self.count]
        return [
            Sample(id=row.id, question=row.problem_statement, reference=row.patch or None, data=row) for row in rows
        ]

    def check_ready(self, samples: Sequence[Sample]) -> None:
        """Raises `InvalidInput` for a repository or a recipe that is not there."""
        rows = [sample.data for sample in samples]
        self._check_repositories(rows)
        self._check_recipes(rows)

    def _check_repositories(self, rows: Sequence[Instance]) -> None:
        missing = sorted({row.repo for row in rows if self.mirror(row) is None})
        if missing and not self.clone:
            where = "give --repos DIR" if self.repos is None else f"put mirrors into {self.repos}"
            raise InvalidInput(f"there is no {', '.join(missing)}: {where}, or --set clone=true to clone them")

    def _check_recipes(self, rows: Sequence[Instance]) -> None:
        needs = "environment" in self._sandbox_kind.model_fields
        missing = Counter(f"{row.repo} {row.version}" for row in rows if needs and self.recipe(row) is None)
        if missing:
            names = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
            raise InvalidInput(
                f"there is no recipe for the environment of {names}: write it into a file (--set recipes=FILE), or "
                "choose others (--set 'instances=[...]')"
            )

    def mirror(self, instance: Instance) -> Path | None:
        return None if self.repos is None else find_mirror(self.repos, instance.repo)

    def recipe(self, instance: Instance) -> TestRecipe | None:
        """The user's, or the one that comes with plait."""
        own = None if self.recipes is None else Recipes.read(self.recipes).find(instance)
        return own or shipped().find(instance)

    def inputs(self, samples: Sequence[Sample]) -> dict[str, Any]:
        if self.recipes is None:
            return {}
        own = Recipes.read(self.recipes)
        found = ((sample.id, own.find(sample.data)) for sample in samples)
        return {"recipes": {id: recipe.model_dump(mode="json") for id, recipe in found if recipe is not None}}

    @property
    def _sandbox_kind(self) -> type[Sandbox]:
        found = SANDBOXES.find(self.sandbox["sandbox"])
        assert found is not None
        return found

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def prepare(self, sample: Sample) -> None:
        """The repository, the environment, and for local grading what the tests give without any patch. Raises
        `InvalidInput`, and `CannotGrade` where the tests do not run here."""
        await self._prepared(sample.data)

    async def _prepared(self, instance: Instance) -> Prepared:
        work = self._work.setdefault(asyncio.get_running_loop(), Work(self.gradings))
        async with work.lock(instance.id):
            if error := work.unusable.get(instance.id):
                raise error
            if instance.id not in work.prepared:
                try:
                    work.prepared[instance.id] = await self._prepare(work, instance)
                except CannotGrade as error:
                    # Its tests would run as long for each of its jobs, to the same end.
                    work.unusable[instance.id] = error
                    raise
            return work.prepared[instance.id]

    async def _prepare(self, work: Work, instance: Instance) -> Prepared:
        await asyncio.to_thread(check_package)
        path = self.mirror(instance)
        if path is None:
            url = self.source.format(repo=instance.repo)
            async with work.lock(instance.repo):
                path = await asyncio.to_thread(clone, url, instance.repo, self.cache / "clones")
        repository = await asyncio.to_thread(Repository, path, instance.base_commit)
        recipe = self.recipe(instance)
        fields = self._sandbox_fields(instance)
        if recipe is not None and "environment" in self._sandbox_kind.model_fields:
            folder = self.cache / "environments"
            async with work.lock(str(recipe.folder(folder))):
                fields["environment"] = (await build(recipe, folder)).model_dump()
        sandbox = parse_sandbox(fields)
        await asyncio.to_thread(sandbox.check)
        prepared = Prepared(repository=repository, sandbox=sandbox)
        if not await self._is_official(work, instance):
            command = recipe.command(instance) if recipe is not None else script_command(instance)
            parser = recipe.log_parser if recipe is not None else ""
            prepared.grader = LocalGrader(instance, repository, sandbox, command, parser, self.seconds)
            async with work.slots:
                prepared.baseline = await prepared.grader.baseline()
        return prepared

    def _sandbox_fields(self, instance: Instance) -> dict[str, Any]:
        """All but the environment."""
        image = {"image": instance.image} if instance.image and "image" in self._sandbox_kind.model_fields else {}
        return {**image, **self.sandbox}

    async def _is_official(self, work: Work, instance: Instance) -> bool:
        """Does the official harness grade it? Raises `InvalidInput` if it should and cannot."""
        if self.grader == "local" or (self.grader == "auto" and not instance.is_official):
            return False
        async with work.lock("docker"):
            if work.has_docker is None:
                work.has_docker = await asyncio.to_thread(official.has_docker)
        if self.grader == "auto":
            return work.has_docker
        if not work.has_docker:
            raise InvalidInput("no docker daemon answers: start it, or --set grader=local")
        if not instance.is_official:
            raise InvalidInput(
                f"{instance.id}: the official harness needs image, log_parser, eval_type and eval_script in the data: "
                f"take them from {self.dataset}, or --set grader=local"
            )
        return True

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        if method != "code_monkeys":
            raise InvalidInput(f"swebench needs the method code_monkeys, which makes patches; {method} does not")
        instance: Instance = sample.data
        prepared = self._known(instance)
        sandbox = self._sandbox_fields(instance) if prepared is None else prepared.sandbox.model_dump(mode="json")
        return {
            "repository": str(self.mirror(instance) or "") if prepared is None else str(prepared.repository.path),
            "commit": instance.base_commit,
            "issue": instance.problem_statement,
            "project": f"{instance.repo} {instance.version}".strip(),
            "sandbox": sandbox,
            "instance": instance.id,
        }

    def _known(self, instance: Instance) -> Prepared | None:
        """What was prepared in the running event loop."""
        try:
            work = self._work.get(asyncio.get_running_loop())
        except RuntimeError:
            return None
        return None if work is None else work.prepared.get(instance.id)

    # -- verdicts ------------------------------------------------------------------------------------------------

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        return asyncio.run(self._verdict(sample, answer))

    async def judge(
        self, sample: Sample, method: Method, answer: str | None, text: str, details: Mapping[str, Any]
    ) -> Verdict:
        verdict = await self._verdict(sample, answer)
        return (
            verdict if not isinstance(method, Fields) else await self._with_extra(verdict, sample.data, method, details)
        )

    async def _verdict(self, sample: Sample, answer: str | None) -> Verdict:
        patch = answer or ""
        prepared = await self._prepared(sample.data)
        grade = await self._grade(sample.data, patch)
        reason = grade.reason if prepared.grader is None or not patch else f"{grade.reason} (local)"
        return Verdict(correct=grade.resolved, extracted=answer, reason=reason)

    async def _grade(self, instance: Instance, patch: str) -> Grade:
        """Each patch is graded once."""
        if is_empty(patch):
            return Grade(resolved=False, reason="unresolved: there is no patch")
        prepared = await self._prepared(instance)
        work = self._work[asyncio.get_running_loop()]
        async with work.lock(f"{instance.id} {patch}"):
            if patch not in prepared.grades:
                async with work.slots:
                    if prepared.grader is None:
                        prepared.grades[patch] = await official.grade(instance, patch, self.seconds)
                    else:
                        prepared.grades[patch] = await prepared.grader.grade(
                            patch, prepared.baseline, excuse=self.excuse_environment
                        )
            return prepared.grades[patch]

    async def _resolved(self, instance: Instance, patches: set[str]) -> dict[str, bool]:
        ordered = sorted(patches)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._grade(instance, patch)) for patch in ordered]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return {patch: task.result().resolved for patch, task in zip(ordered, tasks, strict=True)}

    async def _with_extra(
        self, verdict: Verdict, instance: Instance, method: Fields, details: Mapping[str, Any]
    ) -> Verdict:
        prepared = await self._prepared(instance)
        recall = figures.context_recall(instance.patch, prepared.repository.paths(), details)
        numbers = {} if recall is None else {"context recall": recall}
        curves: dict[str, list[float]] = {}
        if self.coverage:
            trajectories = Trajectories.of(details)
            candidates = {str(one["patch"]) for one in details.get("candidates", ())}
            resolved = await self._resolved(instance, candidates | trajectories.all_patches)
            results = await run_tests(trajectories, method, method.executions)
            numbers |= figures.shares(trajectories, candidates, resolved)
            curves = figures.curves(trajectories, resolved, results, method.vote)
        notes = [] if prepared.grader is None else [LOCAL]
        if self.excuse_environment:
            notes.append("tests of PASS_TO_PASS that fail without any patch are left out, against the official rule")
        extra = Extra(
            numbers=numbers,
            parts=figures.costs(details),
            curves=curves,
            limit=figures.LIMIT if curves else "",
            notes=notes,
        )
        return replace(verdict, extra=extra)

    def export(self, folder: Path, answers: Sequence[Answered]) -> None:
        export(folder, answers)
