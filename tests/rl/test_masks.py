"""Masks and position ids: golden values, text against trace, one masked forward against branch-by-branch decoding."""

from __future__ import annotations

import asyncio

import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait import InvalidInput, Multiverse, Runtime
from plait.rl.masks import TreeMask, part_masks, text_mask, text_trace, trace_mask
from plait.runtime.engine import SamplingParams
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.methods.multiverse.dialects import DIALECTS
from plait.runtime.methods.multiverse.grammar import TAGS
from plait.runtime.methods.multiverse.replay import Run, count, layout, replay
from plait.runtime.trace.record import BranchRecord, GroupRecord, Piece, SpanRecord
from plait.runtime.trace.trace import Trace
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.methods.multiverse.tools import (
    Par,
    Play,
    PlayedEngine,
    TagTokenizer,
    examples,
    render,
    scripted,
    structures,
)
from plait.tests.runtime.tools import run

MODELS = {family: tiny(family, max_position_embeddings=4096) for family in ("llama", "qwen3")}
LOADED = {family: load_model(folder) for family, (_, folder) in MODELS.items()}
RULES = ["train", "engine"]
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def encode(text):
    return TagTokenizer().encode(text)


def masked_logits(hf_model, mask: TreeMask) -> torch.Tensor:
    """(L, V) logits of one forward over the whole sequence."""
    with torch.no_grad():
        logits = hf_model(mask.input_ids(), attention_mask=mask.dense(), position_ids=mask.position_ids()).logits
    return logits[0]


def scores(hf_model, mask: TreeMask) -> torch.Tensor:
    """(L,) log-probability of every token under the logits it was sampled from; 0 where there are none."""
    logprobs = masked_logits(hf_model, mask).log_softmax(-1)
    source = torch.from_numpy(mask.source).long()
    found = logprobs[source, torch.tensor(mask.token_ids)]
    return torch.where(source < 0, torch.zeros(()), found)


def allowed(mask: TreeMask) -> list[list[bool]]:
    return [[mask.allows(q, k) for k in range(len(mask))] for q in range(len(mask))]


def causal(length: int) -> list[list[bool]]:
    return torch.ones(length, length).tril().bool().tolist()


# -- golden values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "start", "conclusion"), [("train", 21, 30), ("engine", 22, 32)])
def test_positions_of_a_flat_block(rule, start, conclusion):
    """Paths of 5 and 9 tokens, g = 20 (spec, section 9, 1)."""
    head = "<Parallel><Goal><Outline>1:</Outline><Outline>2:</Outline></Goal>"
    text = "x" * (21 - len(encode(head))) + head + "\n<Path>\n1:</Path>\n<Path>\n2:abcd</Path>\n<Conclusion>\nc"
    mask = text_mask(text, encode, rule)
    at: dict[str, list[int]] = {}
    for position, token in zip(mask.positions.tolist(), mask.token_ids, strict=True):
        at.setdefault(TagTokenizer().decode([token]), []).append(position)
    assert at["</Goal>"] == [20] and at["<Path>"] == [start] * 2
    assert at["</Path>"] == [start + 4, start + 8] and at["<Conclusion>"] == [conclusion]
    assert mask.positions.max() == conclusion + 2


@pytest.mark.parametrize("rule", RULES)
def test_positions_of_nested_blocks_follow_the_longest_path(rule):
    """Spec, section 9, 2."""

    def last(short):
        inner = Par({"2.1": [" x" * short], "2.2": [" y" * 9]})
        mask = text_mask(render([Par({"1": [" a" * short], "2": [" b\n", inner, "c"]}), "end"]), encode, rule)
        return int(mask.positions[-1])

    assert last(1) == last(5) and last(1) < last(40)


