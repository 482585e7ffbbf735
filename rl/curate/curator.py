"""`curate`: chains of thought become Multiverse texts, stage by stage, through any engine.

    stage1.jsonl    outlines: the list of steps, with what may be done in parallel (stages 1 to 3, one chat)
    stage4.jsonl    outlines refilled with the sentences of the chain; checked for content
    stage5.jsonl    the same in Multiverse's form; checked for grammar, every block then rewritten if that is sound too
    texts.jsonl     what came through: `prompt`, `text` and `sequential`, as training takes them
    report.json     how many came through which check
    config.json     what decides about the texts: the model and the settings

A line is written when its sample is through a stage; the same command goes on where it stopped. Lines of the stages
belong to a sample by the digest of what it is, so that another file, or one that has changed, takes none of another's;
`texts.jsonl` and `report.json` are of the file that was given last.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from ...runtime.disk import holding, write_whole
from ...runtime.errors import InvalidInput, PromptTooLong
from ...runtime.methods.sequential import Sequential
from ...runtime.mqtt.address import refuse_password
from ...runtime.runtime import Runtime
from ...runtime.spec import Spec
from ..lines import read_lines
from ..run_folder import check_same, own_config, write_config
from . import stages
from .distance import relative_distance
from .journal import Journal
from .plain import plain
from .stages import Message

STAGES = ("stage1.jsonl", "stage4.jsonl", "stage5.jsonl")
TEXTS, REPORT = "texts.jsonl", "report.json"
MAY_CHANGE = ("concurrency",)
"""Fields that a run that goes on may have other values of."""

Stage = Callable[[dict[str, str], int], Awaitable[dict[str, Any]]]
"""(sample, number of the attempt) -> what came of it; `problem`: why it does not do, or None."""


class CurateConfig(Spec):
    """How to curate. Raises `InvalidInput`."""

    refusal = InvalidInput

    attempts: int = Field(default=3, ge=1)
    """Of a stage, until its check is passed."""
    max_distance: float = Field(default=0.2, ge=0, le=1)
    """Of a refilled text from the chain (relative Levenshtein distance)."""
    max_tokens: int = Field(default=4096, ge=1)
    """Of one reply."""
    temperature: float = Field(default=0.6, ge=0)
    """Of sampling; attempts have seeds of their own."""
    rewrites: bool = True
    """Rewrite blocks so that paths stand by themselves."""
    concurrency: int = Field(default=4, ge=1)
    """Samples at a time."""
    seed: int = 0
    """What the seeds of all calls are made of."""


async def curate(
    source: Path | list[dict[str, str]], out: Path, runtime: Runtime, config: CurateConfig, *, model: str | None = None
) -> dict[str, int]:
    """Curate JSON Lines with `problem`, `solution` and perhaps `id` and `answer`; how many came through what. `source`:
    the file, or what `read` found in it. `model`: what `runtime` runs, if a run that goes on is to have the same.

    Raises `InvalidInput` as `read` does, and for a folder that was made otherwise or that another process works in.
    """
    refuse_password(model or "")
    samples = read(source) if isinstance(source, Path) else source
    with holding(out):
        _claim(out, {"model": model, **config.model_dump(mode="json", exclude=set(MAY_CHANGE))})
        curator = _Curator(out, runtime, config)
        room = asyncio.Semaphore(config.concurrency)

        async def one(sample: dict[str, str]) -> None:
            async with room:
                await curator.run(sample)

        try:
            async with asyncio.TaskGroup() as group:
                for sample in samples:
                    group.create_task(one(sample))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return curator.report(samples)


def read(source: Path) -> list[dict[str, str]]:
    """The samples of a file; one without an id gets the number of its place, or the next that is free. Raises
    `InvalidInput` naming the line, and where there are none."""
    found: list[dict[str, str]] = []
    lines = list(read_lines(source))
    taken = {str(data["id"]) for _, data in lines if data.get("id") is not None}
    for where, data in lines:
        for name in ("problem", "solution"):
            if not isinstance(data.get(name), str) or not data[name].strip():
                raise InvalidInput(f"{where}: no `{name}`")
        for name in ("id", "answer"):
            if not _is_written(data.get(name)):
                raise InvalidInput(f"{where}: `{name}` has to be a text or a number")
        own, answer = data.get("id"), data.get("answer")
        if own is not None and not str(own).strip():
            raise InvalidInput(f"{where}: `id` is empty")
        if answer is None or not str(answer).strip():
            answer = data["solution"].strip().splitlines()[-1]
        sample = {
            "id": _free(len(found), taken) if own is None else str(own),
            "problem": data["problem"],
            "solution": data["solution"],
            "answer": str(answer),
        }
        found.append({**sample, "digest": _digest(sample)})
    if not found:
        raise InvalidInput(f"{source}: there are no samples in it")
    ids = [sample["id"] for sample in found]
    twice = [one for i, one in enumerate(ids) if one in ids[:i]]
    if twice:
        raise InvalidInput(f"{source}: the id {twice[0]!r} stands there twice")
    return found


def _is_written(value: object) -> bool:
    """Does Python print it as it would be written in a text? None: there is none."""
    return value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))


def _free(number: int, taken: set[str]) -> str:
    """The first number from this one on that is no id yet; it is one now."""
    while str(number) in taken:
        number += 1
    taken.add(str(number))
    return str(number)


def _digest(sample: dict[str, str]) -> str:
    return hashlib.blake2s(json.dumps(sample, sort_keys=True).encode(), digest_size=16).hexdigest()


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Write down what decides about the texts, or see that the folder's are made by it. Raises `InvalidInput`."""
    known = own_config(out, settings, ["model"], [out / name for name in (*STAGES, TEXTS, REPORT)])
    if known is not None and any((out / name).exists() and (out / name).stat().st_size for name in STAGES):
        check_same(out, known, settings, (), advice="give another --out")
    write_config(out, settings)


