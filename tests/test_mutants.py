"""The tool behind `make mutants`: its table names what is there, and its mutants do something else."""

from __future__ import annotations

from plait.runtime.budget import Ledger
from plait.tests.mutants import ROOT, TESTS, mutants


def test_the_table_names_modules_and_tests_that_are_there():
    for module, tests in TESTS.items():
        assert (ROOT / module).is_file() and tests
        for test in tests:
            assert (ROOT / test).exists(), test


def test_a_mutant_changes_one_function_until_it_is_put_back():
    found = {str(mutant).partition("  ")[2]: mutant for mutant in mutants("runtime/budget.py")}
    assert len(found) > 30
    mutant = found["tokens <= self.left  ->  tokens < self.left"]
    ((function, code),) = mutant.changed
    assert function is Ledger.can_spend and Ledger(5).can_spend(5)
    before, function.__code__ = function.__code__, code
    try:
        assert not Ledger(5).can_spend(5) and Ledger(5).can_spend(4)
    finally:
        function.__code__ = before
    assert Ledger(5).can_spend(5)
