import random
from dataclasses import fields

import pytest
import torch

import plait
from plait.evals.benchmarks.countdown.problems import Problem, draw, is_validation, validation
from plait.evals.benchmarks.countdown.solver import solve
from plait.evals.benchmarks.countdown.verify import verify
from plait.rl.countdown import traces
from plait.rl.countdown.batch import IGNORED, collate, encode
from plait.rl.countdown.draws import random_steps
from plait.rl.countdown.evaluate import solve_rate
from plait.rl.countdown.mix import Documents, Mix, batches
from plait.rl.countdown.tokenizer import BOS, IDS, PAD, VOCABULARY, build, save
from plait.rl.masks import text_mask, trace_mask
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.methods.apr import compact as lang
from plait.tests.evals.benchmarks.countdown.oracle import oracle

KINDS = tuple(f.name for f in fields(Mix))


def predicted(document):
    """The words that carry loss, as the model should write them."""
    return [label for label in document.labels if label is not None]


def test_a_leaf_that_hits():
    document = traces.parallel([1, 8, 3], 24)
    assert " ".join(document.words) == (
        "apr 24 : 8 3 1 ; 8 3 + 11 - 5 * 24 / x | 24 1 + 25 - 23 * 24 hit answer 8 * 3 = 24 , 24 / 1 = 24 <eos>"
    )
    assert document.labels[:7] == [None] * 7
    assert predicted(document) == document.words[7:]


def test_label_override_serves_both_calls_of_a_parent():
    document = traces.parallel([63, 9, 5, 2], 24)
    at, end = document.words.index(lang.JOIN), document.words.index(lang.END)
    assert document.labels[at] == lang.SPAWN
    assert document.labels[at + 1 : end + 1] == [None] * (end - at)
    assert document.labels[end + 1] == lang.ANSWER
    inputs, labels = encode(document)
    assert len(inputs) == len(labels) == len(document.words)
    assert inputs[0] == IDS[BOS]
    assert labels[at] == IDS[lang.SPAWN]
    assert inputs[at + 1] == IDS[lang.JOIN]


def test_drills_mask_the_numbers_that_nothing_announces():
    document = traces.drill([(9, 63, 5, 24)])
    assert " ".join(document.words) == "drill 63 9 + 72 - 54 * 567 / 7 | 24 5 + 29 - 19 * 120 / _ ; <eos>"
    masked = [word for word, label in zip(document.words, document.labels, strict=True) if label is None]
    assert masked == ["drill", "63", "9", "24", "5"]


def test_sequential_search_repeats_the_leaves():
    document = traces.sequential([63, 9, 5, 2], 24)
    text = " ".join(document.words)
    assert lang.JOIN not in document.words
    first = text.split(" try ")[1]
    rows, steps = traces.leaf([72, 5, 2], 24)
    assert first == f"63 + 9 = 72 ; 24 : 72 5 2 ; {rows} answer 63 + 9 = 72 , {' , '.join(steps)} <eos>"


def test_multiverse_paths_try_the_results_of_one_row():
    document = traces.multiverse([63, 9, 5, 2], 24)
    text = " ".join(document.words)
    assert text.startswith(
        "mv 24 : 63 9 5 2 ; <Think> <Parallel> <Goal> <Outline> 1: 63 9 + 72 - 54 * 567 / 7 </Outline> <Outline> 2: "
    )
    rows, steps = traces.leaf([72, 5, 2], 24)
    told = f"63 + 9 = 72 , {' , '.join(steps)}"
    assert f"<Path> 1: try 63 + 9 = 72 ; 24 : 72 5 2 ; {rows} answer 1: {told} </Path> <Path> 2:" in text
    assert text.endswith(f"<Conclusion> answer 1: {told} </Conclusion> </Parallel> </Think> answer {told} <eos>")
    given = [word for word, label in zip(document.words, document.labels, strict=True) if label is None]
    assert " ".join(given) == (
        f"mv 24 : 63 9 5 2 ; {' '.join(f'<Path> {i}:' for i in range(1, 7))} <Conclusion>"  # the runtime's words
    )
    for i in range(1, 7):
        single = " ".join(traces.one_path([63, 9, 5, 2], 24, i).words)
        assert text.startswith(single[: single.index(" <Path>")])
        assert single[single.index("<Path>") :] in text


