"""Values in the many ways that answers write them, as hypothesis strategies: what is equal is so by construction."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st


def fractions(top: int = 30, bottom: int = 12) -> st.SearchStrategy[Fraction]:
    return st.builds(Fraction, st.integers(-top, top), st.integers(1, bottom))


def terminating(value: Fraction) -> str | None:
    """Its decimals; None: they do not end."""
    for places in range(8):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
            sign = "-" if value < 0 else ""
            return sign + (digits if not places else f"{digits[:-places]}.{digits[-places:]}")
    return None


def recurring(value: Fraction) -> tuple[str, str] | None:
    """Its decimals up to their period, and that; None: they end, or the period is long."""
    whole, rest = divmod(abs(value.numerator), value.denominator)
    rests: list[int] = []
    digits = ""
    while rest not in rests:
        rests.append(rest)
        digit, rest = divmod(rest * 10, value.denominator)
        digits += str(digit)
    begin = rests.index(rest)
    sign = "-" if value < 0 else ""
    return (f"{sign}{whole}.{digits[:begin]}", digits[begin:]) if rest and len(digits) < 10 else None


@st.composite
def numbers(draw: st.DrawFn, value: Fraction) -> str:
    """A rational number: as a fraction, reduced or not, a mixed number, decimals, percent."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    k = draw(st.integers(1, 4))
    a, b = size.numerator * k, size.denominator * k
    whole, part = divmod(size.numerator, size.denominator)
    forms = [
        rf"{sign}\frac{{{a}}}{{{b}}}",
        rf"{sign}\dfrac{{ {a} }} {{{b}}}",
        f"{sign}{a}/{b}",
        rf"\frac{{{sign}{a}}}{{{b}}}",
    ]
    if max(a, b) < 10:
        forms += [rf"{sign}\frac{a}{b}", rf"{sign}\tfrac {a}{b}", rf"{sign}\frac{a}{{{b}}}", rf"{sign}\frac{{{a}}}{b}"]
    if whole and part:
        forms += [rf"{sign}{whole}\frac{{{part}}}{{{size.denominator}}}", f"{sign}{whole} {part}/{size.denominator}"]
    if value.denominator == 1:
        grouped = f"{value.numerator:,}"
        forms += [str(value.numerator), grouped, grouped.replace(",", "{,}"), grouped.replace(",", r",\!")]
        forms += [grouped.replace(",", r"\,"), f"{value.numerator}."]
    if (decimal := terminating(value)) is not None:
        forms += [decimal, decimal.replace("0.", ".", 1) if size < 1 and "." in decimal else decimal]
        forms += [decimal + "00" if "." in decimal else decimal + ".0"]
    if (parts := recurring(value)) is not None:
        front, period = parts
        dotted = rf"\dot{{{period}}}" if len(period) == 1 else rf"\dot{{{period[0]}}}{period[1:-1]}\dot {period[-1]}"
        forms += [
            front + dotted,
            rf"{front}\overline{{{period}}}",
            f"{front}({period})",
            f"{front}\\left({period}\\right)",
        ]
        forms += [(front + dotted).replace("0.", ".", 1)] if size < 1 else []
    if (percent := terminating(value * 100)) is not None:
        forms += [percent + r"\%", percent + "%"]
    return draw(st.sampled_from(forms))


WRAPPINGS = [
    "{}", " {} ", "${}$", "{{{}}}", r"\left({}\right)", r"\color{{red}}{}", r"\textcolor{{blue}}{{{}}}",
    r"\mathbf{{{}}}", r"\displaystyle {}", r"\text{{{}}}", r"\({}\)", r"\quad{}\;", "{}.",
    r"\colorbox{{red}}{{{}}}", r"\underline{{{}}}", r"\textcolor[rgb]{{1,0,0}}{{{}}}", r"{}\\",
]  # fmt: skip


def wrapped(text: str) -> st.SearchStrategy[str]:
    """What changes nothing around it. In brackets, `1,000` is a pair."""
    return st.sampled_from([form.format(text) for form in WRAPPINGS if "(" not in form or "," not in text])


@st.composite
def surds(draw: st.DrawFn, a: int, b: int, c: int) -> str:
    """a + b sqrt(c)."""
    k = draw(st.integers(2, 5))
    sign, size = ("-" if b < 0 else "+"), abs(b)
    root = draw(
        st.sampled_from(
            [rf"\sqrt{{{c}}}", rf"\sqrt {{ {c} }}", rf"\sqrt[2]{{{c}}}", rf"{{{c}}}^{{1/2}}", rf"{c}^{{\frac12}}"]
        )
    )
    forms = [
        rf"{a}{sign}{size}\cdot {root}",
        rf"{a} {sign} {size}\left({root}\right)",
        rf"{sign if sign == '-' else ''}{size}\cdot {root}+({a})",
        rf"{a}{sign}\sqrt{{{b * b * c}}}",
        rf"\frac{{{k * a}{sign}{k * size}\cdot {root}}}{{{k}}}",
        rf"\dfrac{{{a * k}}}{{{k}}}{sign}\frac{{{size * c}}}{{{root}}}",
        rf"{a}.0{sign}{size}.0\cdot {root}",
    ]
    return draw(st.sampled_from(forms))
