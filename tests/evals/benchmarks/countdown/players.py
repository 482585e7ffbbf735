"""A model that writes, in the paper's language, what the symbolic solvers write."""

from __future__ import annotations

import random
import re

from plait import ScriptedEngine
from plait.rl.countdown.paper import PaperSearch
from plait.rl.countdown.serial import SerialSearch
from plait.runtime.engines.scripted import WordTokenizer


def searches(problem, *, beam=4):
    """The solvers' traces: threads, and one line."""
    rng = random.Random(f"{problem.nums} {problem.target}")
    thread = PaperSearch(target=problem.target, rng=rng, beam=beam, child_beam=beam + 2).run(problem.nums)
    return thread, SerialSearch(target=problem.target, rng=rng, beam=beam).run(problem.nums)


def player(problems):
    """Goes on as the solvers' traces of these problems do, whatever budgets the prompt speaks of."""
    found = [searches(problem) for problem in problems]
    texts = [text for thread, line in found for text in (*thread.sequences(), line)]

    def write(context):
        context = re.sub(r"^(Sub Call|Token) Budget: \d+ ", "", context)
        return next((text[len(context) :] for text in texts if text.startswith(context)), "no such search")

    return write


def engine(script, **options):
    return ScriptedEngine(script, tokenizer=WordTokenizer(), **{"context_limit": 4096, **options})
