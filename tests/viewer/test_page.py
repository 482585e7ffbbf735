"""The viewer's page: self-contained, and drawn without a complaint by a real browser."""

from __future__ import annotations

import re

import pytest

from plait.runtime.viewer import render, script, style
from plait.tests.browser import browser
from plait.tests.viewer.samples import SAMPLES, sample

REMOTE = re.compile(r"https?:|//cdn|\bimport\s*\(|\bfetch\s*\(|@import|url\(", re.IGNORECASE)


@pytest.fixture(scope="module")
def page():
    with browser() as opened:
        yield opened


def test_the_parts_refer_to_nothing_outside():
    assert not REMOTE.search(script()) and not REMOTE.search(style())
    assert script().isascii() and style().isascii()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_browser_draws_it_without_complaint(page, tmp_path, name):
    trace = sample(name)
    file = tmp_path / "page.html"
    file.write_text(render(trace), encoding="utf-8")
    page.problems.clear()
    page.open(file)
    assert page.evaluate("document.querySelectorAll('.plait-trace canvas').length") == 2
    assert page.evaluate("document.images.length + document.querySelectorAll('script').length") == 2
    assert page.problems == []
