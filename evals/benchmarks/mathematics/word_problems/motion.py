"""Templates about time, distance, rates and measures."""

from __future__ import annotations

from .story import Story, Template, Unfit, fit, plural, some


def journey(s: Story) -> str:
    who, vehicle = s.person(), s.word("car", "camper van", "lorry", "minibus")
    speed, hours, slow, late, rest = (
        s.number(60, 110, 5),
        s.number(2, 5),
        s.number(30, 55, 5),
        s.number(1, 4),
        s.number(15, 95),
    )
    total = fit(speed * hours + slow * late + rest)
    people = s.needless(2, 4)
    more = some(late, "more hour")
    driven = s.add(s.multiply(speed, hours), s.multiply(slow, late))
    s.subtract(total, driven)
    return (
        f"{who} sets out on a journey of {total} kilometres in a {vehicle} with {people} seats. {who.he.capitalize()} "
        f"drives {hours} hours at {speed} kilometres per hour, and then {more} on small roads at {slow} kilometres per "
        "hour. How many kilometres are left?"
    )


def homework(s: Story) -> str:
    who, play = s.person(), s.word("chess", "football", "the piano", "video games")
    hours, first, times, last = s.number(2, 4), s.number(12, 45), s.choice(2, 3), s.number(8, 35)
    subject, other = s.word("mathematics", "physics", "history"), s.word("English", "Spanish", "art")
    second = s.multiply(first, times)
    s.subtract(s.multiply(hours, 60), s.add(first, second, last))
    return (
        f"{who} has {hours} hours until dinner. {who.he.capitalize()} does {subject} homework for {first} minutes and "
        f"{other} homework for {'twice' if times == 2 else 'three times'} as long, and then tidies {who.his} room in "
        f"{last} minutes. In the time that is left, {who.he} plays {play}. For how many minutes does {who.he} play "
        f"{play}?"
    )


def reading(s: Story) -> str:
    who, book = s.person(), s.word("novel", "biography", "travel book", "detective story")
    first, days, second, more = s.number(8, 30), s.number(3, 9), s.number(15, 40), s.number(3, 12)
    chapters = s.needless(10, 30)
    pages = fit(first * days + second * more)
    s.divide(s.subtract(pages, s.multiply(first, days)), second)
    return (
        f"{who} reads a {book} of {pages} pages in {chapters} chapters. For the first {days} days {who.he} reads "
        f"{first} pages a day. After that {who.he} reads {second} pages a day. How many more days does {who.he} need "
        f"to finish the {book}?"
    )


def machines(s: Story) -> str:
    product = s.word("bottle", "screw", "button", "light bulb", "toy car")
    fast, slow, hours, bad = s.number(4, 15), s.number(2, 9), s.number(2, 6), s.number(3, 25)
    made = s.multiply(s.add(fast, slow), s.multiply(hours, 60))
    s.subtract(made, s.multiply(bad, hours))
    return (
        f"In a factory, one machine makes {fast} {plural(product)} per minute and another one makes {slow} per minute. "
        f"Both run for {hours} hours. In each hour, {bad} of all the {plural(product)} made turn out to be broken. How "
        f"many {plural(product)} are good?"
    )


def tank(s: Story) -> str:
    what, filled, leak, have = (
        s.word("tank", "pool", "pond", "barrel"),
        s.number(8, 40),
        s.number(2, 7),
        s.number(20, 150, 10),
    )
    minutes = s.number(10, 90)
    full = have + minutes * fit(filled - leak)
    s.divide(s.subtract(full, have), s.subtract(filled, leak))
    return (
        f"A {what} can hold {full} litres and has {have} litres of water in it. A hose fills in {filled} litres per "
        f"minute, but {leak} litres per minute leak out at the bottom. After how many minutes is the {what} full?"
    )


def laps(s: Story) -> str:
    who, age = s.person(), s.needless(9, 16)
    length, laps, days, weeks = s.choice(200, 250, 300, 400, 500), s.number(4, 20), s.number(3, 6), s.number(2, 9)
    daily = s.multiply(length, laps)
    s.divide(s.multiply(daily, s.multiply(days, weeks)), 1000)
    return (
        f"{who} is {age} and trains on a track that is {length} metres long. {who.he.capitalize()} runs {laps} laps a "
        f"day on {days} days a week. How many kilometres does {who.he} run in {weeks} weeks?"
    )


def fence(s: Story) -> str:
    who, place = s.person(), s.word("garden", "meadow", "field", "vineyard")
    length, width, gate, price = s.number(12, 60), s.number(8, 40), s.number(2, 5), s.number(6, 18)
    if width >= length:
        raise Unfit
    s.multiply(s.subtract(s.multiply(s.add(length, width), 2), gate), price)
    return (
        f"{who} wants a fence around a rectangular {place} that is {length} metres long and {width} metres wide. A gap "
        f"of {gate} metres stays open for a gate. The fence costs ${price} per metre. How many dollars does the fence "
        "cost?"
    )


TEMPLATES: tuple[Template, ...] = (journey, homework, reading, machines, tank, laps, fence)
