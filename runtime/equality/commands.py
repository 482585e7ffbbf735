"""What `tex` knows of TeX's commands: which change nothing, and which have other names."""

from __future__ import annotations

SPACES = frozenset(
    [r"\,", r"\;", r"\:", r"\>", "\\ ", "~", "$", r"\(", r"\)", r"\[", r"\]"]
    + [r"\quad", r"\qquad", r"\thinspace", r"\medspace", r"\thickspace", r"\enspace", r"\space"]
)
NOTHING = frozenset(
    [r"\!", r"\/", r"\left", r"\right", r"\middle", r"\mleft", r"\mright", r"\limits", r"\nolimits", r"\negthinspace"]
    + [rf"\{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m")]
    + [rf"\{style}style" for style in ("display", "text", "script", "scriptscript")]
    + [r"\mathbf", r"\boldsymbol", r"\bm", r"\pmb", r"\mathit", r"\mathsf", r"\mathnormal", r"\bf", r"\it", r"\rm"]
    + [r"\boxed", r"\fbox", r"\tiny", r"\small", r"\normalsize", r"\large", r"\Large", r"\LARGE", r"\huge", r"\Huge"]
    + [r"\underline", r"\uline", r"\emph"]
)
SIDES = frozenset([r"\left", r"\right", r"\mleft", r"\mright"])
TEXTS = frozenset([rf"\text{face}" for face in ("", "rm", "bf", "it", "sf", "tt", "normal")]) | {
    r"\mbox",
    r"\hbox",
    r"\mathrm",
}
SAME = {
    **{rf"\{size}frac": r"\frac" for size in "dtc"},
    **{rf"\{size}binom": r"\binom" for size in "dt"},
    **{r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\lparen": "(", r"\rparen": ")"},
    **{r"\le": r"\leq", r"\ge": r"\geq", r"\ne": r"\neq", r"\lvert": "|", r"\rvert": "|", r"\vert": "|"},
    **{r"\lt": "<", r"\gt": ">", r"\leqslant": r"\leq", r"\geqslant": r"\geq", r"\vee": r"\lor", r"\wedge": r"\land"},
    **{r"\ast": "*", r"\colon": ":", r"\infin": r"\infty", r"\varnothing": r"\emptyset", "∅": r"\emptyset "},
    **{"...": r"\ldots", r"\dots": r"\ldots", r"\dotsc": r"\ldots", r"\dotsb": r"\cdots", "…": r"\ldots "},
    **{r"\cosec": r"\csc", r"\lnot": r"\neg", r"\intercal": r"\top", "′": "'", "″": "''", "‴": "'" * 3},
    **{r"\geqq": r"\geq", r"\leqq": r"\leq", r"\cr": r"\\", r"\bar": r"\overline"},
    **{r"\degree": r"^\circ", r"\%": "%", "÷": r"\div ", "±": r"\pm ", "\u2212": "-", "\u2013": "-", "\u00a0": " "},
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "√": r"\sqrt "},
    **{"≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "θ": r"\theta "},
    **{"²": "^2 ", "³": "^3 ", "½": r"\frac12 ", "⅓": r"\frac13 ", "¼": r"\frac14 ", "¾": r"\frac34 "},
}
ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, r"\overline": 1}
DROPPED = {
    **{rf"\{name}": 1 for name in ("color", "textcolor", "colorbox", "phantom", "hphantom", "hspace", "label")},
    r"\fcolorbox": 2,
}
"""Commands that are left out together with their first arguments."""
DIVIDED = {r"\over": r"\frac", r"\choose": r"\binom"}
"""Plain TeX's: what is in front of them in their group, and what follows."""