def test_a_multiverse_search_concludes_as_the_sequential_one_finds():
    rng = random.Random(4)
    for _ in range(20):
        problem = draw(rng, 4)
        words = traces.multiverse(problem.nums, problem.target).words
        conclusion = words[words.index("<Conclusion>") :]
        found = traces.sequential(problem.nums, problem.target).words
        assert (
            ("answer" in conclusion) == ("answer" in found) == (traces.search(problem.nums, problem.target) is not None)
        )
        if "answer" in conclusion:
            assert conclusion[conclusion.index("</Think>") + 1 :] == found[found.index("answer") :]


def tree_mask(document):
    """Of the run that would write the document, BOS in front."""
    begin = document.words.index(";") + 1
    prompt = [IDS[word] for word in (BOS, *document.words[:begin])]
    text = " ".join(document.words[begin:-1])
    return text_mask(text, lambda part: [IDS[word] for word in part.split()], prompt=prompt, end=[IDS["<eos>"]])


def test_multiverse_documents_are_masked_as_they_run():
    found = [Documents(random.Random(seed))._searched(0.12) for seed in range(3)]
    documents = [traces.multiverse(*problem) for problem in found]
    batch = collate(documents, "mv4")
    for i, document in enumerate(documents):
        tree = tree_mask(document)
        n = len(tree) - 1
        assert batch.inputs[i, :n].tolist() == tree.token_ids[:n]
        assert torch.equal(batch.mask[i, 0, :n, :n], tree.dense()[0, 0, :n, :n])
        assert torch.equal(batch.positions[i, :n], tree.position_ids()[0, :n])


@pytest.mark.parametrize("last", [None, 10])
def test_what_is_retold_stands_and_sees_as_if_it_were_the_only_conclusion(last: int | None) -> None:
    nums, target = [63, 9, 5, 2], 24
    told = [traces.path(nums, target, i)[1:] for i in range(1, 7)]
    ends = [end for end, steps in told if steps]
    assert len(ends) > 1
    once, all_of_them = (traces.multiverse(nums, target, last=last, retold=retold) for retold in (False, True))
    begins = [i for i, word in enumerate(all_of_them.words) if word == "<Conclusion>"]
    assert len(begins) == len(ends) and all_of_them.words[: len(once.words)] == once.words
    positions, paths = traces.layout(all_of_them)
    mask = collate([all_of_them], "mv4").mask
    assert mask is not None
    for end, begin, stop in zip(ends, begins, [*begins[1:], len(positions)], strict=True):
        assert positions[begin:stop] == list(range(positions[begins[0]], positions[begins[0]] + stop - begin))
        words = all_of_them.words[begin:stop]
        assert " ".join(words).startswith(f"<Conclusion> {end} </Conclusion> </Parallel> </Think> answer ")
        assert words[-1] == "<eos>"
        labels = all_of_them.labels[begin:stop]
        assert labels[1:] == [None if begin != begins[0] and i == 2 else word for i, word in enumerate(words)][1:]
        seen = mask[0, 0, stop - 1, 1:]  # BOS is in front, the last word only a label
        assert seen[: begins[0]].all() and not seen[begins[0] : begin].any() and seen[begin : stop - 1].all()
    assert min(paths) == -len(ends)


def test_ends_are_mostly_of_searches_with_several_solutions():
    documents = Documents(random.Random(0))
    several = [sum(documents.make(kind).words.count("<Conclusion>") > 1 for _ in range(60)) for kind in ("mv4", "end4")]
    assert several[0] < 30 < 40 < several[1]


