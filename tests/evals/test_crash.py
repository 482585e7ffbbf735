"""kill -9 in the middle, and the same command again: the report is the same, but for times."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

PLAIT = "import sys; from plait.runtime.cli import main; sys.exit(main())"
MEASURED = re.compile(r'<(td|th|figure|script|p)\b[^>]*\bclass="?m"?[^>]*>.*?</\1>', re.DOTALL)
MEASURED_COLUMNS = 3
"""At the end of the Markdown table."""


def command(folder, data):
    grid = ["--method", "sequential", "--method", "self_consistency:n=2,temperature=0.5,attempts=2", "--method", "apr"]
    windows = ["--window", "300", "--window", "110", "--window", "20", "--concurrency", "2", "--seed", "3"]
    start = [sys.executable, "-m", "plait", "eval", "--benchmark", "countdown", "--data", str(data)]
    return [*start, *grid, *windows, "--out", str(folder)]


def whole(folder, data):
    done = subprocess.run(command(folder, data), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done


def without_times(folder):
    page = MEASURED.sub("", (folder / "report.html").read_text())
    lines = [line for line in (folder / "report.md").read_text().splitlines() if not line.startswith("Run of")]
    table = [" | ".join(line.split(" | ")[:-MEASURED_COLUMNS]) if line.startswith("|") else line for line in lines]
    return page, table


def test_kill_and_resume(tmp_path):
    data = tmp_path / "problems.jsonl"
    problems = [((8, 3, 1), 24), ((9, 2, 2), 13), ((60, 30, 9), 39), ((7, 2, 5), 70)]
    data.write_text("".join(f'{{"nums": {list(nums)}, "target": {target}}}\n' for nums, target in problems))

    broken = tmp_path / "broken"
    with subprocess.Popen(command(broken, data), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        results = broken / "results.jsonl"
        while not results.exists() or results.read_bytes().count(b"\n") < 3:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    done = results.read_bytes()
    assert 3 <= done.count(b"\n") < 16
    assert not (broken / "report.html").exists()
    assert "16/16" in whole(broken, data).stderr
    assert results.read_bytes().startswith(done[: done.rindex(b"\n") + 1])

    whole(tmp_path / "whole", data)
    page, table = without_times(broken)
    assert (page, table) == without_times(tmp_path / "whole")
    assert "pass@2" in page and '"origin"' not in page and len(table) > 9
    assert MEASURED.search((broken / "report.html").read_text())
