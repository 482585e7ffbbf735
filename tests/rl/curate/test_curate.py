"""The curator through a scripted engine that plays a model on real texts, its checks, and how it goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import InvalidInput, Runtime, ScriptedEngine
from plait.rl.config import DataConfig
from plait.rl.curate.curator import CurateConfig, curate, read
from plait.rl.curate.distance import relative_distance
from plait.rl.curate.excerpts import excerpts
from plait.rl.curate.journal import Journal
from plait.rl.curate.plain import HINT, plain
from plait.rl.curate.stages import listed, outermost, outline_problem, unstructured, whole
from plait.rl.texts import read_samples
from plait.runtime.cli.main import main
from plait.runtime.disk import holding
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.runtime.methods.multiverse.check import problems, well_formed
from plait.tests.rl.tools import files, folder
from plait.tests.runtime.methods.multiverse.tools import Par, examples, render

BODY = f"First.\n{HINT}\n" + render([Par({"1": [" one"], "2": [" two"]}, "both")]) + "Last."
CHAIN = "First.\none\ntwo\nLast."
OUTLINE = "S1: begin\n<parallel>\nS2: one\nS3: two\n</parallel>\nS4: end"
REFILLED = "S1: First.\n<parallel>\nS2: one\nS3: two\n</parallel>\nS4: Last."


class Played:
    """A model that answers as it should, but for what it is told to say instead."""

    def __init__(self, bodies: dict[str, str] | None = None, **wrong: list[str]) -> None:
        self.bodies = bodies or {CHAIN: BODY}
        self.wrong = wrong
        self.calls: list[str] = []

    def __call__(self, context: str) -> str:
        asked = context.rpartition("<user>")[2].removesuffix("\n<assistant>")
        kind = next(
            kind
            for kind, start in {
                "steps": "Below is a problem and a worked", "split": "Split", "group": "Which", "subgroup": "Now the",
                "outline": "Write the whole", "refill": "Below are a problem", "form": "Below is a chain",
                "rewrite": "Below is one",
            }.items()
            if asked.startswith(start)
        )  # fmt: skip
        self.calls.append(kind)
        if self.wrong.get(kind):
            return self.wrong[kind].pop(0)
        if kind == "refill":
            (chain,) = re.findall(r"Chain of thought:\n(.*)\n\nOutline:", asked, re.DOTALL)
            return REFILLED if chain == CHAIN else f"S1: {chain}"
        if kind == "form":
            chain = unstructured(asked[asked.index("S1:") :])
            return self.bodies.get(chain.strip(), BODY)
        if kind == "rewrite":
            return "Here it is:\n" + asked[asked.index("<Parallel>") :].replace(" one", " the first")
        return "Sure.\n" + OUTLINE


def write(path: Path, count: int = 1, **fields) -> Path:
    rows = [{"id": f"s{i}", "problem": f"p{i}?", "solution": CHAIN, "answer": "7", **fields} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def run(tmp_path: Path, model, *, count: int = 1, source=None, room: int = 200_000, **fields):
    engine = ScriptedEngine(model, context_limit=room)
    async with Runtime(engine=engine) as runtime:
        given = source or write(tmp_path / "in.jsonl", count)
        return await curate(given, tmp_path / "out", runtime, CurateConfig(**{"max_tokens": 100_000, **fields}))


def texts(tmp_path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (tmp_path / "out" / "texts.jsonl").read_text().splitlines()]


async def test_a_chain_becomes_a_text(tmp_path):
    model = Played()
    counts = await run(tmp_path, model, count=3)
    assert counts == {"samples": 3, "outline": 3, "content": 3, "grammar": 3, "rewritten": 3}
    assert sorted(model.calls) == sorted(
        ["steps", "split", "group", "subgroup", "outline", "refill", "form", "rewrite"] * 3
    )
    row = texts(tmp_path)[0]
    assert row["prompt"] == "p0?" and not problems(row["text"])
    assert "1: the first\n" in row["text"] and row["text"].endswith("</Think>\n\nAnswer: 7")
    assert row["sequential"] == "<Think>\nFirst.\nthe first\ntwo\nLast.\n</Think>\n\nAnswer: 7"
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == counts


@pytest.mark.parametrize(
    ("wrong", "counts"),
    [
        ({"outline": ["no list"] * 2}, (1, 1, 1)),
        ({"outline": ["no list"] * 3}, (0, 0, 0)),
        ({"outline": ["S1: a\n<parallel>\nS2: b"] * 3}, (0, 0, 0)),
        ({"refill": ["S1: something else entirely"] * 2}, (1, 1, 1)),
        ({"refill": [""] * 3}, (1, 0, 0)),
        ({"form": ["<Parallel> oops"] * 2}, (1, 1, 1)),
        ({"form": ["<Path>\n1: x\n</Path>", "no blocks at all", "</Think>" * 9]}, (1, 1, 0)),
    ],
)
async def test_what_does_not_pass_a_check_is_asked_for_again(wrong, counts, tmp_path):
    found = await run(tmp_path, Played(**wrong))
    assert (found["outline"], found["content"], found["grammar"]) == counts
    assert len(texts(tmp_path)) == counts[2]


async def test_a_rewritten_block_that_is_not_sound_is_not_taken(tmp_path):
    counts = await run(tmp_path, Played(rewrite=["<Parallel>\n<Goal>\nbroken\n</Parallel>"]))
    assert (counts["grammar"], counts["rewritten"]) == (1, 0)
    assert "1: one\n" in texts(tmp_path)[0]["text"]


async def test_a_run_goes_on_where_it_stopped(tmp_path):
    class Killed(Exception):
        pass

    def killed(context: str) -> str:
        if len(model.calls) == 11:
            raise Killed
        return model(context)

    model = Played()
    with pytest.raises(Killed):
        await run(tmp_path, killed, count=3, concurrency=1)
    with (tmp_path / "out" / "stage4.jsonl").open("ab") as file:
        file.write(b'{"digest": "s1", "text": "cut o')
    counts = await run(tmp_path, model, count=3, concurrency=1)
    assert counts["grammar"] == 3
    # Only the outline that was being asked for when it stopped was asked for again.
    assert len(model.calls) == 3 * 8 + 3
    assert len((tmp_path / "out" / "stage1.jsonl").read_text().splitlines()) == 3


ROWS = [
    {"problem": "What is A?", "solution": CHAIN, "answer": "7"},
    {"problem": "What is B?", "solution": CHAIN, "answer": "8"},
]


@pytest.mark.parametrize(
    ("rows", "again"),
    [
        (ROWS, 0),
        (ROWS[:1], 0),
        ([*ROWS, {**ROWS[0], "problem": "What is C?"}], 1),
        ([{**ROWS[0], "problem": "What is C?"}, *ROWS], 3),
        ([{**ROWS[0], "answer": "9"}, ROWS[1]], 1),
        ([{**ROWS[0], "solution": "Another.\nchain"}, ROWS[1]], 1),
    ],
)
async def test_a_problem_has_its_own_text_only(rows, again, tmp_path):
    """In a folder that holds texts of the file as it was."""

    def source(rows: list[dict[str, str]]) -> Path:
        path = tmp_path / "in.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    await run(tmp_path, Played(), source=source(ROWS), rewrites=False)
    model = Played()
    counts = await run(tmp_path, model, source=source(rows), rewrites=False)
    assert counts == {
        "samples": len(rows),
        **dict.fromkeys(("outline", "content", "grammar"), len(rows)),
        "rewritten": 0,
    }
    assert len(model.calls) == 7 * again
    for number, (line, row) in enumerate(zip(texts(tmp_path), rows, strict=True)):
        assert (line["id"], line["prompt"]) == (str(number), row["problem"])
        assert line["text"].endswith(f"Answer: {row['answer']}")


async def test_two_runs_do_not_work_in_one_folder(tmp_path):
    model = Played()
    with holding(tmp_path / "out"), pytest.raises(InvalidInput, match="another run is working in .*out"):
        await run(tmp_path, model)
    assert not model.calls and not list((tmp_path / "out").iterdir())
    await run(tmp_path, model)


async def test_null_is_as_good_as_nothing(tmp_path):
    source = write(tmp_path / "in.jsonl", id=None, answer=None)
    await run(tmp_path, Played(), source=source)
    (line,) = texts(tmp_path)
    assert line["id"] == "0" and line["text"].endswith("Answer: Last.")


async def test_a_run_that_goes_on_has_the_same_settings(tmp_path):
    wrong = {"refill": ["S1: something else entirely"]}
    await run(tmp_path, Played(**wrong), max_distance=1.0)
    for fields in ({"max_distance": 0.0}, {"seed": 1}, {"attempts": 1}):
        with pytest.raises(InvalidInput, match=f"made with other .*{next(iter(fields))}"):
            await run(tmp_path, Played(), **{"max_distance": 1.0, **fields})
    assert (await run(tmp_path, Played(), max_distance=1.0, concurrency=2))["grammar"] == 1
    # Nothing was made yet.
    (tmp_path / "out" / "stage1.jsonl").write_text("")
    for name in ("stage4.jsonl", "stage5.jsonl"):
        (tmp_path / "out" / name).unlink()
    assert (await run(tmp_path, Played(), max_distance=0.0))["grammar"] == 1


async def test_chains_that_are_too_long_for_the_model_are_left_out(tmp_path):
    source = write(tmp_path / "in.jsonl", solution="x" * 9000)
    counts = await run(tmp_path, Played(), source=source, room=8000, max_tokens=1000)
    assert counts["outline"] == 0
    assert "token" in json.loads((tmp_path / "out" / "stage1.jsonl").read_text())["problem"]


async def test_real_texts_come_through(tmp_path):
    """What real texts are without blocks, curated by a model that knows the blocks."""
    found = sorted(examples(), key=len)[:3]
    bodies = {}
    lines = []
    for number, one in enumerate(found):
        chain = plain(one).partition("<Think>\n")[2].rpartition("</Think>")[0].strip()
        bodies[chain] = one.partition("<Think>\n")[2].rpartition("</Think>")[0].strip()
        lines.append(json.dumps({"id": number, "problem": "?", "solution": chain, "answer": "so"}) + "\n")
    (tmp_path / "in.jsonl").write_text("".join(lines))
    counts = await run(tmp_path, Played(bodies), source=tmp_path / "in.jsonl", rewrites=False)
    assert counts["grammar"] == 3
    for row, one in zip(texts(tmp_path), found, strict=True):
        assert well_formed(row["text"]) == well_formed(one) and well_formed(one)[1] > 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "no `problem`"), ('{"problem": "a", "solution": " "}', "no `solution`"), ("3", "object"),
        ("", "there are no samples in it"),
        *((json.dumps({"problem": "a", "solution": "b", name: value}), f":1: `{name}` has to be a text or a number")
          for name in ("id", "answer") for value in (True, [1], {"a": 1})),
        ('{"problem": "a", "solution": "b", "id": " "}', ":1: `id` is empty"),
    ],
)  # fmt: skip
async def test_wrong_input_is_named(line, message, tmp_path):
    (tmp_path / "in.jsonl").write_text(line)
    with pytest.raises(InvalidInput, match=message):
        await run(tmp_path, Played(), source=tmp_path / "in.jsonl")
    with pytest.raises(InvalidInput, match="'s0' stands there twice"):
        source = write(tmp_path / "in.jsonl")
        source.write_text(source.read_text() * 2)
        await run(tmp_path, Played(), source=source)


async def test_what_was_read_is_not_read_again(tmp_path):
    source = write(tmp_path / "in.jsonl", 2)
    samples = read(source)
    source.unlink()  # as what comes through a pipe
    assert (await run(tmp_path, Played(), source=samples))["samples"] == 2


@pytest.mark.parametrize("answer", [None, "", " \n", 0, "7"])
def test_an_answer_that_is_none_is_the_last_line(answer, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"problem": "p", "solution": "a\nb\n", "answer": answer}))
    assert read(source)[0]["answer"] == {0: "0", "7": "7"}.get(answer, "b")


def test_the_command(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl")
    assert main(["data", "curate", str(source), "--out", str(tmp_path / "out")]) == 1
    assert "one file and --model" in capsys.readouterr().err
    assert main(["data", "curate", str(source), "--out", str(tmp_path), "--model", "x", "--set", "attempt=1"]) == 1
    assert "attempt: Extra inputs" in capsys.readouterr().err
    source.write_text("{}")
    assert main(["data", "curate", str(source), "--out", str(tmp_path / "out"), "--model", "/no/such/model"]) == 1
    assert "no `problem`" in capsys.readouterr().err


@given(drawn=st.lists(st.none() | st.sampled_from([*range(6), "a"]), min_size=1, max_size=8))
def test_samples_without_an_id_get_a_free_one(drawn, tmp_path_factory):
    given_ids = [None if one in drawn[:place] else one for place, one in enumerate(drawn)]
    source = tmp_path_factory.mktemp("ids") / "in.jsonl"
    rows = [{"id": one, "problem": "p", "solution": CHAIN} for one in given_ids]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = [sample["id"] for sample in read(source)]
    assert len({*ids}) == len(ids) == len(given_ids) and ids == [sample["id"] for sample in read(source)]
    for place, (own, id) in enumerate(zip(given_ids, ids, strict=True)):
        assert id == str(own) if own is not None else int(id) >= place
    if not any(own is not None for own in given_ids):
        assert ids == [str(place) for place in range(len(ids))]


@pytest.mark.parametrize(
    ("name", "text"), [("config.json", '{"model_type": "llama"}'), ("config.json", "{"), ("texts.jsonl", "mine")]
)
async def test_what_no_curation_made_is_not_written_over(name, text, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(text)
    with pytest.raises(InvalidInput, match=f"{name}.*: give another --out"):
        await run(tmp_path, Played())
    assert files(tmp_path / "out") == {name: text}


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InvalidInput, match="cannot write .*out"):
        await run(tmp_path, Played())


async def test_passwords_stand_in_no_folder(tmp_path):
    async with Runtime(engine=ScriptedEngine([])) as runtime:
        for model in ("mqtt://me:secret@host/pool", "mqtt://me:secret#a@host/pool"):
            with pytest.raises(InvalidInput) as error:
                await curate(tmp_path / "samples.jsonl", tmp_path / "out", runtime, CurateConfig(), model=model)
            assert "secret" not in str(error.value) and not (tmp_path / "out").exists()


# -- the parts -------------------------------------------------------------------------------------------------


def slow_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, old = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(old[j] + 1, row[-1] + 1, old[j - 1] + (x != y)))
    return row[-1]


@settings(deadline=None)
@given(st.text("abc ", max_size=12), st.text("abc ", max_size=12))
def test_distances_are_levenshteins(a, b):
    a, b = " ".join(a.split()), " ".join(b.split())
    longest = max(len(a), len(b))
    assert relative_distance(a, b) == pytest.approx(slow_distance(a, b) / longest if longest else 0)


def test_outlines():
    assert listed("Of course!\n\nS1: a\n<parallel>\n  S1.1: b\n</parallel>\nThat is all.") == (
        "S1: a\n<parallel>\n  S1.1: b\n</parallel>"
    )
    assert outline_problem(OUTLINE) is None
    nested = "<parallel>\n" * 3 + "S1: a\n" + "</parallel>\n" * 3
    for bad in ("", "</parallel>\nS1: a", "S1: a\n<parallel>", nested):
        assert outline_problem(bad) is not None
    assert unstructured(REFILLED) == CHAIN


def test_what_was_said_of_a_final_answer_is_kept():
    chain = CHAIN + "\n**Final Answer**\n\\boxed{7}"
    assert "**Final Answer**\n\\boxed{7}\n</Think>" in whole(BODY, chain, "7")
    assert whole(BODY + "\n**Final Answer** 7", chain, "7").count("**Final Answer**") == 1
    without = BODY.replace(HINT + "\n", "")
    assert whole(without, CHAIN, "7") == whole(BODY, CHAIN, "7")


def test_plain_texts_and_outermost_blocks():
    inner = Par({"1.1": [" x"], "1.2": [" y"]})
    one = render(["<Think>\na\n", Par({"1": [" p\n", inner, "q"], "2": [" r"]}), "end\n</Think>\n\nAnswer: 1"])
    assert plain(one) == "<Think>\na\np\nx\ny\nq\nr\nend\n</Think>\n\nAnswer: 1"
    ((start, end),) = outermost(one)
    assert one[start:].startswith("<Parallel>") and one[:end].endswith("</Parallel>") and well_formed(one) == (2, 2)
    assert well_formed(one.replace("</Goal>", "", 1))[0] < 2 and well_formed("no block") == (0, 0)


def test_excerpts_are_well_formed_and_trained(tmp_path):
    inner = Par({"1.1": [" x"], "1.2": [" y"]}, "inner")
    one = render(
        [
            f"<Think>\nLong ago.\nThe question.\n{HINT}\n",
            Par({"1": [" p\n", inner, "q"], "2": [" r"]}, "outer"),
            "</Think>",
        ]
    )
    found = excerpts(one, max_prompt=15)
    assert [(e.prompt, well_formed(e.text)) for e in found] == [("The question.", (2, 2)), ("p", (1, 1))]
    assert found[1].text.startswith(f"<Think>\n{HINT}\n<Parallel>\n<Goal>\n<Outline>\n1: plan 1.1\n")
    assert found[1].text.endswith("</Think>\n\nAnswer: inner")
    assert found[1].sequential == "<Think>\nx\ny\n</Think>\n\nAnswer: inner"
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"text": one}) + "\n")
    source = DataConfig(kind="excerpts", paths=(str(file),))
    assert len(read_samples(source, load_tokenizer(folder(tmp_path / "model")), 4096)) == 2


def test_excerpts_of_real_texts():
    found = [excerpt for one in examples() for excerpt in excerpts(one)]
    assert len(found) > 150 and not any(problems(excerpt.text) for excerpt in found)
    assert not any("<Path>" in excerpt.sequential or "<" not in excerpt.text for excerpt in found)


def test_a_journal_drops_what_a_crash_cut_off(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.add({"digest": "a", "n": 1})
    journal.add({"digest": "a", "n": 2})
    with (tmp_path / "j.jsonl").open("ab") as file:
        file.write(b'{"digest": "b"')
    again = Journal(tmp_path / "j.jsonl")
    assert again.rows == {"a": {"digest": "a", "n": 2}}
    again.add({"digest": "c"})
    assert len((tmp_path / "j.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("line", ["[1]", "{", '{"digest": "b"', "\0"])
def test_a_damaged_line_of_a_journal_is_named(line, tmp_path):
    Journal(tmp_path / "j.jsonl").add({"digest": "a"})
    with (tmp_path / "j.jsonl").open("a") as file:
        file.write(f'{line}\n{{"digest": "c"}}\n')
    whole = (tmp_path / "j.jsonl").read_bytes()
    with pytest.raises(InvalidInput, match=r"j\.jsonl:2: "):
        Journal(tmp_path / "j.jsonl")
    assert (tmp_path / "j.jsonl").read_bytes() == whole
