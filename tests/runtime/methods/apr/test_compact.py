import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.evals.benchmarks.countdown.verify import verify
from plait.rl.countdown import traces
from plait.runtime.errors import InvalidInput
from plait.runtime.methods.apr import compact as lang
from plait.runtime.methods.apr.dialect import Child, Dialect, Joined

DIALECT = lang.CompactDialect()
NUMBERS = st.lists(st.integers(1, lang.CAP), min_size=4, max_size=6)
TARGETS = st.integers(10, 100)
NOISE = st.lists(
    st.sampled_from(["apr", "seq", ":", ";", "join", "end", "spawn", "answer", "none", "x", "_", "+", "-", "*", "/"])
    | st.integers(0, 1200).map(str)
    | st.sampled_from([",", "=", "|", "<eos>", "-3", "007", "\u0663", "1e9"]),
    max_size=40,
).map(" ".join)


def test_it_is_a_dialect():
    dialect: Dialect = DIALECT
    assert dialect.name == "compact"
    assert dialect.spawn_end == "spawn"


def test_the_documented_example():
    row = "63 9 + 72 - 54 * 567 / 7"
    assert lang.quad(63, 9) == row
    root = DIALECT.root_prompt([5, 63, 2, 9], 24)
    assert root == "apr 24 : 63 9 5 2 ;"
    spawn = DIALECT.spawn(f"{root} {row} ; 5 2 + 7 - 3 * 10 / x ; spawn", 0)
    assert spawn is not None
    assert [child.label for child in spawn.children] == [
        *("63 + 9 = 72", "63 - 9 = 54", "63 * 9 = 567", "63 / 9 = 7", "5 + 2 = 7", "5 - 2 = 3", "5 * 2 = 10")
    ]
    assert [child.prompt for child in spawn.children][::3] == [
        *("apr 24 : 72 5 2 ;", "apr 24 : 7 5 2 ;", "apr 24 : 63 10 9 ;")
    ]


@given(NUMBERS, TARGETS)
def test_children_of_a_written_table_are_its_moves(nums, target):
    context = f"{lang.prompt(nums, target, 'apr')} {traces.table(nums)}"
    spawn = DIALECT.spawn(f"{context} spawn", 0)
    assert spawn is not None
    assert context == f"{context} spawn"[: spawn.keep]
    seen = dict.fromkeys((child.label, child.prompt) for child in spawn.children)
    assert list(seen) == [(move, lang.prompt(left, target, "apr")) for move, left in traces.moves(nums)]


@settings(max_examples=60)
@given(st.lists(st.integers(1, 99), min_size=3, max_size=4), TARGETS)
def test_what_a_thread_hands_back_is_right(nums, target):
    document = traces.parallel(nums, target)
    result = DIALECT.result(" ".join(document.words))
    steps = traces.search(nums, target)
    assert result == (" , ".join(steps) if steps else None)
    if result is not None:
        assert DIALECT.verify(Child(label="", prompt=lang.prompt(nums, target, "apr")), result)
        assert not DIALECT.verify(Child(label="", prompt=lang.prompt(nums, target + 1, "apr")), result)
        assert verify(nums, target, result)


@given(NOISE, NOISE)
def test_functions_are_total(start, text):
    for context in (text, f"{start} {text}", f"apr 24 : 63 9 5 2 ; {text} spawn", f"apr 24 : 63 9 5 ; {text} spawn"):
        spawn = DIALECT.spawn(context, 0)
        assert (spawn is None) == (context.split()[-1:] != ["spawn"])
        if spawn is not None:
            assert context[spawn.keep :].strip() == "spawn"
            assert all(child.prompt is None or lang.read_prompt(child.prompt.split()) for child in spawn.children)
        result = DIALECT.result(context)
        assert result is None or lang.read_steps(result)
        assert not DIALECT.verify(Child(label="", prompt=context), text) or lang.read_steps(text)
        joined = [Joined(child=Child(label="1 + 2 = 3", prompt=None), result=text)]
        assert DIALECT.join(joined, 0).split().count("end") == 1


