"""Templates about prices, wages and savings."""

from __future__ import annotations

from .story import Story, Template, an, fit, plural


def bakery(s: Story) -> str:
    who, cake = s.person(), s.word("muffin", "cookie", "bun", "scone", "cupcake")
    trays, each, price = s.number(3, 9), s.number(6, 15), s.number(2, 5)
    eaten, given = s.number(2, 9), s.number(5, 20)
    s.multiply(s.subtract(s.multiply(trays, each), eaten, given), price)
    return (
        f"{who} bakes {trays} trays of {each} {plural(cake)}. {who}'s family eats {eaten} of them, and {who.he} gives "
        f"{given} to the neighbours. {who.he.capitalize()} sells all the others for ${price} each. How many dollars "
        f"does {who.he} take in?"
    )


def change(s: Story) -> str:
    who = s.person()
    first, second = s.word("notebook", "ruler", "folder"), s.word("pen", "eraser", "glue stick")
    minutes = s.needless(5, 25)
    a, cost_a, b, cost_b = s.number(2, 6), s.number(3, 7), s.number(2, 9), s.number(1, 4)
    note = s.choice(50, 100)
    s.subtract(note, s.add(s.multiply(a, cost_a), s.multiply(b, cost_b)))
    return (
        f"{who} walks {minutes} minutes to a shop and buys {a} {plural(first)} at ${cost_a} each and {b} "
        f"{plural(second)} at ${cost_b} each. {who.he.capitalize()} pays with a ${note} note. How many dollars of "
        f"change does {who.he} get?"
    )


def saving(s: Story) -> str:
    who, goal = s.person(), s.word("bicycle", "guitar", "tablet", "camera", "telescope")
    weeks, earned, spent, have = s.number(4, 16), s.number(15, 40), s.number(3, 12), s.number(20, 90)
    price = have + weeks * fit(earned - spent)
    s.divide(s.subtract(price, have), s.subtract(earned, spent))
    return (
        f"{who} wants to buy a {goal} that costs ${price} and has already saved ${have}. Every week {who.he} earns "
        f"${earned} by walking dogs and spends ${spent} of it on snacks; {who.he} saves the rest. In how many weeks "
        f"will {who.he} have enough money for the {goal}?"
    )


def discount(s: Story) -> str:
    who, item, other = s.person(), s.word("jacket", "coat", "sweater", "dress"), s.word("hat", "scarf", "belt")
    price, off, count, small = s.number(40, 160, 5), s.choice(10, 15, 20, 25, 30, 40), s.number(2, 4), s.number(8, 25)
    reduced = s.subtract(price, s.percent(price, off))
    s.add(reduced, s.multiply(count, small))
    return (
        f"{an(item).capitalize()} costs ${price}, but today it is {off}% off. {who} buys one {item} and also {count} "
        f"{plural(other)} at ${small} each, which are not reduced. How many dollars does {who.he} pay in all?"
    )


def overtime(s: Story) -> str:
    who, job = s.person(), s.word("warehouse", "garage", "bakery", "hotel", "nursery")
    rate, hours, extra, late = s.number(12, 24), s.number(30, 40), s.number(3, 9), s.number(2, 10)
    regular = s.multiply(hours, rate)
    s.add(regular, s.multiply(late, s.add(rate, extra)))
    return (
        f"{who} works in a {job} for ${rate} an hour. For every hour beyond the first {hours} in a week, {who.he} gets "
        f"${extra} more than for one of those. Last week {who.he} worked {hours} hours and another {late} hours of "
        f"overtime. How many dollars did {who.he} earn last week?"
    )


def taxi(s: Story) -> str:
    base, rate, distance, friends = s.number(3, 9), s.number(2, 4), s.number(6, 30), s.choice(2, 3, 4, 5)
    place, tip = s.word("the airport", "the station", "the stadium", "the museum"), s.number(2, 8)
    s.divide(s.add(base, s.multiply(distance, rate), tip), friends)
    return (
        f"A taxi costs ${base} to get in, and ${rate} for each kilometre. {friends} friends ride {distance} kilometres "
        f"to {place} together and leave a tip of ${tip}. They share the whole cost equally. How many dollars does each "
        "of them pay?"
    )


def lemonade(s: Story) -> str:
    who, drink = s.person(), s.word("lemonade", "iced tea", "orange juice", "hot chocolate")
    cents, cups, costs = s.choice(25, 50, 75, 125, 150), s.number(20, 90, 2), s.number(4, 20)
    s.subtract(s.divide(s.multiply(cups, cents), 100), costs)
    return (
        f"{who} sells {drink} at a street fair for ${cents / 100:.2f} a cup. What {who.he} needed to make it cost "
        f"${costs}. {who.he.capitalize()} sells {cups} cups. How many dollars of profit does {who.he} make?"
    )


def resale(s: Story) -> str:
    who, fruit, box = s.person(), s.word("melon", "pineapple", "mango", "coconut"), s.word("crate", "box", "basket")
    boxes, each, cost, price, bad = s.number(3, 9), s.number(8, 20), s.number(9, 25), s.number(2, 6), s.number(2, 9)
    sold = s.subtract(s.multiply(boxes, each), bad)
    s.subtract(s.multiply(sold, price), s.multiply(boxes, cost))
    return (
        f"{who} buys {boxes} {plural(box)} with {each} {plural(fruit)} each for ${cost} a {box}. {bad} of the "
        f"{plural(fruit)} are spoiled, and {who.he} sells all the others for ${price} each. How many dollars of profit "
        f"does {who.he} make?"
    )


def fundraiser(s: Story) -> str:
    first, second = s.people(2)
    goal, sold, price = s.number(150, 600, 10), s.number(8, 30), s.choice(2, 3, 4, 5)
    times = s.choice(2, 3)
    own = s.multiply(sold, price)
    s.subtract(goal, s.add(own, s.multiply(own, times)))
    return (
        f"A school wants to raise ${goal} for new books. {first} sells {sold} raffle tickets at ${price} each, and "
        f"{second} collects {'twice' if times == 2 else 'three times'} as much money as {first} does. How many dollars "
        "are still missing?"
    )


def rides(s: Story) -> str:
    who, place = s.person(), s.word("a fair", "an amusement park", "a water park")
    entry, ride, budget, meal = s.number(5, 15), s.number(2, 6), s.number(40, 95), s.number(6, 14)
    age, season = s.needless(8, 15), s.needless(101, 180)
    s.divide(s.subtract(budget, entry, meal), ride)
    return (
        f"The entrance to {place} costs ${entry} and every ride ${ride}; a card for the whole season would be "
        f"${season}. {who}, who is {age} years old, has ${budget} and buys no card. After paying the entrance and "
        f"${meal} for lunch, how many rides can {who.he} take with the rest of the money?"
    )


TEMPLATES: tuple[Template, ...] = (
    bakery,
    change,
    saving,
    discount,
    overtime,
    taxi,
    lemonade,
    resale,
    fundraiser,
    rides,
)
