"""Templates about parts of a whole: fractions, percentages, ratios, ages, averages."""

from __future__ import annotations

import math

from .story import Story, Template, Unfit, plural

_FRACTIONS = {"a third": (1, 3), "two thirds": (2, 3), "a quarter": (1, 4), "three quarters": (3, 4)}
_TIMES = {2: "twice", 3: "three times", 4: "four times"}


def instruments(s: Story) -> str:
    children, fraction, flutes = s.number(24, 320), s.choice(0, 1, 2, 3), s.number(3, 25)
    words, (numerator, denominator) = list(_FRACTIONS.items())[fraction]
    place, other = s.word("a school", "a summer camp", "a music club"), s.word("trumpet", "violin", "guitar", "cello")
    pianists = s.divide(s.share(children, numerator, denominator), 2)
    s.subtract(pianists, flutes)
    return (
        f"There are {children} children at {place}. {words.capitalize()} of them play an instrument. Half of those "
        f"play the piano, {flutes} play the flute, and all the others the {other}; nobody plays two instruments. How "
        f"many children play the {other}?"
    )


def survey(s: Story) -> str:
    people, percent, others = s.number(40, 600, 10), s.number(20, 60, 5), s.number(12, 90)
    place, days = s.word("an office", "a conference", "a village", "a factory"), s.needless(2, 9)
    first, second, third = s.word("tea", "milk", "juice"), "coffee", "water"
    share = s.percent(people, percent)
    rest = s.subtract(people, share, others)
    s.subtract(share, rest)
    return (
        f"A survey at {place} takes {days} days. {people} people say what they drink in the morning: {percent}% of "
        f"them drink {first}, {others} people drink {second}, and all the others drink {third}. How many more people "
        f"drink {first} than {third}?"
    )


def bus(s: Story) -> str:
    start, off, on, times, last = s.number(12, 40), s.number(3, 11), s.number(2, 9), s.choice(2, 3), s.number(2, 12)
    vehicle, line = s.word("bus", "tram", "train"), s.needless(41, 99)
    first = s.add(s.subtract(start, off), on)
    second = s.add(first, s.multiply(on, times))
    s.subtract(second, last)
    return (
        f"The {vehicle} of line {line} leaves the depot with {start} passengers. At the first stop, {off} get off and "
        f"{on} get on. At the second stop, nobody gets off and {_TIMES[times]} as many get on as at the first. At the "
        f"third stop, {last} passengers get off. How many passengers are on the {vehicle} then?"
    )


def ratio(s: Story) -> str:
    first, second = s.people(2)
    what, a, b, unit = s.word("marble", "sticker", "shell", "stamp"), s.number(2, 5), s.number(3, 9), s.number(4, 30)
    given = s.number(1, 9)
    if a == b or math.gcd(a, b) > 1:
        raise Unfit
    total = unit * (a + b)
    one = s.divide(total, s.add(a, b))
    s.subtract(s.multiply(one, b), given)
    return (
        f"{first} and {second} share {total} {plural(what)} in the ratio {a} to {b}. Then {second} loses {given} of "
        f"{second.his} {plural(what)}. How many {plural(what)} does {second} have left?"
    )


def stickers(s: Story) -> str:
    who, friend = s.people(2)
    what, have, given, packs, each = (
        s.word("sticker", "trading card", "postcard", "coin", "badge"),
        s.number(30, 240),
        s.number(4, 20),
        s.number(2, 6),
        s.number(3, 12),
    )
    numerator, denominator = s.choice(1, 2), s.choice(3, 4, 5)
    if numerator == 2 and denominator == 4:
        raise Unfit
    word = f"{['one', 'two'][numerator - 1]} {['third', 'quarter', 'fifth'][denominator - 3]}{'s' * (numerator - 1)}"
    left = s.subtract(have, s.share(have, numerator, denominator), given)
    s.add(left, s.multiply(packs, each))
    return (
        f"{who} has a collection of {have} {plural(what)}. {who.he.capitalize()} gives {word} of them to {who.his} "
        f"sister and {given} to {friend}. Then {who.he} buys {packs} packs with {each} {plural(what)} each. How many "
        f"{plural(what)} does {who} have now?"
    )


def ages(s: Story) -> str:
    a, b, c = s.people(3)
    times, younger, age, years = s.choice(2, 3, 4), s.number(2, 9), s.number(9, 24), s.number(2, 15)
    relation = s.word("cousin", "neighbour", "friend")
    youngest = s.subtract(age, younger)
    if youngest < 3 or youngest * times > 80:
        raise Unfit
    s.add(s.multiply(youngest, times), years)
    return (
        f"{a} is {_TIMES[times]} as old as {b}. {b} is {younger} years younger than {b.his} {relation} {c}, who is "
        f"{age}. How old will {a} be in {years} years?"
    )


def ages_later(s: Story) -> str:
    a, b = s.people(2)
    age, years, times, since = s.number(4, 30), s.number(2, 14), s.choice(2, 3), s.needless(2, 9)
    now = s.subtract(s.multiply(s.add(age, years), times), years)
    if now > 90:
        raise Unfit
    s.subtract(now, age)
    return (
        f"{b} is {age} years old and has lived next door to {a} for {since} months. In {years} years, {a} will be "
        f"{_TIMES[times]} as old as {b} will be then. How many years older than {b} is {a}?"
    )


def scores(s: Story) -> str:
    who, subject = s.person(), s.word("mathematics", "history", "science", "geography")
    first, second, third, mean = s.number(55, 98), s.number(55, 98), s.number(55, 98), s.number(70, 92)
    s.subtract(s.multiply(mean, 4), s.add(first, second, third))
    if not 50 <= 4 * mean - first - second - third <= 100:
        raise Unfit
    return (
        f"{who} has {first}, {second} and {third} points in the first three of four {subject} tests. How many points "
        f"does {who.he} need in the fourth test to reach an average of {mean} points over all four?"
    )


def theatre(s: Story) -> str:
    rows, seats, filled, adult, child = (
        s.number(8, 25),
        s.number(10, 24),
        s.choice(50, 60, 75, 80, 90),
        s.number(8, 15),
        s.number(3, 7),
    )
    children = s.number(10, 60)
    place = s.word("theatre", "cinema", "concert hall")
    visitors = s.percent(s.multiply(rows, seats), filled)
    s.add(s.multiply(children, child), s.multiply(s.subtract(visitors, children), adult))
    return (
        f"A {place} has {rows} rows of {seats} seats. One evening, {filled}% of the seats are taken: {children} by "
        f"children, whose tickets cost ${child} each, and the others by adults, who pay ${adult} each. How many "
        "dollars do all the visitors pay together?"
    )


def orchard(s: Story) -> str:
    who, fruit = s.person(), s.word("apple", "pear", "plum", "cherry")
    trees, times, more = s.number(6, 40), s.choice(2, 3, 4), s.number(3, 20)
    other = s.word("walnut", "chestnut", "hazelnut")
    hectares = s.needless(2, 5)
    fruits = s.multiply(trees, times)
    s.add(trees, fruits, s.add(fruits, more))
    return (
        f"On {hectares} hectares of land, {who} grows {trees} {other} trees, {_TIMES[times]} as many {fruit} trees, "
        f"and {more} more olive trees than {fruit} trees. How many trees does {who.he} grow in all?"
    )


TEMPLATES: tuple[Template, ...] = (
    instruments,
    survey,
    bus,
    ratio,
    stickers,
    ages,
    ages_later,
    scores,
    theatre,
    orchard,
)
