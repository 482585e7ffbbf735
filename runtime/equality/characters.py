"""Unicode's characters as TeX has them."""

from __future__ import annotations

import re
import unicodedata

_SIGNS = {
    **{"÷": r"\div ", "±": r"\pm ", "∓": r"\mp ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "⁄": "/", "∕": "/"},
    **{"\u2212": "-", "\u2013": "-", "\u2010": "-", "\u2011": "-", "π": r"\pi ", "θ": r"\theta ", "∞": r"\infty "},
    **{"°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] "},
    **{"≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "},
    **{"∅": r"\emptyset ", "…": r"\ldots ", "′": "'", "″": "''", "‴": "'" * 3, "∨": r"\lor ", "∧": r"\land "},
    **{"⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}"},
    **{"ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "｛": r"\{", "｝": r"\}", "＼": r"\setminus "},
}
_SCRIPTS = re.compile("([²³¹\u2070-\u207f]+)|([\u2080-\u209c]+)")
_VULGAR = re.compile("([²³¹\u2070-\u2079]+)[/⁄]([\u2080-\u2089]+)")
_RADICAL = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|\([^()]*\))")


def in_ascii(text: str) -> str:
    """Unicode's fractions, indices, signs, spaces and wide characters as TeX has them."""
    text = _RADICAL.sub(r"\1{\2}", text)
    text = _VULGAR.sub(lambda run: rf"\frac{{{_compatible(run[1])}}}{{{_compatible(run[2])}}}", text)
    text = _SCRIPTS.sub(lambda run: f"{'^' if run[1] else '_'}{{{_compatible(run[0])}}}", text)
    return "".join(char if ord(char) < 128 else _in_ascii(char) for char in text)


def _in_ascii(char: str) -> str:
    if char in _SIGNS:
        return _SIGNS[char]
    category, plain = unicodedata.category(char), _compatible(char)
    if category in ("Zs", "Cf"):
        return " " if category == "Zs" else ""
    if category == "No" and "/" in plain and not plain.endswith("/"):
        return r"\frac{{{}}}{{{}}}".format(*plain.split("/"))
    return plain if "\uff01" <= char <= "\uff5e" else char


def _compatible(text: str) -> str:
    """The characters that these are forms of."""
    return unicodedata.normalize("NFKC", text).replace("⁄", "/").replace("\u2212", "-")