@pytest.mark.parametrize("last", [0, 25])
def test_ends_stand_where_they_stand_in_the_whole(last: int) -> None:
    rng = random.Random(9)
    for _ in range(10):
        problem = draw(rng, 4)
        whole, ends = (traces.multiverse(problem.nums, problem.target, last=n) for n in (None, last))
        assert len(ends.words) < len(whole.words) / 2
        places = list(zip(*traces.layout(ends), strict=True))
        at = dict(zip(zip(*traces.layout(whole), strict=True), whole.words, strict=True))
        for place, word in zip(places, ends.words, strict=True):
            assert at[place] == word
        # `<Path> i:`, what is left of the search, and how it ended.
        told = [traces.path(problem.nums, problem.target, i) for i in range(1, len(lang.pairs(problem.nums)) + 1)]
        kept = [2 + min(last, len(text.split())) + len(end.split()) + 1 for text, end, _ in told]
        assert [sum(path == i for _, path in places) for i in range(1, len(told) + 1)] == kept
        begin = ends.words.index("<Conclusion>") + 1
        assert predicted(ends) == ends.words[begin:] == whole.words[whole.words.index("<Conclusion>") + 1 :]


async def test_the_runtime_runs_multiverse_as_it_is_written(tmp_path):
    save(build(), tmp_path, 4096)
    engine = plait.ScriptedEngine(
        lambda text: oracle([text])[0].removeprefix(text.strip()).removesuffix(" <eos>"),
        tokenizer=HFTokenizer.load(tmp_path),
        capabilities=plait.Capabilities(kv_merge=True),
    )
    async with plait.Runtime(engine=engine) as runtime:
        for nums, target in (([63, 9, 5, 2], 24), ([2, 2, 2, 2], 99)):
            prompt = lang.prompt(nums, target, "mv")
            result = await (await runtime.submit(plait.Multiverse(prompt=prompt, answer="countdown")))
            written = " ".join(traces.multiverse(nums, target).words)
            assert f"{prompt}{result.text}" == written.removesuffix(" <eos>")
            assert bool(result.answer and verify(nums, target, result.answer)) == (target == 24)
            assert result.usage.branches == 7
            trace, tree = result.trace, tree_mask(traces.multiverse(nums, target))
            played = trace_mask(trace)
            assert played.position_ids().sort().values.tolist() == tree.position_ids().sort().values.tolist()


def test_steps_are_legal_and_half_of_them_reach_the_target():
    documents, reached = Documents(random.Random(7)), 0
    for _ in range(200):
        document = documents.make("step")
        start = lang.read_prompt(document.words)
        moves = " ".join(document.words[start.length : -1]).split(" ; ")
        steps = lang.read_steps(" , ".join(move.split(" : ")[0] for move in moves))
        made = lang.replay(start.nums, steps)
        assert made == steps[-1][-1]
        reached += made == start.target
        left = list(start.nums)
        for (a, _, b, c), move in zip(steps[:-1], moves, strict=False):
            left = sorted([*_without(left, a, b), c], reverse=True)
            assert move.split(" : ")[1] == " ".join(map(str, left))
    assert 80 < reached < 120


def _without(numbers, *used):
    left = list(numbers)
    for number in used:
        left.remove(number)
    return left


def test_random_steps_report_when_they_are_stuck():
    assert random_steps([999, 999], random.Random(0)) == [(999, "/", 999, 1)]
    assert random_steps([999, 998, 997], random.Random(0)) is not None
    assert random_steps([1, 1], random.Random(0)) is not None


@pytest.mark.parametrize(("size", "count"), [(3, 60), (4, 20), (5, 2)])
def test_a_faultless_policy_solves_what_the_language_can_say(size, count):
    rng = random.Random(size)
    problems = [draw(rng, size) for _ in range(count)]
    solved, tally = solve_rate(oracle, problems, "apr")
    if size < 5:
        assert solved == sum(solve(p.nums, p.target, cap=lang.CAP) is not None for p in problems)
        assert solve_rate(oracle, problems, "seq")[0] == solved
    assert solved == sum(traces.search(p.nums, p.target) is not None for p in problems)
    assert solved >= count // 2
    assert tally["threads"] > count or size == 3