def test_paths_of_a_block_do_not_see_each_other_and_everything_else_is_causal():
    text = render(["a\n", Par({"1": [" x"], "2": [" y\n", Par({"2.1": [" p"], "2.2": [" q"]}), "z"]}), "end"])
    mask = text_mask(text, encode)
    block = text.index("<Path>"), text.index("2: y"), text.rindex("<Conclusion>")
    inner = text.index("<Path>\n2.1"), text.index("<Path>\n2.2"), text.index("<Conclusion>")
    spans = [(block[0], block[1] - 7), (block[1] - 7, block[2])], [(inner[0], inner[1]), (inner[1], inner[2])]
    offsets = [0]
    for token in mask.token_ids:
        offsets.append(offsets[-1] + len(TagTokenizer().decode([token])))

    def lane(token, pair):
        return next((i for i, (begin, end) in enumerate(pair) if begin <= offsets[token] < end), None)

    for q in range(len(mask)):
        for k in range(len(mask)):
            hidden = any(None not in (lane(q, p), lane(k, p)) and lane(q, p) != lane(k, p) for p in spans)
            assert mask.allows(q, k) == (k <= q and not hidden)


@settings(max_examples=25, deadline=None)
@given(structures(3), st.sampled_from(RULES))
def test_all_forms_of_a_mask_agree(items, rule):
    mask = text_mask(render(items)[:150], encode, rule, prompt=encode("Q"))
    expected = torch.tensor(allowed(mask))
    assert torch.equal(mask.dense()[0, 0], expected)
    ids = torch.arange(len(mask))
    assert torch.equal(mask.predicate()(ids, ids, ids[:, None], ids[None, :]), expected)
    assert mask.reach.shape[0] <= mask.reach.shape[1]


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_takes_the_block_mask():
    from torch.nn.attention.flex_attention import flex_attention

    text = render([Par({"1": [" abc" * 30], "2": [" y" * 80, Par({"2.1": [" p"], "2.2": [" q"]}), "z"]}), "end" * 20])
    mask = text_mask(text, encode)
    q, k, v = torch.randn(3, 1, 2, len(mask), 16)
    block = mask.block_mask("cpu", block_size=64)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask.dense())
    torch.testing.assert_close(flex_attention(q, k, v, block_mask=block), expected, atol=1e-5, rtol=1e-5)
    assert block.sparsity() > text_mask("x" * len(mask), encode).block_mask("cpu", block_size=64).sparsity()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*TAGS, "\n", "1:", " x", Par({"1": [], "2": [" y"]}).goal]), max_size=25).map("".join))
def test_any_text_has_a_mask(text):
    for rule in RULES:
        mask = text_mask(text, encode, rule, prompt=[5])
        assert mask.token_ids == [5, *encode(text)]
        assert all(mask.allows(i, i) for i in range(len(mask)))
        assert (mask.positions >= 0).all() and (mask.source < range(len(mask))).all()


# -- text against trace ----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(structures(3), st.sampled_from(RULES))
async def test_the_mask_of_a_text_is_that_of_the_run_that_wrote_it(items, rule):
    result, _ = await run(Multiverse(prompt="Q", positions=rule), None, engine=scripted(items, context_limit=8192))
    assert not result.usage.counts
    last = result.trace.segments_of("0")[-1]
    served = trace_mask(result.trace, last.id)
    trained = text_mask(render(items), encode, rule, prompt=encode("Q"), end=TagTokenizer.eos_ids)
    assert served.token_ids == trained.token_ids
    assert served.positions.tolist() == trained.positions.tolist()
    assert torch.equal(served.dense(), trained.dense())
    assert served.source.tolist() == trained.source.tolist()


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("parallel_r1", "x<Parallel><Path>a</Path><Path>b</Path></Parallel>\n<Summary>both</Summary>\nend"),
        (
            "threadweaver",
            "<Parallel>\n<Outlines>\n<Outline>1: a</Outline>\n<Outline>2: b</Outline>\n</Outlines>\n"
            "<Thread>\n1: x</Thread>\n<Thread>\n2: y</Thread>\n</Parallel>\nend",
        ),
    ],
)
def test_where_blocks_are_read_again_the_mask_is_causal(dialect, text):
    assert any(not isinstance(item, Run) for item in layout(text, encode, DIALECTS[dialect]))
    mask = text_mask(text, encode, "engine", prompt=[7], dialect=DIALECTS[dialect])
    assert mask.token_ids == [7, *encode(text)]
    assert torch.equal(mask.dense()[0, 0], torch.ones(len(mask), len(mask)).tril().bool())
    assert mask.positions.tolist() == list(range(len(mask)))


