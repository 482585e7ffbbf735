"""Two processes (gloo) against one: the same rollouts between them, the same log and the same weights in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from plait import InvalidInput
from plait.evals.config import MethodConfig
from plait.rl.checkpoints import checkpoints
from plait.rl.grpo.config import GRPOConfig
from plait.rl.grpo.train import train
from plait.tests.rl.grpo.tools import Vowels, save_tiny

APART = ("seconds/", "step_time", "entropy")
"""What two processes tell otherwise: times, and TRL's mean of the means of chunks, which are other ones."""


def run(model: str, out: str, prompts: int) -> None:
    """The training; with `torchrun`, one part of it."""
    torch.set_num_threads(1)
    config = GRPOConfig(
        model=model, benchmark=Vowels(), method=MethodConfig(fields={"method": "apr", "max_children": 2}), group=4,
        prompts=prompts, steps=2, chunks=2, learning_rate=1e-3, engine={"kv_tokens": 16384},
        trainer={"disable_tqdm": True, "save_steps": 2, "optim": "sgd"},
    )  # fmt: skip
    train(config, Path(out)).tell()  # a process that ends amid its group may end by a signal


@pytest.mark.timeout(300)
def test_two_processes_learn_what_one_learns(tmp_path):
    save_tiny(tmp_path / "tiny")
    run(str(tmp_path / "tiny"), str(tmp_path / "one"), 4)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    work = [__file__, str(tmp_path / "tiny"), str(tmp_path / "two"), "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *work], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    start, one, two = (
        AutoModelForCausalLM.from_pretrained(path).state_dict()
        for path in (tmp_path / "tiny", tmp_path / "one" / "model", tmp_path / "two" / "model")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-5)
    assert max(float((one[name] - start[name]).abs().max()) for name in one) > 1e-4
    for alone, between in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        assert 0 < alone["accuracy"] < 1 and alone["importance/gap_max"] > 0
        # What two processes compute twice, they share nothing, one computes once.
        once = alone.pop("packing/computed_tokens")
        assert once <= between.pop("packing/computed_tokens") < 1.1 * once
        assert between == pytest.approx(alone, rel=1e-3, abs=1e-6)
    with pytest.raises(InvalidInput, match="made with other num_processes"):
        run(str(tmp_path / "tiny"), str(tmp_path / "two"), 2)


def logged(out: Path) -> list[dict[str, Any]]:
    """What is told of each step, but for what is `APART`."""
    state = json.loads((checkpoints(out)[-1] / "trainer_state.json").read_text())
    steps: list[dict[str, Any]] = state["log_history"]
    return [{name: value for name, value in step.items() if not name.startswith(APART)} for step in steps]


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
