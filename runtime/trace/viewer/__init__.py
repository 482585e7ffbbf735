"""The trace viewer: one self-contained HTML page for one job, and its parts for pages that show several.

`render(trace)` is the whole page. A page of one's own puts `style()` into a `<style>` and `script()` into a `<script>`
element once, and calls `mountTrace(element, data)` there with the JSON of `trace_data(trace)` for every trace it shows.
"""

from .data import trace_data as trace_data
from .page import render as render
from .page import script as script
from .page import style as style