async def test_the_mask_of_a_text_level_run_is_causal():
    items = [Par({"1": [" a"], "2": [" b"]}), "end"]
    result, _ = await run(Multiverse(prompt="Q"), None, engine=scripted(items, merges=False))
    mask = trace_mask(result.trace, result.trace.segments[-1].id)
    assert torch.equal(mask.dense()[0, 0], torch.ones(len(mask), len(mask)).tril().bool())
    assert mask.positions.tolist() == list(range(len(mask)))


def test_views_that_no_mask_expresses_are_refused():
    def trace(**span):
        made = Trace()
        for view in ((), (SpanRecord(segment=0, **span),)):
            segment = made.new_segment("0", 2 * len(made.segments), view)
            segment.pieces.append(Piece(kind="sampled", token_ids=[1, 2], text=""))
        return made

    weighed = GroupRecord(0, 0.5, 0.9)
    with pytest.raises(InvalidInput, match=r"weighed by temperature 0\.5 and scale 0\.9"):
        trace_mask(trace(length=2, group=weighed))
    assert allowed(trace_mask(trace(length=2, group=GroupRecord(0, 1.0, 1.0)))) == causal(4)
    # Seen one place further on by all of its readers, a segment simply stands there.
    assert trace_mask(trace(length=2, shift=1)).positions.tolist() == [0, 1, 1, 2]
    assert trace_mask(trace(length=2, shift=-3)).positions.tolist() == [0, 1, 5, 6]
    moving = trace(length=2, shift=1)
    moving.new_segment("0", 4, (SpanRecord(segment=0, length=2), SpanRecord(segment=1, length=2))).pieces.append(
        Piece(kind="sampled", token_ids=[3], text="")
    )
    with pytest.raises(InvalidInput, match="at different places"):
        trace_mask(moving)
    mask = trace_mask(moving, is_moving=True)
    assert mask.is_moving and mask.positions.tolist() == [0, 1, 2, 3, 4] and allowed(mask) == causal(5)
    twice = trace(length=2)
    twice.segments[1].view = (SpanRecord(segment=0, length=2), SpanRecord(segment=0, length=2, shift=2))
    with pytest.raises(InvalidInput, match="at two places"):
        trace_mask(twice)
    live = trace(length=None)
    live.segments[1].seen = {0: [1, 2]}
    mask = trace_mask(live)
    assert allowed(mask)[2:] == [[True, False, True, False], [True, True, True, True]]
    cut = trace(length=2)
    cut.new_segment("0", 3, (SpanRecord(segment=0, length=1), SpanRecord(segment=1, length=2)))
    with pytest.raises(InvalidInput, match="not in this sequence"):
        trace_mask(cut, 2)


def two(length, *, model=None, tokens=(7, 8), shift=0, **fields):
    """A segment of a branch of `model`, and one of the job's own that sees so many tokens of it."""
    trace = Trace()
    trace.branches["0"] = BranchRecord(id="0", parent=None, origin="open", label="", level=0, model=model)
    first = trace.new_segment("0", 0, ())
    second = trace.new_segment("1", 2, (SpanRecord(segment=0, length=length, shift=shift),))
    for segment, ids in ((first, tokens), (second, (1, 2))):
        segment.pieces.append(Piece(kind="sampled", token_ids=list(ids), text=""))
    for name, value in fields.items():
        setattr(second, name, value)
    return trace


@pytest.mark.parametrize(
    "trace",
    [
        two(2, model="other"),
        two(2, model="other", views=[(0, ())]),
        two(None, model="other", seen={0: [1, 2]}),
    ],
    ids=["all of it", "before it wrote", "live"],
)
def test_text_of_another_model_is_in_no_mask(trace):
    for masked in (trace_mask, part_masks):
        with pytest.raises(InvalidInput, match="segment 1 saw text of segment 0 that is not in this sequence"):
            masked(trace)


