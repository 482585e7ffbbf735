"""The settings of an evaluation and what it ran on, in words: two tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def settings_html(settings: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """A table of the methods, and one of everything else."""
    methods = [
        [m["label"] or "", m["fields"]["method"], str(m["attempts"]), phrase(_but(m["fields"], "method")) or "defaults"]
        for m in settings["methods"]
    ]
    rows = [[_words(name), _value(name, value)] for name, value in facts(settings, environment).items()]
    head = ["label", "method", "attempts", "fields"]
    return f"{_table('methods', methods, head)}\n{_table('facts', rows)}"


def facts(settings: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the methods."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "benchmark":
            found["benchmark"] = value["name"]
            found |= {f"benchmark: {field}": one for field, one in value.items() if field != "name"}
        elif name not in ("methods", "budgets") and value not in ({}, []):
            found[name] = value
    budgets = [phrase(budget) or "no limit" for budget in settings["budgets"]]
    return {**found, "budgets": "; ".join(budgets), **environment}


def phrase(value: Any, inner: bool = False) -> str:
    """A JSON value as short text: `n 4, strategy (strategy ets, floor True)`."""
    if isinstance(value, Mapping):
        text = ", ".join(f"{name} {phrase(one, True)}" for name, one in value.items())
        return f"({text})" if inner else text
    if isinstance(value, Sequence) and not isinstance(value, str):
        text = ", ".join(phrase(one, True) for one in value)
        return f"[{text}]" if inner else text
    if isinstance(value, str) and inner and (value != value.strip() or not value):
        return repr(value)  # stop strings
    return str(value)


def _value(name: str, value: Any) -> str:
    if name == "windows":
        return ", ".join(f"{window:,}" for window in value) + " tokens"
    return f"{value} s" if name == "timeout" else phrase(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _but(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


def _table(id: str, rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    lines = ["".join(f"<td>{escape(text)}</td>" for text in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="scroll"><table id="{id}"><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )
