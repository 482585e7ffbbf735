import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.evals.benchmarks.countdown.verify import verify

NUMS, TARGET = (63, 9, 5, 2), 56


@pytest.mark.parametrize(
    "text",
    [
        "63-9=54, 5-2=3, 54+3=57",
        "(63-9)+5-2",
    ],
)
def test_correct_arithmetic_but_another_value(text):
    assert "makes 57" in verify(NUMS, TARGET, text).reason


@pytest.mark.parametrize(
    "text",
    [
        "63-9=54,5-2=3,54+3=57",
        " 63 - 9 = 54 , 54 + 5 = 59 , 59 - 2 = 57",
        "63-9=54\n5-2=3\n54+3=57\n",
        "63-9=54\n\n5-2=3\n \n54+3=57",
        "63-9=54,\n5-2=3 ;\r\n54+3=57;\n",
        "(63-9)+(5-2) = 57 ,",
        "63-9=54; 5-2=3; 54+3=57",
        "63 - 9 + 5 - 2",
        "(63-9)+(5-2) = 57",
        "((63)-(9))+5-2",
        "5-2+63-9",
    ],
)
def test_accepts(text):
    verdict = verify(NUMS, 57, text)
    assert verdict, verdict.reason
    assert verdict.reason == "correct"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("   \n", "empty"),
        (" ;\n", "empty"),
        ("63-9=54, 5-2=3, 54+3=57,,", "not an equation"),
        (",63-9=54, 5-2=3, 54+3=57", "not an equation"),
        ("63-9=54", "numbers left over"),
        ("63-9=54, 5-2=3", "numbers left over"),
        ("63-9=55, 5-2=3, 55+3=58", "wrong arithmetic"),
        ("63-9=54, 54-9=45, 45+5=50", "9 is not available"),
        ("63-8=55, 5-2=3, 55+3=58", "8 is not available"),
        ("9-63=54, 5-2=3, 54+3=57", "negative"),
        ("63/5=12, 12+9=21, 21-2=19", "inexact"),
        ("63-9=54, 5-2=3, 54+3=57, 57+0=57", "0 is not available"),
        ("63-9=54, oops, 54+3=57", "not an equation"),
        ("63-9=54,, 5-2=3, 54+3=57", "not an equation"),
        ("63-9", "not exactly the given numbers"),
        ("63-9+5-2+1-1", "not exactly the given numbers"),
        ("57", "not exactly the given numbers"),
        ("63-9+5-2=58", "right-hand side"),
        ("63-9=54+5-2=57", "right-hand side"),
        ("2-5+63-9", "negative"),
        ("63/9*5/2", "inexact"),
        ("(63-9+5-2", "unbalanced"),
        ("63-9+5-2)", "unexpected"),
        ("63-9+5-", "ends too early"),
        ("-63", "unexpected"),
        ("63 9 5 2", "unexpected"),
        ("63**9", "unexpected"),
        ("6_3-9+5-2", "unexpected"),
        ("\u0666\u0663-9+5-2", "unexpected"),
        ("63-9+5-2 # 57", "unexpected"),
        ("__import__('os').system('true')", "unexpected"),
        ("9" * 100, "too large"),
        ("(" * 200 + "63", "nested too deeply"),
        ("1" + "+1" * 3000, "too long"),
        (f"{'9' * 30}*{'9' * 30}", "too large"),
        ("answer 57", "unexpected"),
    ],
)
def test_rejects_with_the_reason(text, reason):
    verdict = verify(NUMS, 57, text)
    assert not verdict
    assert reason in verdict.reason


def test_division_by_zero_is_inexact():
    assert "inexact" in verify((5, 3, 3), 5, "3-3=0, 5/0=5").reason
    assert "inexact" in verify((5, 3, 3), 5, "5/(3-3)").reason


@given(st.text(max_size=60) | st.text(alphabet="0123456789+-*/()=, ", max_size=60))
def test_any_text_gives_a_verdict(text):
    verdict = verify(NUMS, TARGET, text)
    assert verdict.ok == (verdict.reason == "correct")