@pytest.mark.parametrize("trace", [two(None, tokens=(), seen={0: [0, 0]}), two(None, model="other")])
def test_what_was_watched_and_not_seen_is_in_no_mask(trace):
    assert trace_mask(trace).token_ids == [1, 2] == part_masks(trace)[0].token_ids


@pytest.mark.parametrize("shift", [2**40, -(2**63), 2**63])
def test_places_that_cannot_be(shift):
    for masked in (trace_mask, part_masks):
        with pytest.raises(InvalidInput, match="more than 32 bits"):
            masked(two(2, shift=shift))


# -- one masked forward against decoding -----------------------------------------------------------------------


async def served(family, items, rule, **options):
    """A run on the native engine, forced to write the items."""
    engine = PlayedEngine(LOADED[family], Play(items), **options)
    async with Runtime(engine=engine) as runtime:
        result = await (await runtime.submit(Multiverse(prompt="Q", positions=rule)))
        assert runtime.engine.block_usage().used == 0
    engine.store.check_integrity()
    assert result.text == render(items) and not result.usage.counts
    return result


def check(hf_model, trace):
    """Every log-probability that decoding recorded is that of the masked forward."""
    mask = trace_mask(trace)
    found = scores(hf_model, mask)[torch.from_numpy(mask.is_sampled)]
    recorded = [p for s in trace.segments for piece in s.pieces if piece.kind == "sampled" for p in piece.logprobs]
    torch.testing.assert_close(found, torch.tensor(recorded), **TOLERANCE)
    return len(recorded)


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(items=structures(3), rule=st.sampled_from(RULES))
def test_one_masked_forward_gives_what_decoding_gave(family, items, rule):
    result = asyncio.run(served(family, items, rule))
    assert check(MODELS[family][0], result.trace) >= 20


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", MODELS)
async def test_logits_of_a_replay_are_those_of_the_masked_forward(family, rule):
    """Not only the scores of the tokens taken: whole rows of logits, at the end of every run of tokens."""
    hf_model = MODELS[family][0]
    text = render(["a\n", Par({"1": [" xx"], "2": [" y\n", Par({"2.1": [" p"], "2.2": [" qqq"]}), "z"]}), "end"])
    engine = NativeEngine(LOADED[family], TagTokenizer(), NativeOptions(kv_tokens=8192, keep_logits=True))
    await engine.start()
    branch = engine.open(encode("Q"))
    rows: dict[tuple[int, ...], torch.Tensor] = {}

    async def write(branch, piece: Run):
        if piece.is_given:
            branch.extend(piece.tokens)
            return
        for token in piece.tokens:
            await branch.generate(SamplingParams(max_tokens=1, forced=(token,), ignore_eos=True))
            rows[tuple(branch.tokens)] = branch.logits

    await replay(branch, layout(text, encode), write, rule)
    assert branch.tokens == encode("Q" + text)
    branch.close()
    await engine.close()
    mask = text_mask(text, encode, rule, prompt=encode("Q"))
    expected = masked_logits(hf_model, mask)
    checked = 0
    for q in range(1, len(mask)):
        view = tuple(mask.token_ids[k] for k in range(len(mask)) if mask.allows(q, k))
        if view in rows:
            torch.testing.assert_close(rows[view], expected[mask.source[q]], **TOLERANCE)
            checked += 1
    assert checked >= len(rows) > 20


# -- real texts ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    """(texts, shortest first, and a tokenizer trained on them)."""
    texts = sorted(examples(), key=len)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=list(TAGS),
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return texts, lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def test_real_texts_have_masks(real):
    texts, tokenize = real
    for text in texts:
        mask = text_mask(text, tokenize)
        items = layout(text, tokenize)
        total, critical = count(items)
        assert len(mask) == total and critical < total
        # The newline behind </Goal> and the one behind the longest </Path> are overlapped by what follows them.
        assert mask.positions.max() < critical
        assert mask.reach.size < 8 * len(mask)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("rule", RULES)