def test_impossible_problems_end_in_none():
    problem = Problem((2, 2, 2, 2), 99)
    assert solve(problem.nums, problem.target) is None
    assert solve_rate(oracle, [problem], "apr")[0] == solve_rate(oracle, [problem], "seq")[0] == 0
    for write in (traces.parallel, traces.sequential):
        assert write(problem.nums, problem.target).words[-2:] == ["none", "<eos>"]


@pytest.mark.parametrize("kind", KINDS)
def test_documents_stay_in_vocabulary_and_out_of_the_validation_split(kind):
    documents = Documents(random.Random(5))
    for _ in range(40):
        document = documents.make(kind)
        assert len(document.words) == len(document.labels)
        assert set(document.words) <= set(IDS)
        assert {label for label in document.labels if label} <= set(IDS)
        start = lang.read_prompt(document.words)
        assert (start is None) == (kind == "drill")
        if start is not None:
            assert not is_validation(start.nums, start.target)
            assert start.length == document.labels.count(None) or kind in ("table4", "table5", "path4", "mv4", "end4")
            for claim in " ".join(document.words).split(" answer ")[1:]:
                assert verify(start.nums, start.target, claim.split(" <")[0].split(": ")[-1])


def test_excluded_problems_never_come():
    rng = random.Random(5)
    drawn = [lang.read_prompt(Documents(rng).make("leaf").words) for _ in range(20)]
    keys = {Problem(start.nums, start.target).key for start in drawn}
    documents = Documents(random.Random(5), frozenset(keys))
    for _ in range(60):
        start = lang.read_prompt(documents.make("leaf").words)
        assert Problem(start.nums, start.target).key not in keys


def test_parallel_threads_fit_into_512_tokens():
    documents = Documents(random.Random(2))
    for kind in ("leaf", "table4", "table5"):
        assert max(len(documents.make(kind).words) for _ in range(30)) < 256


def test_batches_are_seeded_and_little_padded():
    def first(seed):
        stream = batches(Documents(random.Random(seed)), Mix(seq4=2, mv4=2), 1024)
        return [next(stream) for _ in range(6)]

    a, b = first(1), first(1)
    assert all(x.kind == y.kind and bool((x.inputs == y.inputs).all()) for x, y in zip(a, b, strict=True))
    for batch in a:
        assert batch.inputs.shape == batch.labels.shape
        assert not bool(((batch.inputs == IDS[PAD]) & (batch.labels != IGNORED)).any())


def test_collate_pads_on_the_right():
    batch = collate([traces.parallel([8, 3, 1], 24), traces.parallel([63, 9, 5], 24)], "leaf")
    assert batch.inputs[0, -1] == IDS[PAD]
    assert batch.labels[0, -1] == IGNORED
    assert batch.inputs[1, -1] != IDS[PAD]


def test_tokenizer_round_trips_and_its_pieces_concatenate():
    tokenizer = build()
    assert tokenizer.get_vocab_size() == len(VOCABULARY) == len(set(VOCABULARY))
    documents = Documents(random.Random(3))
    for kind in KINDS:
        document = documents.make(kind)
        text = " ".join(document.words)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == [IDS[word] for word in document.words]
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        assert decoded.split() == document.words
        head, tail = (tokenizer.decode(part, skip_special_tokens=False) for part in (ids[:9], ids[9:]))
        assert head + tail == decoded


def test_validation_problems_are_never_trained():
    keys = {problem.key for problem in validation(3, count=50)}
    documents = Documents(random.Random(11))
    for _ in range(300):
        start = lang.read_prompt(documents.make("leaf").words)
        assert Problem(start.nums, start.target).key not in keys
