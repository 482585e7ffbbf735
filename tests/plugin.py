"""A pytest plugin (`addopts`): where tests are; and what fails is shown as it does, what hangs is ended."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator
from pathlib import Path

import pytest

_STDERR = os.dup(2)  # before pytest captures it


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The root of the repository is a folder of tests like any other: it has an `__init__.py`, so pytest would import
    it once more, by the name of the checkout: the whole package, twice."""
    return pytest.Dir.from_parent(parent, path=path) if path == parent.config.rootpath else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None]:
    """pytest-timeout interrupts a test once. What then waits in the clean-up, for a thread that does not end, would do
    so for ever."""
    faulthandler.dump_traceback_later(60, exit=True, file=_STDERR)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


class _AtOnce:
    """A run that is cut off has said what it met."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self.terminal = terminal

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.terminal.write_sep("_", f"{report.nodeid} ({report.when})")
            self.terminal.write_line(report.longreprtext)


@pytest.hookimpl(trylast=True)  # behind the terminal's
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:  # a worker has none
        config.pluginmanager.register(_AtOnce(terminal))
