"""The viewer's page, put together from the files in `static`."""

from __future__ import annotations

import html
from functools import cache
from importlib.resources import files
from typing import Any

from ...plain import json_text, whole
from ..trace import Trace
from .data import trace_data

SCRIPTS = (
    "text",
    "tools",
    "states",
    "model",
    "camera",
    "palette",
    "bins",
    "lanes",
    "links",
    "labels",
    "overview",
    "log",
    "details",
    "search",
    "parts",
    "controls",
    "viewer",
)
"""Files of the script, in an order in which the definitions of each need only those before it."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
html, body {{ margin: 0; height: 100%; }}
#trace {{ height: 100%; }}
{style}
</style>
</head>
<body>
<main id="trace"></main>
<noscript>This page draws the trace with JavaScript.</noscript>
<script type="application/json" id="data">{data}</script>
<script>
{script}
mountTrace(document.getElementById("trace"), JSON.parse(document.getElementById("data").textContent));
</script>
</body>
</html>
"""


def render(trace: Trace) -> str:
    """One HTML page that shows the trace and fetches nothing."""
    data = trace_data(trace)
    job = data["job"]
    title = f"{job['method'] or 'trace'} on {job['model'] or 'unknown model'}"
    return _PAGE.format(title=html.escape(title), style=style(), script=script(), data=embed(data))


def embed(data: Any) -> str:
    """JSON that may stand in a `<script type="application/json">` element, whatever text is in it."""
    # "<" would let "</script>" or "<!--" in a model's text end or change the element.
    return whole(json_text(data, is_ascii=False).replace("<", "\\u003c"))


@cache
def style() -> str:
    """The viewer's style sheet; everything in it is under `.plait-trace`."""
    return _read("viewer.css")


@cache
def script() -> str:
    """A classic script that defines one global, `mountTrace(element, data)`.

    It draws the trace into the element, which must have a height, and returns an object whose `destroy()` undoes that.
    """
    body = "\n".join(_read(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}\nglobalThis.mountTrace = mountTrace;\n}})();'


def _read(name: str) -> str:
    return (files(__package__) / "static" / name).read_text(encoding="utf-8")
