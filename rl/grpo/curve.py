"""The learning curve of a run as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...runtime.disk import writing
from .config import HELD_OUT

CURVE = "learning_curve.svg"
"""In the output folder."""


def draw(history: Sequence[dict[str, Any]], out: Path) -> Path | None:
    """Accuracy by step: of sampled rollouts (each step, and the mean of ten), and on held-out problems with their 95 %
    intervals; under it, tokens and branches of a rollout.

    `history`: what the trainer logged. Returns the file, or None where matplotlib is not installed. Raises
    `InvalidInput` where it cannot be written.
    """
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("svg")
    from matplotlib.figure import Figure

    steps = [line for line in history if "accuracy" in line]
    figure = Figure(figsize=(7, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    numbers = [line["step"] for line in steps]
    accuracy = [line["accuracy"] for line in steps]
    top.plot(numbers, accuracy, color="tab:blue", alpha=0.3, linewidth=1, label="sampled, each step")
    means = [sum(part) / len(part) for part in (accuracy[max(0, i - 9) : i + 1] for i in range(len(accuracy)))]
    top.plot(numbers, means, color="tab:blue", label="sampled, mean of ten steps")
    if (out / HELD_OUT).exists():
        looks = [json.loads(line) for line in (out / HELD_OUT).read_text(encoding="utf-8").splitlines()]
        middle = [look["accuracy"] for look in looks]
        error = [
            [max(0.0, look["accuracy"] - look["interval"][0]) for look in looks],
            [max(0.0, look["interval"][1] - look["accuracy"]) for look in looks],
        ]
        top.errorbar(
            [look["step"] for look in looks], middle, yerr=error, color="tab:orange", marker="o", capsize=3,
            label="held out, greedy",
        )  # fmt: skip
    top.set_ylabel("accuracy")
    top.set_ylim(0, 1)
    top.grid(alpha=0.3)
    top.legend()
    for name, label in (("rollout/generated_tokens", "tokens"), ("rollout/critical_tokens", "critical tokens")):
        bottom.plot(numbers, [line.get(name) for line in steps], label=label)
    bottom.set_ylabel("of a rollout")
    bottom.set_xlabel("optimiser step")
    bottom.set_ylim(bottom=0)
    bottom.grid(alpha=0.3)
    bottom.legend()
    path = out / CURVE
    # Without a date in it, and with names that are not drawn by lot, the same run is the same file.
    with writing(path), matplotlib.rc_context({"svg.hashsalt": CURVE}):
        figure.savefig(path, metadata={"Date": None})
    return path