@pytest.mark.parametrize(
    "row",
    [
        "63 9 + 72 - 54 * 567",
        "63 8 + 71 - 55 * 504 / x",
        "63 63 + 126 - x * x / 1",
        "63 9 + 72 * 567 - 54 / 7",
        "63 9 - 72 - 54 * 567 / 7",
        "",
    ],
)
def test_a_malformed_row_is_one_child_without_prompt(row):
    spawn = DIALECT.spawn(f"apr 24 : 63 9 5 2 ; {row} ; 9 5 + 14 - x * x / x ; spawn", 0)
    assert spawn is not None
    assert [child.prompt for child in spawn.children] == [None, "apr 24 : 63 14 2 ;"]


def test_a_malformed_result_is_a_child_without_prompt():
    spawn = DIALECT.spawn("apr 24 : 63 9 5 2 ; 63 9 + 72 - _ * 1000 / x ; spawn", 0)
    assert spawn is not None
    assert [child.prompt for child in spawn.children] == ["apr 24 : 72 5 2 ;", None, None]


@pytest.mark.parametrize(
    "context",
    [
        "spawn",
        "apr 24 : 63 9 5 2 ; spawn",
        "apr 24 : 63 9 5 ; 63 9 + 72 - 54 * 567 / 7 ; spawn",
        "apr 24 : 63 9 5 2 ; 63 9 + 72 - 54 * 567 / 7 ; join end spawn",
        "what is this spawn",
    ],
)
def test_spawning_without_children(context):
    spawn = DIALECT.spawn(context, 0)
    assert spawn is not None
    assert spawn.children == ()


def test_wrong_arithmetic_is_passed_on_and_fails_verification():
    spawn = DIALECT.spawn("apr 24 : 63 9 5 2 ; 63 9 + 73 - x * x / x ; spawn", 0)
    assert spawn is not None
    assert spawn.children[0].prompt == "apr 24 : 73 5 2 ;"
    assert not DIALECT.verify(spawn.children[0], "73 - 5 = 68 , 68 / 2 = 35")
    assert not DIALECT.verify(spawn.children[0], "73 - 5 = 68")
    assert not DIALECT.verify(spawn.children[0], "nonsense")


def test_join_sections():
    def child(i, result):
        return Joined(child=Child(label=f"{i} + 1 = {i + 1}", prompt=None), result=result)

    good = "4 * 6 = 24 , 24 / 1 = 24"
    many = [child(1, None), child(2, good), child(2, good), child(3, "4 ; end"), *(child(i, good) for i in (4, 5, 6))]
    assert DIALECT.join([], 0) == DIALECT.join(many[:1], 0) == " join end"
    assert DIALECT.join(many, 0) == " join " + " ".join(f"{i} + 1 = {i + 1} , {good} ;" for i in (2, 4, 5)) + " end"
    assert DIALECT.join_short(many, 0) == f" join 2 + 1 = 3 , {good} ; end"


@pytest.mark.parametrize(
    ("context", "result"),
    [
        ("apr 24 : 8 3 1 ; hit answer 8 * 3 = 24 , 24 / 1 = 24", "8 * 3 = 24 , 24 / 1 = 24"),
        ("hit answer 8 * 3 = 24 , 24 / 1 = 24 <eos>", "8 * 3 = 24 , 24 / 1 = 24"),
        ("apr 24 : 8 3 1 ; none <eos>", None),
        ("apr 24 : 8 3 1 ; 8 3 + 11", None),
        ("answer", None),
        ("answer 8 * 3 = 24 , 24 /", None),
        ("answer 8 * 3 = 24 none", None),
        ("answer 8 * 3 = 1000", None),
    ],
)
def test_results(context, result):
    assert DIALECT.result(context) == result


def test_root_prompt_says_what_is_wrong():
    for nums, target, mode in (
        ([1, 2], 10, "apr"),
        ([1, 2, 1000], 10, "apr"),
        ([1, 2, 3], 0, "apr"),
        ([1, 2, 3], 9, "sos"),
    ):
        with pytest.raises(InvalidInput):
            DIALECT.root_prompt(nums, target, mode)


def test_pruning_loses_no_solution_below_the_cap():
    from plait.evals.benchmarks.countdown.solver import solve

    rng = random.Random(3)
    for _ in range(150):
        nums, target = [rng.randint(1, 30) for _ in range(3)], rng.randint(10, 40)
        assert (traces.search(nums, target) is None) == (solve(nums, target, cap=lang.CAP) is None), (nums, target)
