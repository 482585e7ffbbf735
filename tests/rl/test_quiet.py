"""No trainer of ours tells others about itself."""

from __future__ import annotations

import pytest
from trl.trainer import base_trainer

from plait.rl.grpo.trainer import ThreadTrainer
from plait.rl.trainer import SampleTrainer


@pytest.mark.parametrize("trainer", [SampleTrainer, ThreadTrainer])
def test_neither_telemetry_nor_a_model_card(trainer, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    for name in ("send_telemetry", "generate_model_card"):
        monkeypatch.setattr(base_trainer, name, lambda **_: pytest.fail("somebody is told"))
    made = object.__new__(trainer)
    made._send_telemetry()
    made.create_model_card(model_name="m")
