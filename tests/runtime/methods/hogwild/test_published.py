"""Greedy tokens of the published code (github.com/eqimp/hogwild_llm at 1a87a99), recorded in published.json.

The recording ran the published cache, loop and finisher under transformers 4.50.3 in float32. For `package`, and for
the layouts without headings between the workers, the published classes were given that code's headings, rule for steps
and views. Sampling penalties of the models were off.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from plait import Hogwild, Runtime
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.methods.hogwild.method import sampled_tokens
from plait.runtime.methods.hogwild.policy import POLICIES
from plait.runtime.methods.hogwild.text import pieces
from plait.tests.real import folder
from plait.tests.runtime.methods.hogwild.random_model import build

RECORDED = json.loads((Path(__file__).parent / "published.json").read_text())
RANDOM: dict[str, Any] = {
    "problem": "Add 2 and 3.",
    "rules": "You are {names}. Do not do the same twice.",
    "openers": ("\n\n# Alice workspace\n\nI begin with", "\n\n# Bob workspace\n\nI look at"),
    "self_check_every": 100,
}
REAL: dict[str, Any] = {
    "problem": "Tom has 12 apples and buys 3 bags with 5 apples each. Then he gives away 7. "
    "How many apples has he now?",
    "rules": "You are {names}, two assistants who solve one problem together. Write short sentences. Whoever is sure "
    "writes \\boxed{answer here}.",
    "openers": (
        "\n\n# Alice workspace\n\nI am Alice. I begin with",
        "\n\n# Bob workspace\n\nI am Bob. I look at",
    ),
    "self_check_every": 40,
}


def job(case: str, passes: int, answer_at: list[int]) -> Hogwild:
    model, layout, policy = case.split("/")
    given = RANDOM if model.startswith("random") else REAL
    values: dict[str, Any] = {
        "prompt": [{"role": "user", "content": given["problem"]}],
        "layout": layout,
        "policy": policy,
        "rules": given["rules"],
        "rules_in": "reply" if layout == "contiguous" else "user",
        "openers": given["openers"] if layout == "contiguous" else None,
        "self_check_every": given["self_check_every"],
        # What the published package does not do either.
        "max_step": None,
        "check_repeats": False,
        "ban_impersonation": False,
        "max_tokens": passes,
        "temperature": 0,
        "repetition_penalty": 1,
        "answer_at": answer_at,
    }
    return Hogwild(**values if answer_at else {**values, "conclusion": None})


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", RECORDED)
async def test_greedy_tokens_are_those_of_the_published_code(case, tmp_path):
    model, recorded = case.split("/")[0], RECORDED[case]
    where = build(tmp_path, int(model.removeprefix("random-"))) if model.startswith("random") else folder(model)
    conclusions = {int(passes): ids for passes, ids in recorded.get("conclusions", {}).items()}
    passes = len(recorded["Alice"])
    async with Runtime(str(where), dtype=torch.float32, kv_tokens=8192) as runtime:
        result = await (await runtime.submit(job(case, passes, [n for n in conclusions if n < passes])))
    assert sampled_tokens(result.trace) == {name: recorded[name] for name in ("Alice", "Bob")}
    concluded = [
        [token for segment in result.trace.segments_of(branch.id) for p in segment.pieces for token in p.token_ids][-n:]
        for branch, n in zip(
            (branch for branch in result.trace.branches.values() if branch.label == "conclusion"),
            # The last state is concluded first.
            [len(conclusions[passes]), *(len(ids) for n, ids in conclusions.items() if n < passes)]
            if conclusions
            else (),
            strict=True,
        )
    ]
    assert sorted(concluded) == sorted(conclusions.values())


@pytest.mark.parametrize("case", [case for case in RECORDED if case.endswith("repo")])
def test_forbidden_tokens_are_those_of_the_published_code(case, tmp_path):
    model, layout, policy = case.split("/")
    where = build(tmp_path, int(model.removeprefix("random-"))) if model.startswith("random") else folder(model)
    tokenizer = HFTokenizer.load(where)
    assert list(POLICIES[policy].forbidden(tokenizer, pieces(tokenizer), layout)) == RECORDED[case]["forbidden"]


def test_the_recordings_hold_what_sets_the_codes_apart():
    """Steps ended inside fences, number signs in longer tokens, and all layouts in both policies."""
    cases = {tuple(case.split("/")[1:]) for case in RECORDED if case.startswith("random")}
    assert len(cases) == 6
    for name in ("Alice", "Bob"):
        ids = RECORDED["random-17/combined/repo"][name], RECORDED["random-17/combined/package"][name]
        assert ids[0] != ids[1]