async def test_real_texts_decode_as_one_masked_forward(real, family, rule):
    texts, tokenize = real
    hf_model, folder = tiny(family, vocab_size=900, max_position_embeddings=8192)
    engine = NativeEngine(load_model(folder), IdTokenizer(900), NativeOptions(kv_tokens=16384))
    await engine.start()
    for text in texts[:1]:
        recorded: dict[tuple[int, ...], list[float]] = {}

        async def write(branch, piece: Run, recorded=recorded):
            if piece.is_given:
                branch.extend(piece.tokens)
                return
            params = SamplingParams(
                max_tokens=len(piece.tokens), forced=tuple(piece.tokens), ignore_eos=True, logprobs=0
            )
            done = await branch.generate(params)
            assert done.token_ids == piece.tokens
            recorded[tuple(piece.tokens)] = done.logprobs

        branch = engine.open([1, 2, 3])
        await replay(branch, layout(text, tokenize), write, rule)
        mask = text_mask(text, tokenize, rule, prompt=[1, 2, 3])
        assert branch.tokens == mask.token_ids and branch.position == mask.positions[-1] + 1
        branch.close()
        found = scores(hf_model, mask).tolist()
        at = 0
        while at < len(mask):
            piece = next((p for p in recorded if tuple(mask.token_ids[at : at + len(p)]) == p), None)
            if piece is None:
                at += 1
                continue
            torch.testing.assert_close(found[at : at + len(piece)], recorded.pop(piece), **TOLERANCE)
            at += len(piece)
        assert not recorded
    await engine.close()
    engine.store.check_integrity()


def test_a_mask_tells_what_was_sampled_how_likely_and_from_which_token():
    trace = Trace()
    first = trace.new_segment("0", 0, ())
    first.pieces.append(Piece(kind="prompt", token_ids=[1, 2, 3], text=""))
    first.pieces.append(Piece(kind="sampled", token_ids=[4, 5], text="", logprobs=[-0.5, -1.5]))
    second = trace.new_segment("0", 4, (SpanRecord(segment=first.id, length=4),))
    second.pieces.append(Piece(kind="sampled", token_ids=[6], text=""))
    second.pieces.append(Piece(kind="injected", token_ids=[7, 8], text=""))
    other = trace.new_segment("1", 0, ())
    other.pieces.append(Piece(kind="prompt", token_ids=[9], text=""))
    mask = trace_mask(trace, second.id)
    assert mask.token_ids == [1, 2, 3, 4, 6, 7, 8] and mask.source.tolist() == [-1, 0, 1, 2, 3, 4, 5]
    assert mask.is_sampled.tolist() == [False, False, False, True, True, False, False]
    assert mask.logprobs.round(1).tolist()[3] == -0.5 and sum(mask.logprobs != mask.logprobs) == 6  # NaN
    # The last token of the first segment is seen by none of the second; nothing was sampled in the other branch.
    [part] = part_masks(trace)
    assert part.token_ids == [1, 2, 3, 4, 5, 6, 7, 8] and part.source.tolist() == [-1, 0, 1, 2, 3, 3, 5, 6]
    assert part.logprobs.round(1).tolist()[3:5] == [-0.5, -1.5]


async def test_the_branches_of_a_text_are_called_as_those_of_its_run():
    inner = Par({"1.1": [" p"], "1.2": [" q"]})
    items = [
        "a\n",
        Par({"1": [" x\n", inner, "y\n", inner, "z"], "2": [" w"]}),
        "b\n",
        Par({"1": [" u"], "2": [" v"]}),
        "c",
    ]
    result, _ = await run(Multiverse(prompt="Q"), None, engine=scripted(items, context_limit=8192))
    names = [sorted({s.branch for s in trace.segments}) for trace in (result.trace, text_trace(render(items), encode))]
    assert names[0] == names[1] and len(names[0]) == 9


def test_a_text_trace_gives_training_rows():
    rows = text_trace(render([Par({"1": [" a"], "2": [" b"]}), "end"]), encode, prompt=[7]).for_training()
    assert [row.is_causal for row in rows] == [True, False, False, False]
    assert sum(sum(row.mask) for row in rows) == len(encode(render([Par({"1": [" a"], "2": [" b"]}), "end"])))
