"""Names of functions: two that do different things never share one."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from plait import InvalidInput, TreeSearch
from plait.search import functions
from plait.search.functions import function, name_of, register_function


@pytest.fixture(autouse=True)
def no_functions(monkeypatch):
    """As in a new process."""
    for name, empty in {"_functions": {}, "_names": {}, "_numbers": Counter()}.items():
        monkeypatch.setattr(functions, name, empty)


def constant(value):
    return lambda prompt, steps: value


def plain():
    def reward(prompt, steps):
        return 0.5

    return reward


class Length:
    def __init__(self, worth):
        self.worth = worth

    def score(self, prompt, steps):
        return self.worth * len(steps)

    __call__ = score


def test_a_function_is_named_by_its_place():
    assert name_of(constant) == name_of(constant) == f"{__name__}.constant"
    assert function(name_of(constant)) is constant


def test_functions_of_one_place_get_names_of_their_own():
    made = [constant(value) for value in (1.0, 2.0, 3.0)]
    names = [name_of(one) for one in made]
    place = f"{__name__}.constant.<locals>.<lambda>"
    assert names == [place, f"{place}#2", f"{place}#3"]
    assert [function(name)("", []) for name in names] == [1.0, 2.0, 3.0]
    assert [name_of(one) for one in reversed(made)] == names[::-1]


def test_what_captures_nothing_keeps_its_name_when_made_again():
    first = name_of(plain())
    assert name_of(plain()) == first == f"{__name__}.plain.<locals>.reward"


@pytest.mark.parametrize("attribute", ["__defaults__", "__kwdefaults__", "worth"])
def test_defaults_and_attributes_make_a_difference(attribute):
    names = set()
    for worth in (1, 2):

        def reward(prompt, steps, more=0, *, most=0):
            return 0.5

        setattr(reward, attribute, {"most": worth} if attribute == "__kwdefaults__" else (worth,))
        names.add(name_of(reward))
    assert len(names) == 2


def test_methods_and_callable_objects_are_told_apart_by_their_object():
    one, two = Length(1), Length(2)
    assert name_of(one.score) == name_of(one.score) != name_of(two.score)
    assert name_of(one) == f"{__name__}.Length"
    assert name_of(two) == f"{__name__}.Length#2"
    assert name_of(partial(max, 3)) != name_of(partial(max, 4))


def test_a_registered_name_is_not_taken_over_and_the_last_one_counts():
    one, two = plain, lambda prompt, steps: 1.0
    place = f"{__name__}.plain"
    register_function(place, two)
    assert name_of(one) == f"{place}#2"
    assert function(place) is two
    register_function(f"{place}#2", two)
    assert name_of(one) == f"{place}#3"
    assert function(f"{place}#3") is one


def test_two_searches_keep_their_own_reward():
    searches = [TreeSearch(prompt="q", reward=constant(value), embedding=constant(value)) for value in (7.0, 8.0)]
    assert [function(search.reward.function)("", []) for search in searches] == [7.0, 8.0]
    assert [function(search.embedding)("", []) for search in searches] == [7.0, 8.0]


def test_an_unknown_name():
    with pytest.raises(InvalidInput, match="unknown function 'nowhere at all'"):
        function("nowhere at all")