class _Curator:
    def __init__(self, out: Path, runtime: Runtime, config: CurateConfig) -> None:
        self.out = out
        self.runtime = runtime
        self.config = config
        self.outlines, self.refilled, self.formed = (Journal(out / name) for name in STAGES)

    async def run(self, sample: dict[str, str]) -> None:
        """All stages of one sample that are not done; the first that fails is its last."""
        for journal, stage in (
            (self.outlines, self._outline),
            (self.refilled, self._refill),
            (self.formed, self._form),
        ):
            row = journal.rows.get(sample["digest"])
            if row is None:
                named = {name: sample[name] for name in ("id", "digest")}
                row = journal.add({**named, **await self._attempts(sample, stage)})
            if row["problem"] is not None:
                return

    async def _attempts(self, sample: dict[str, str], stage: Stage) -> dict[str, Any]:
        """What the first attempt without a problem gives, or the last one's problem."""
        row: dict[str, Any] = {}
        for attempt in range(self.config.attempts):
            try:
                row = {**await stage(sample, attempt), "attempts": attempt + 1}
            except PromptTooLong as error:
                return {"text": "", "problem": str(error), "attempts": attempt + 1}
            if row["problem"] is None:
                break
        return row

    async def _outline(self, sample: dict[str, str], attempt: int) -> dict[str, Any]:
        messages: list[Message] = []
        for number, turn in enumerate(stages.outline_turns(sample["problem"], sample["solution"])):
            messages.append({"role": "user", "content": turn})
            reply = await self._ask(messages, f"{sample['id']} outline {attempt} {number}")
            messages.append({"role": "assistant", "content": reply})
        outline = stages.listed(messages[-1]["content"])
        return {"text": outline, "problem": stages.outline_problem(outline)}

    async def _refill(self, sample: dict[str, str], attempt: int) -> dict[str, Any]:
        outline = self.outlines.rows[sample["digest"]]["text"]
        prompt = stages.refill_prompt(sample["solution"], outline)
        text = await self._ask(_question(prompt), f"{sample['id']} refill {attempt}")
        flat = stages.unstructured(text)
        distance = await asyncio.to_thread(relative_distance, flat, sample["solution"])
        problem = None if distance <= self.config.max_distance else f"its distance from the chain is {distance:.2f}"
        return {"text": text, "distance": distance, "problem": problem}

    async def _form(self, sample: dict[str, str], attempt: int) -> dict[str, Any]:
        refilled = self.refilled.rows[sample["digest"]]["text"]
        body = await self._ask(_question(stages.blocks_prompt(refilled)), f"{sample['id']} form {attempt}")
        text = stages.whole(body, sample["solution"], sample["answer"])
        problem = stages.grammar_problem(text)
        rewritten = 0
        if problem is None and self.config.rewrites:
            for number, (start, end) in reversed(list(enumerate(stages.outermost(text)))):
                prompt = stages.rewrite_prompt(text[start:end])
                reply = await self._ask(_question(prompt), f"{sample['id']} rewrite {attempt} {number}")
                block = stages.block_of(reply)
                if block and stages.grammar_problem(new := text[:start] + block + text[end:]) is None:
                    text, rewritten = new, rewritten + 1
        return {"text": text, "rewritten": rewritten, "problem": problem}

    async def _ask(self, messages: list[Message], purpose: str) -> str:
        digest = hashlib.blake2s(f"{self.config.seed} {purpose}".encode(), digest_size=4).digest()
        method = Sequential(
            prompt=messages, max_tokens=self.config.max_tokens, temperature=self.config.temperature, answer="text"
        )
        job = await self.runtime.submit(method, seed=int.from_bytes(digest, "big"))
        return (await job).text.strip()

    def report(self, samples: list[dict[str, str]]) -> dict[str, int]:
        """Write the texts that came through and how many did."""
        outlined, refilled, formed = (
            {sample["id"]: row for sample in samples if (row := _passed(journal, sample)) is not None}
            for journal in (self.outlines, self.refilled, self.formed)
        )
        lines = []
        for sample in samples:
            if sample["id"] in formed:
                text = formed[sample["id"]]["text"]
                line = {"id": sample["id"], "prompt": sample["problem"], "text": text, "sequential": plain(text)}
                lines.append(json.dumps(line) + "\n")
        write_whole(self.out / TEXTS, "".join(lines))
        counts = {
            "samples": len(samples),
            "outline": len(outlined),
            "content": len(refilled),
            "grammar": len(formed),
            "rewritten": sum(row["rewritten"] > 0 for row in formed.values()),
        }
        write_whole(self.out / REPORT, json.dumps(counts, indent=1) + "\n")
        return counts


def _passed(journal: Journal, sample: dict[str, str]) -> dict[str, Any] | None:
    """The sample's row, if it came through."""
    row = journal.rows.get(sample["digest"])
    return row if row is not None and row["problem"] is None else None


def _question(prompt: str) -> list[Message]:
    return [{"role": "user", "content": prompt}]
