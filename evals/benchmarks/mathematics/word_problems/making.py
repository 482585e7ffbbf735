"""Templates about things made, grown, packed and used up."""

from __future__ import annotations

from .story import Story, Template, plural


def garden(s: Story) -> str:
    who, plant = s.person(), s.word("tomato", "pepper", "cucumber", "pumpkin")
    many = {"tomato": "tomatoes"}.get(plant, plural(plant))
    rows, plants, each, bag, age = (
        s.number(3, 12),
        s.number(4, 15),
        s.number(3, 12),
        s.number(4, 12),
        s.needless(30, 80),
    )
    s.divide(s.multiply(s.multiply(rows, plants), each), bag)
    return (
        f"{who}, who is {age}, plants {rows} rows of {plants} {plant} plants. Every plant bears {each} {many}. {who} "
        f"packs all of them into bags of {bag}. How many bags does {who.he} fill?"
    )


def recipe(s: Story) -> str:
    who, dish = s.person(), s.word("pancakes", "waffles", "omelettes", "dumplings")
    serves, eggs, factor, have = s.number(3, 8), s.number(2, 6), s.number(3, 9), s.number(2, 14)
    minutes = s.needless(15, 50)
    guests = serves * factor
    s.subtract(s.multiply(s.divide(guests, serves), eggs), have)
    return (
        f"A recipe for {dish} takes {minutes} minutes, serves {serves} people and needs {eggs} eggs. {who} cooks for "
        f"{guests} people and has {have} eggs at home. How many more eggs does {who.he} need?"
    )


def hens(s: Story) -> str:
    who, birds = s.person(), s.word("hen", "duck", "goose")
    many = "geese" if birds == "goose" else plural(birds)
    count, days, used, price = s.number(8, 40), s.number(4, 14), s.number(6, 48), s.number(3, 6)
    dozens = s.divide(s.subtract(s.multiply(count, days), used), 12)
    s.multiply(dozens, price)
    return (
        f"{who} keeps {count} {many}, and each of them lays one egg a day. In {days} days, {who.his} family uses "
        f"{used} of the eggs. {who.he.capitalize()} sells the others at ${price} a dozen. How many dollars does "
        f"{who.he} get?"
    )


def feed(s: Story) -> str:
    animal = s.word("horse", "cow", "donkey", "goat")
    place = s.word("on a farm", "in a stable", "in an animal shelter")
    count, daily, weeks, bag, price = (
        s.number(3, 15),
        s.number(2, 9),
        s.number(2, 8),
        s.choice(10, 14, 15, 20, 21, 25),
        s.number(8, 30),
    )
    eaten = s.multiply(s.multiply(count, daily), s.multiply(weeks, 7))
    s.multiply(s.divide(eaten, bag), price)
    return (
        f"Each of the {count} {plural(animal)} {place} eats {daily} kilograms of feed a day. Feed comes in bags of "
        f"{bag} kilograms that cost ${price} each. How many dollars does the feed for {weeks} weeks cost?"
    )


def library(s: Story) -> str:
    shelves, each, lent, back, days = (
        s.number(6, 30),
        s.number(15, 40),
        s.number(12, 45),
        s.number(4, 30),
        s.number(3, 12),
    )
    new = s.number(10, 60)
    books = s.multiply(shelves, each)
    lost = s.multiply(s.subtract(lent, back), days)
    s.add(s.subtract(books, lost), new)
    return (
        f"A library has {shelves} shelves with {each} books each. Every day, readers borrow {lent} books and bring "
        f"{back} back. After {days} days, {new} new books arrive. How many books are in the library then?"
    )


def packing(s: Story) -> str:
    first, second = s.people(2)
    item, per = s.word("candle", "bowl", "mug", "soap bar", "puppet"), s.number(3, 12)
    many = plural(item)
    fast, slow, hours, broken = s.number(12, 40), s.number(8, 30), s.number(2, 7), s.number(2, 20)
    made = s.multiply(s.add(fast, slow), hours)
    s.divide(s.subtract(made, broken), per)
    return (
        f"{first} makes {fast} {many} an hour and {second} makes {slow} an hour. They work together for {hours} hours. "
        f"{broken} of the {many} are damaged; they pack the others into boxes of {per}. How many boxes do they fill?"
    )


def classes(s: Story) -> str:
    trip = s.word("museum", "zoo", "planetarium", "castle")
    groups, pupils, ill, seats, teachers = (
        s.number(3, 9),
        s.number(18, 29),
        s.number(2, 12),
        s.choice(12, 15, 16, 20, 24, 25, 30, 32, 36, 40, 45, 50),
        s.number(1, 3),
    )
    coming = s.subtract(s.multiply(groups, pupils), ill)
    s.divide(s.add(coming, s.multiply(groups, teachers)), seats)
    grown = "one teacher" if teachers == 1 else f"{teachers} teachers"
    return (
        f"{groups} classes of {pupils} pupils each go to the {trip}, but {ill} pupils are ill and stay at home. Every "
        f"class brings {grown} along. They go by buses that have {seats} seats for passengers, and all seats are "
        "taken. How many buses are there?"
    )


def cloth(s: Story) -> str:
    who, thing = s.person(), s.word("curtain", "flag", "apron", "tablecloth")
    other = s.word("cushion", "bag", "pillowcase")
    roll, big, count, small = s.number(20, 90), s.number(2, 5), s.number(3, 12), s.choice(2, 3)
    rest = s.subtract(roll, s.multiply(count, big))
    s.multiply(rest, small)
    return (
        f"{who} has a roll of {roll} metres of cloth. One {thing} takes {big} metres, and {who.he} sews {count} of "
        f"them. From every metre of the rest {who.he} makes {small} {plural(other)}. How many {plural(other)} does "
        f"{who.he} make?"
    )


TEMPLATES: tuple[Template, ...] = (garden, recipe, hens, feed, library, packing, classes, cloth)
