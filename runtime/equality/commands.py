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
    + [rf"\math{face}" for face in ("bf", "it", "sf", "tt", "normal")]
    + [r"\boldsymbol", r"\bm", r"\pmb", r"\boldmath", r"\unboldmath"]
    + [rf"\{face}" for face in ("bf", "it", "rm", "sf", "tt", "sl", "sc", "em", "normalfont")]
    + [rf"\{face}" for face in ("rmfamily", "sffamily", "ttfamily", "mdseries", "bfseries")]
    + [rf"\{face}shape" for face in ("up", "it", "sl", "sc")]
    + [r"\tiny", r"\scriptsize", r"\footnotesize", r"\small", r"\normalsize"]
    + [r"\large", r"\Large", r"\LARGE", r"\huge", r"\Huge"]
    + [r"\boxed", r"\fbox", r"\underline", r"\uline", r"\emph", r"\ensuremath", r"\mathstrut", r"\strut", r"\smash"]
    + [r"\nonumber", r"\notag", r"\noindent", r"\relax", r"\negmedspace", r"\negthickspace"]
)
ALPHABETS = frozenset([rf"\math{face}" for face in ("cal", "scr", "frak", "bb")])
"""Fonts whose letters are symbols of their own; of other things they change nothing."""
SIDES = frozenset([r"\left", r"\right", r"\mleft", r"\mright"])
TEXTS = frozenset(
    [rf"\text{face}" for face in ("", "rm", "bf", "it", "sf", "tt", "sl", "sc", "up", "md", "normal")]
) | {
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
    **{r"\ast": "*", r"\colon": ":", r"\infin": r"\infty", r"\varnothing": r"\emptyset"},
    **{"...": r"\ldots", r"\dots": r"\ldots", r"\dotsc": r"\ldots", r"\dotsb": r"\cdots"},
    **{r"\cosec": r"\csc", r"\lnot": r"\neg", r"\intercal": r"\top"},
    **{r"\geqq": r"\geq", r"\leqq": r"\leq", r"\cr": r"\\", r"\bar": r"\overline"},
    **{r"\degree": r"^\circ", r"\%": "%"},
}
NEGATED = {"=": r"\neq", r"\in": r"\notin"}
"""What `\\not` makes of a relation; others stay behind it, and cannot be read."""
ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, r"\overline": 1, r"\dot": 1}
DROPPED = {
    **{rf"\{name}": 1 for name in ("color", "textcolor", "colorbox", "vphantom", "label", "tag", "vspace")},
    **{rf"\{name}": 1 for name in ("phantom", "hphantom", "hspace", "mspace")},
    r"\fcolorbox": 2,
}
"""Commands that are left out together with their first arguments."""
WIDE = frozenset([r"\phantom", r"\hphantom", r"\hspace", r"\mspace"])
"""Those of them that leave a space."""
DIVIDED = {r"\over": r"\frac", r"\choose": r"\binom"}
"""Plain TeX's: what is in front of them in their group, and what follows."""
