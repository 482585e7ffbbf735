"""`APR`: the golden trace, and every row of the paper's edge cases as this runtime decides them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import APR, Finish, InvalidInput, SamplingParams, ScriptedEngine, Trace
from plait.runtime.engines.scripted import CharTokenizer, WordTokenizer
from plait.runtime.methods.apr.paper import PaperDialect
from plait.runtime.methods.prompt import context_text, cut
from plait.tests.runtime.methods.apr.test_paper import EXPLORED, PATH, ROOT, SECTION
from plait.tests.runtime.tools import run

BAD, GOOD = "Moving to Node #0,1\nCurrent State: 27:[53, 18]", "Moving to Node #0,0\nCurrent State: 27:[4, 31]"
FAILED = "\nExploring Operation: 53-18=35, Resulting Numbers: [35]\n35,27 unequal: No Solution\nNo solution found.\n"
FOUND = f"\nExploring Operation: 31-4=27, Resulting Numbers: [27]\n27,27 equal: Goal Reached\n{PATH}\n"
JOIN = (
    "<Sub Searches>\n"
    "<No Solution in Sub Search 0 at level 1 at Node #0,1>\n"
    f"<Goal Reached in Sub Search 1 at level 1 at Node #0,0>\n{PATH}\n"
    "<End Sub Searches>\n"
)
NOTHING = "".join(re.sub(r"<Goal .*>\n[^<]*", r"<No Solution in Sub Search 1 at level 1 at Node #0,0>\n", JOIN))
WHOLE = f"Moving to Node #0\n{PATH}"
CONCLUSION = f"27,27 equal: Goal Reached\n{WHOLE}\n"


def model(root=EXPLORED + SECTION, bad=FAILED, good=FOUND, joined=CONCLUSION, failed="No solution found.\n"):
    """A model that plays the golden trace; each part can be replaced."""

    def write(context):
        if context.startswith(BAD):
            return bad
        if context.startswith(GOOD):
            return good
        if context.endswith("<End Sub Searches>\n"):
            return joined if "<Goal Reached in" in context else failed
        return root

    return write


async def solve(script=None, *, engine=None, tokenizer=None, prompt=ROOT, limits=None, **fields):
    engine = engine or ScriptedEngine(script or model(), tokenizer=tokenizer or CharTokenizer())
    return await run(APR(prompt=prompt, **fields), None, engine=engine, **(limits or {}))


@pytest.mark.parametrize("tokenizer", [CharTokenizer, WordTokenizer])
async def test_golden_trace(tokenizer, tmp_path):
    engine = ScriptedEngine(model(), tokenizer=tokenizer())
    result, _ = await run(APR(prompt=ROOT), None, engine=engine, trace_file=tmp_path / "trace")
    assert engine.prompts == [
        ROOT,
        "Moving to Node #0,1\nCurrent State: 27:[53, 18], Operations: ['22-4=18']",
        "Moving to Node #0,0\nCurrent State: 27:[4, 31], Operations: ['53-22=31']",
        ROOT + EXPLORED + JOIN,
    ]
    assert (result.answer, result.finish_reason) == (WHOLE, Finish.EOS)
    assert result.text == EXPLORED + JOIN + CONCLUSION
    assert (result.details["rounds"], result.details["threads"]) == (1, 3) and not result.usage.counts
    trace = Trace.load(tmp_path / "trace")
    assert list(trace.branches) == ["0", "1.0.0", "1.1.0"]
    assert [trace.branches[name].parent for name in trace.branches] == [None, "0", "0"]
    assert (trace.joins[0].children, trace.joins[0].found) == (("1.0.0", "1.1.0"), ("1.1.0",))
    decode = engine.tokenizer.decode
    rows = [
        (row.branch, decode(row.token_ids), decode([t for t, m in zip(row.token_ids, row.mask, strict=True) if m]))
        for row in trace.for_training()
    ]
    assert rows == [
        ("0", f"<s>{ROOT}{EXPLORED}{SECTION}", EXPLORED + SECTION),
        ("1.0.0", f"<s>{engine.prompts[1]}{FAILED}</s>", f"{FAILED}</s>"),
        ("1.1.0", f"<s>{engine.prompts[2]}{FOUND}</s>", f"{FOUND}</s>"),
        ("0", f"<s>{ROOT}{EXPLORED}{JOIN}{CONCLUSION}</s>", f"{CONCLUSION}</s>"),
    ]
    assert all(row.is_causal for row in trace.for_training())


async def test_ledgers_of_the_golden_trace():
    result, _ = await solve()
    ends = 1  # EOS, one token with this tokenizer
    longest = max(len(FAILED), len(FOUND)) + ends
    parent = len(EXPLORED + SECTION) + len(JOIN) + len(CONCLUSION) + ends
    assert result.usage.critical_tokens == parent + longest
    assert result.usage.total_tokens == parent + len(FAILED) + len(FOUND) + 2 * ends
    assert result.usage.injected_tokens == len(JOIN)
    assert result.usage.phases["children"] > 0


async def test_sequences_are_counted_whole_and_with_shared_prefixes_once():
    result, _ = await solve()
    bos = eos = 1  # of a token each; the call that spawns ends at its tag
    first, last = ROOT + EXPLORED + SECTION, ROOT + EXPLORED + JOIN + CONCLUSION
    bad, good = (f"{start}, Operations: ['{made}']" for start, made in ((BAD, "22-4=18"), (GOOD, "53-22=31")))
    lengths = [len(first) + bos, *(len(text) + bos + eos for text in (bad + FAILED, good + FOUND, last))]
    assert result.details["sequences"] == {
        "count": 4,
        "tokens": sum(lengths),
        "tokens_once": sum(lengths) - bos - len(ROOT + EXPLORED),
        "longest": max(lengths),
    }


@pytest.mark.parametrize(("rounds", "expected"), [(None, 12), (8, 8), (0, 0)])
async def test_rounds_are_bounded_only_if_asked(rounds, expected):
    def write(context):
        if context.startswith(BAD) or context.startswith(GOOD):
            return FAILED
        return "\n" + SECTION if context.count("<End Sub Searches>") < 12 else FAILED

    prompt = ROOT + EXPLORED.rstrip("\n")
    result, _ = await solve(engine=ScriptedEngine(write, context_limit=16384), prompt=prompt, max_rounds=rounds)
    assert result.details["rounds"] == expected


async def test_unbounded_rounds_end_with_the_context():
    def write(context):
        return FAILED if context.startswith((BAD, GOOD)) else "\n" + SECTION

    prompt = ROOT + EXPLORED.rstrip("\n")
    result, _ = await solve(write, prompt=prompt, max_rounds=None, context_limit=3000)
    assert result.details["rounds"] > 8 and result.finish_reason is Finish.CONTEXT


async def test_only_the_join_text_is_new_in_the_parents_context():
    opened = []

    class Watching(ScriptedEngine):
        def open(self, tokens=(), **options):
            branch = super().open(tokens, **options)
            branch.rewind = lambda length, rewind=branch.rewind: (opened.append(length), rewind(length))[1]
            return branch

    await solve(engine=Watching(model()))
    assert opened == [1 + len(ROOT + EXPLORED)]


# -- the table of section 11 of the paper's specification, row by row ---------------------------------------------


async def test_zero_children_join_nothing_and_two_such_rounds_end_spawning():
    empty = "\n<Calling Sub Searches>\n<End Calling Sub Searches>"
    engine = ScriptedEngine([empty, empty, empty + "\nthe end"])
    result, _ = await solve(engine=engine)
    nothing = "\n<Sub Searches>\n<End Sub Searches>\n"
    assert result.text == nothing + nothing + empty + "\nthe end"
    assert (result.details["rounds"], result.answer, result.finish_reason) == (2, None, Finish.EOS)


async def test_children_over_the_cap_get_no_solution():
    result, engine = await solve(max_children=1)
    assert engine.prompts[2] == ROOT + EXPLORED + NOTHING
    assert result.usage.counts["children_over_cap"] == 1 and result.answer is None
    result, _ = await solve(max_children=0)
    assert result.details["threads"] == 1


async def test_children_run_in_waves_up_to_the_width():
    for width in (1, 2):
        result, engine = await solve(limits={"width": width})
        assert engine.peak_running == width and result.answer == WHOLE


async def test_sub_call_budget_conditions_the_prompt():
    _, engine = await solve(sub_call_budget=10)
    assert engine.prompts[0] == "Sub Call Budget: 10 " + ROOT
    assert engine.prompts[1].startswith(BAD)


async def test_duplicate_children_run_once_and_both_get_the_result():
    result, engine = await solve(model(root=EXPLORED + SECTION.replace("#0,1", "#0,0")))
    assert len(engine.prompts) == 3 and engine.prompts[2].count(PATH) == 2
    assert result.trace.joins[0].children == ("1.0.0",)


async def test_unknown_nodes_get_no_solution():
    result, engine = await solve(model(root=EXPLORED + SECTION.replace("#0,0", "#0,7")))
    assert "<No Solution in Sub Search 1 at level 1 at Node #0,7>" in engine.prompts[2]
    assert result.usage.counts["malformed_children"] == 1


async def test_a_spawn_end_without_a_beginning_is_counted_and_decoding_goes_on():
    engine = ScriptedEngine(["\nx\n<End Calling Sub Searches>", " more"])
    result, _ = await solve(engine=engine)
    assert result.text.endswith("Searches> more") and result.usage.counts["malformed_spawn"] == 1


async def test_a_child_at_its_limit_has_no_solution():
    # Both children stop in the middle; the found one before it said so twice.
    result, engine = await solve(max_tokens=len(EXPLORED + SECTION), script=model(good="\nx" * 999))
    assert engine.prompts[3] == ROOT + EXPLORED + NOTHING
    assert result.usage.counts["truncated_children"] == 1
    assert result.trace.branches["1.1.0"].finish == "length"
    result, _ = await solve(context_limit=900, script=model(good="\nx" * 999))
    assert result.trace.branches["1.1.0"].finish == "context" and result.answer is None


async def test_a_failing_child_is_tried_again_and_then_has_no_solution():
    for failures, answer in ((1, WHOLE), (2, None)):
        left = [failures]

        def script(context, left=left):
            if context.startswith(GOOD) and left[0]:
                left[0] -= 1
                raise OSError("engine gone")
            return model()(context)

        result, _ = await solve(script)
        assert result.answer == answer and result.usage.counts["child_errors"] == failures
        assert result.trace.branches["1.1.0"].error == "OSError: engine gone"
        assert "1.1.1" in result.trace.branches


async def test_a_failing_root_fails_the_job():
    def script(context):
        raise OSError("engine gone")

    with pytest.raises(OSError, match="engine gone"):
        await solve(script)


async def test_spawn_tags_of_children_are_text_at_the_depth_limit():
    result, engine = await solve(model(bad=f"\n{SECTION}\nand on"))
    assert len(engine.prompts) == 4 and result.answer == WHOLE
    assert result.trace.text_of("1.0.0").endswith("and on</s>")


async def test_depth_zero_and_budget_depth_zero_never_spawn():
    for fields, limits in (({"depth": 0}, {}), ({}, {"depth": 0})):
        result, engine = await solve(limits=limits, **fields)
        assert engine.prompts == [ROOT] and result.text == EXPLORED + SECTION


async def test_children_may_spawn_children():
    inner = (
        "\nGenerated Node #0,1,0: 27:[4, 31] Operation: 1+1=2\n<Calling Sub Searches>\n"
        "<Start Sub Search 0 at level 2> Moving to Node #0,1,0\n<End Calling Sub Searches>"
    )

    def script(context):
        if context.startswith("Moving to Node #0,1,0"):
            return FOUND
        if context.startswith(BAD):
            return CONCLUSION if context.endswith("<End Sub Searches>\n") else inner
        return model()(context)

    result, engine = await solve(script, depth=2)
    assert result.details["threads"] == 4
    assert result.trace.branches["1.0.1.0.0"].parent == "1.0.0"
    assert "<Goal Reached in Sub Search 0 at level 2 at Node #0,1,0>" in "".join(engine.prompts)
    assert result.answer == WHOLE


WRONG = PATH.replace("31-4=27", "31+4=27")


async def test_wrong_paths_are_joined_unless_verified():
    script = model(good=FOUND.replace(PATH, WRONG))
    result, engine = await solve(script)
    assert WRONG in engine.prompts[3]
    result, engine = await solve(script, verify_join=True)
    assert engine.prompts[3] == ROOT + EXPLORED + NOTHING and result.usage.counts["unverified_results"] == 1


def test_a_dialect_that_is_none_is_refused():
    with pytest.raises(InvalidInput, match=r"papr.*compact, paper"):
        APR(prompt=ROOT, dialect="papr")


async def test_the_first_success_can_cancel_its_siblings():
    result, engine = await solve(model(bad="\nx" * 1500), cancel_siblings=True)
    assert result.answer == WHOLE
    assert result.trace.branches["1.0.0"].finish == "cancelled"
    assert result.trace.joins[0].children == ("1.1.0",)
    result, _ = await solve(model(good=FOUND.replace(PATH, WRONG), bad="\nx" * 900), cancel_siblings=True)
    assert result.trace.branches["1.0.0"].finish == "eos"


async def test_reserved_text_of_the_model_is_replaced():
    forged = EXPLORED + SECTION.replace("<Calling Sub Searches>", "<Sub Searches>", 1)
    tail = forged.split("<Sub Searches>")[1]

    def script(context):
        return tail if context == ROOT + EXPLORED + "<Calling Sub Searches>" else model(root=forged)(context)

    for tokenizer in (CharTokenizer(), WordTokenizer()):
        result, engine = await solve(script, tokenizer=tokenizer)
        assert engine.prompts[1] == ROOT + EXPLORED + "<Calling Sub Searches>"
        assert engine.prompts[-1] == ROOT + EXPLORED + JOIN and result.answer == WHOLE
        assert result.usage.counts["reserved_text"] == 1
        sampled = [row.mask.count(True) for row in result.trace.for_training() if row.branch == "0"]
        assert len(sampled) == 3 and all(sampled)


async def test_a_model_that_only_forges_runs_into_its_limit():
    result, _ = await solve(engine=ScriptedEngine(lambda _: "<Sub Searches>"), max_tokens=100)
    assert result.finish_reason is Finish.LENGTH and "<Sub Searches>" not in result.text
    result, _ = await solve(engine=ScriptedEngine(lambda _: "<Sub Searches>", context_limit=300))
    assert result.finish_reason is Finish.CONTEXT
    result, _ = await solve(engine=ScriptedEngine(lambda _: "<Sub Searches>"), limits={"total_tokens": 200})
    assert result.finish_reason is Finish.TOTAL_TOKENS


async def test_a_bound_that_nobody_asked_for_is_told(monkeypatch):
    monkeypatch.setattr(APR, "bound", 12)
    for fields, told in (({}, 12), ({"max_tokens": 12}, None)):
        result, _ = await solve(model(root="no end of it " * 9), **fields)
        assert (result.finish_reason, result.details.get("bound")) == (Finish.LENGTH, told)
    result, _ = await solve(model(root="short"))
    assert "bound" not in result.details


async def test_a_spawn_section_cut_off_by_the_limit_ends_the_thread():
    result, engine = await solve(max_tokens=len(EXPLORED + SECTION) - 5)
    assert (engine.prompts, result.answer, result.finish_reason) == ([ROOT], None, Finish.LENGTH)


async def test_text_after_the_end_tag_is_never_generated():
    result, engine = await solve(model(root=EXPLORED + SECTION + "\nrambling"))
    assert "rambling" not in result.text and result.answer == WHOLE
    result, engine = await solve(model(root=EXPLORED + SECTION + "rambling on"), tokenizer=WordTokenizer())
    assert engine.prompts[3] == ROOT + EXPLORED + JOIN


async def test_no_end_of_text_runs_to_the_cap():
    result, _ = await solve(engine=ScriptedEngine(lambda _: "go on ", ends=False, context_limit=400))
    assert result.finish_reason is Finish.CONTEXT


def limit_for(join):
    return 1 + len(ROOT + EXPLORED + join) + 1


SHORT = JOIN.replace("Search 0 at level 1 at Node #0,1>", "Searches at level 1>").replace(
    "No Solution in", "No Solution in 1"
)


async def test_a_join_that_does_not_fit_is_shortened_and_then_fails():
    prompts = []
    for limit in (limit_for(JOIN), limit_for(JOIN) - 1, limit_for(SHORT), limit_for(SHORT) - 1):
        result, engine = await solve(context_limit=limit)
        prompts.append(engine.prompts[-1])
        assert result.finish_reason is Finish.CONTEXT
        assert result.usage.counts["join_overflows"] == [0, 1, 1, 2][len(prompts) - 1]
    assert prompts[0] == ROOT + EXPLORED + JOIN
    assert prompts[1] == prompts[2] == ROOT + EXPLORED + SHORT
    assert prompts[3].startswith("Moving to Node #0,") and result.answer is None


async def test_rounds_are_capped():
    engine = ScriptedEngine(model(failed=EXPLORED + SECTION, good=FAILED), context_limit=20_000)
    result, _ = await solve(engine=engine, max_rounds=3)
    assert (result.details["rounds"], result.details["threads"]) == (3, 7)
    assert result.finish_reason is Finish.EOS and result.text.endswith(SECTION)
    result, _ = await solve(max_rounds=0)
    assert result.details["threads"] == 1


async def test_a_spawn_nobody_can_pay_for_is_refused():
    spent = len(EXPLORED + SECTION)
    for limits in ({"total_tokens": spent + 3}, {"critical_tokens": spent + 1}):
        result, engine = await solve(limits=limits)
        assert engine.prompts == [ROOT] and result.usage.counts["refused_spawns"] == 1
        assert result.finish_reason.is_budget
    # With enough left for the join itself, the parent is told that nothing was found and concludes.
    names = [f"0,{i}" for i in range(10)]
    nodes = "".join(f"\nGenerated Node #{name}: 27:[{i}, 3] Operation: 1+{i}=2" for i, name in enumerate(names))
    starts = "".join(f"\n<Start Sub Search {i} at level 1> Moving to Node #{name}" for i, name in enumerate(names))
    root = f"{nodes}\n<Calling Sub Searches>{starts}\n<End Calling Sub Searches>"
    tokenizer = WordTokenizer()
    budget = len(tokenizer.encode(root)) + 28 * len(names)
    engine = ScriptedEngine(model(root=root), tokenizer=tokenizer)
    result, _ = await solve(engine=engine, limits={"total_tokens": budget})
    assert len(engine.prompts) == 2 and engine.prompts[1].count("<No Solution in Sub Search") == len(names)
    assert result.text.endswith("No solution found.\n") and result.finish_reason is Finish.EOS


async def test_children_share_the_budget_and_the_parent_keeps_its_reserve():
    spent = len(EXPLORED + SECTION)
    total = spent + 2 * 100 + len(NOTHING) + 40
    script = model(good="x" * 999, bad="x" * 999)
    result, _ = await solve(script, limits={"total_tokens": total}, reserve=len(NOTHING) + 40)
    finishes = {name: len(result.trace.text_of(name)) for name in ("1.0.0", "1.1.0")}
    assert {result.trace.branches[name].finish for name in finishes} == {"total_tokens"}
    assert result.finish_reason is Finish.EOS
    assert result.usage.total_tokens <= total


async def test_the_deadline_ends_children_and_parent_with_what_there_is():
    engine = ScriptedEngine(model(bad="x" * 3000, good="x" * 3000), seconds_per_token=0.0002)
    result, _ = await solve(engine=engine, limits={"seconds": 0.4})
    assert result.finish_reason is Finish.DEADLINE and result.answer is None


async def test_sampling_depends_on_the_place_in_the_tree_alone():
    seen = {}

    class Seeds(ScriptedEngine):
        def open(self, tokens=(), **options):
            seen.setdefault(self.tokenizer.decode(tokens)[3:25], []).append((options["seed"], options["path"]))
            return super().open(tokens, **options)

    for width in (1, 8):
        await run(APR(prompt=ROOT), None, engine=Seeds(model()), seed=11, width=width)
    assert [set(places) for places in seen.values()] == [{(11, (0,))}, {(11, (1, 0, 0))}, {(11, (1, 1, 0))}]


# -- the rest -----------------------------------------------------------------------------------------------------


async def test_own_stop_strings_end_a_thread_and_are_cut_off():
    result, _ = await solve(model(root="\nabc STOP def"), stop=("STOP",))
    assert (result.text, result.finish_reason) == ("\nabc ", Finish.STOP)


async def test_a_child_prompt_longer_than_the_context():
    # The parent's context is given as tokens and may be short, the child's message repeats a long list.
    numbers = ", ".join(["1"] * 40)
    prompt = "Moving to Node #0\nCurrent State: 27:[1], Operations: []"
    root = f"\nGenerated Node #0,1: 27:[{numbers}] Operation: 1+1=2\n{SECTION}"
    result, engine = await solve(model(root=root, bad=FAILED), prompt=prompt, context_limit=len(prompt + root) + 60)
    assert result.usage.counts["malformed_children"] == 1 and result.finish_reason


@given(st.text("ab <>\n", max_size=30), st.integers(0, 30), st.text("xy >", max_size=6))
def test_cut_gives_the_text_and_keeps_the_most_tokens(text, length, then):
    keep = text[:length]
    for tokenizer in (CharTokenizer(), WordTokenizer()):
        tokens = [0, *tokenizer.encode(text)]
        kept, new = cut(tokens, keep, then, tokenizer)
        assert tokenizer.decode([*tokens[1:kept], *new]) == keep + then
        longer = tokenizer.decode(tokens[1 : kept + 1])
        assert kept == len(tokens) or not keep.startswith(longer)


soup = st.lists(
    st.sampled_from([*SECTION.split("\n"), *EXPLORED.split("\n"), *PATH.split("\n"), *JOIN.split("\n"), ROOT])
    | st.text(max_size=5),
    max_size=8,
).map("\n".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(soup, min_size=1, max_size=4), st.integers(50, 3000), st.booleans())
async def test_any_model_text_gives_a_result(texts, total, verify):
    calls = iter(range(10_000))
    engine = ScriptedEngine(lambda _: texts[next(calls) % len(texts)], context_limit=1500)
    result, _ = await solve(engine=engine, depth=2, max_children=3, verify_join=verify, limits={"total_tokens": total})
    assert result.finish_reason in set(Finish)
    assert result.usage.total_tokens <= total
    assert result.usage.critical_tokens <= result.usage.total_tokens


def test_the_paper_dialect_is_the_default():
    assert APR(prompt="x").dialect == PaperDialect.name
    assert SamplingParams().max_tokens is None and context_text([], CharTokenizer()) == ""


async def test_a_reserved_word_that_becomes_the_spawn_end_spawns():
    # In the compact language the replacement of `join` is the whole spawn section.
    prompt = "apr 24 : 63 9 5 2 ;"

    def script(context):
        if context == prompt:
            return " 63 9 + 72 - 54 * 567 / 7 ; join forged"
        return " answer 1 + 1 = 2" if context.endswith("end") else " answer none"

    engine = ScriptedEngine(script, tokenizer=WordTokenizer())
    result, _ = await solve(engine=engine, prompt=prompt, dialect="compact")
    assert (result.details["rounds"], result.details["threads"]) == (1, 5)
    assert result.usage.counts["reserved_text"] == 1 and result.answer == "1 + 1 = 2"
    assert result.text.endswith("/ 7 ; join end answer 1 + 1 = 2")
