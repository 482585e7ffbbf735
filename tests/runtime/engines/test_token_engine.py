"""The engine contract as engines without KV keep it: stops, limits, view operations, cancellation."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import (
    BranchBusy,
    BranchClosed,
    Capabilities,
    EngineClosed,
    FinishReason,
    InvalidInput,
    PromptTooLong,
    Runtime,
    SamplingParams,
    UnsupportedByEngine,
)
from plait.runtime.engines.native.generation import NativeGeneration
from plait.runtime.engines.scripted import CharTokenizer, ScriptedEngine, WordTokenizer
from plait.runtime.engines.text_stream import TextStream
from plait.runtime.engines.token_decoding import decode, request_seed
from plait.tests.runtime.engines.native.tokenizer_kinds import KINDS, ours

VIEWS = Capabilities(live_views=True, parallel_contexts=True)


def chars(*texts, **options):
    return ScriptedEngine(list(texts), **options)


def words(*texts, **options):
    return ScriptedEngine(list(texts), tokenizer=WordTokenizer(), **options)


def opened(engine, text="prompt", **options):
    return engine.open(engine.tokenizer.encode_continuation((), text), **options)


def text_of(branch):
    return branch.engine.tokenizer.decode(branch.tokens)


async def test_generation_ends_with_the_models_own_end():
    branch = opened(chars("abc"))
    done = await branch.generate()
    assert (done.text, done.finish_reason, done.stop, len(done.token_ids)) == ("abc", FinishReason.EOS, 1, 4)
    assert text_of(branch) == "promptabc</s>"


async def test_stop_string_is_cut_off_or_kept():
    for include, text in ((False, "one "), (True, "one END")):
        branch = opened(chars("one END two"))
        done = await branch.generate(SamplingParams(stop=("END",), include_stop=include))
        assert (done.text, done.finish_reason, done.stop) == (text, FinishReason.STOP, "END")
        assert text_of(branch) == "prompt" + text


async def test_stop_string_inside_tokens_keeps_whole_tokens():
    done = await opened(words("one twoENDthree four")).generate(SamplingParams(stop=("END",), include_stop=True))
    assert (done.text, len(done.token_ids)) == ("one twoEND", 3)
    branch = opened(words("one twoENDthree four"))
    done = await branch.generate(SamplingParams(stop=("END",)))
    assert (done.text, text_of(branch), done.rolled_back) == ("one two", "promptone ", 1)


async def test_stop_string_spanning_tokens():
    done = await opened(words("a b c d")).generate(SamplingParams(stop=("b c",), include_stop=True))
    assert (done.text, len(done.token_ids)) == ("a b c", 5)


async def test_the_stop_that_begins_first_wins():
    for engine in (chars("xaby z"), words("xaby z")):
        done = await opened(engine).generate(SamplingParams(stop=("b", "ab")))
        assert (done.stop, done.text) == ("ab", "x")
    for stops in (("ab", "aba"), ("aba", "ab")):
        done = await opened(words("xaba z")).generate(SamplingParams(stop=stops, include_stop=True))
        assert (done.stop, done.text) == (stops[0], "x" + stops[0])


async def test_limits():
    assert (await opened(chars("abcdef")).generate(SamplingParams(max_tokens=2))).finish_reason is FinishReason.LENGTH
    short = await opened(chars("abcdef"), context_limit=9).generate(SamplingParams(max_tokens=5))
    assert (short.text, short.finish_reason) == ("abc", FinishReason.CONTEXT)
    endless = await opened(chars("ab", ends=False)).generate(SamplingParams(max_tokens=5))
    assert endless.text == "ababa"
    nothing = await opened(chars("ab")).generate(SamplingParams(max_tokens=0))
    assert (nothing.token_ids, nothing.finish_reason) == ([], FinishReason.LENGTH)


async def test_stop_tokens_stay_but_are_not_shown():
    engine = chars("abc")
    done = await opened(engine).generate(
        SamplingParams(stop_token_ids=tuple(engine.tokenizer.encode_continuation((), "b")))
    )
    assert (done.text, len(done.token_ids)) == ("a", 2)


async def test_iteration_holds_back_what_may_be_rolled_back():
    engine = chars("xEN yEND")
    generation = opened(engine).generate(SamplingParams(stop=("END",)))
    shown = ""
    async for token in generation:
        shown += engine.tokenizer.decode([token])
        assert "END".startswith(shown[-1]) is False or shown.endswith(("EN", "E")) and "y" not in shown
    assert shown == "xEN y" == (await generation).text


async def test_leaving_a_loop_keeps_what_was_sampled():
    branch = opened(chars("a" * 50))
    generation = branch.generate()
    count = 0
    async for _ in generation:
        count += 1
        if count == 3:
            break
    await generation.aclose()
    assert 3 <= branch.length - 6 < 50
    with pytest.raises(BranchClosed):
        await generation
    branch.extend([5])


async def test_cancelling_the_awaiting_task_stops_the_generation():
    branch = opened(chars("a" * 500))

    async def wait():
        await branch.generate()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    length = branch.length
    await asyncio.sleep(0.001)
    assert branch.length == length < 500


async def test_a_branch_is_busy_while_it_generates_and_dead_after_close():
    branch = opened(chars("abc", "abc"))
    generation = branch.generate()
    for operation in (lambda: branch.extend([3]), lambda: branch.fork(1), lambda: branch.rewind(0), branch.generate):
        with pytest.raises(BranchBusy):
            operation()
    await generation
    branch.close()
    branch.close()
    with pytest.raises(BranchClosed):
        branch.extend([3])
    assert not branch.engine.branches


async def test_fork_merge_rewind_positions():
    engine = chars("xx", "yyyy")
    root = opened(engine, "abc", path=(7,))
    left, right = root.fork(2)
    assert [left.path, right.path, root.fork(1)[0].path] == [(7, 0), (7, 1), (7, 2)]
    await left.generate(SamplingParams(max_tokens=2))
    await right.generate(SamplingParams(max_tokens=4))
    root.merge([left, right])
    assert (text_of(root), root.position) == ("abcxxyyyy", 7)
    root.extend(engine.tokenizer.encode_continuation((), "z"))
    assert (root.length, root.position) == (10, 8)
    root.rewind(5)
    assert (text_of(root), root.position) == ("abcxx", 3)
    with pytest.raises(InvalidInput):
        root.rewind(6)
    engine = chars(capabilities=VIEWS)
    parallel = opened(engine, "q")
    pair = parallel.fork(2)
    pair[0].extend([5, 5]), pair[1].extend([5] * 6)
    parallel.attach(pair)
    parallel.attach([])
    parallel.watch(pair[0])
    assert (parallel.length, parallel.position) == (1, 7)


async def test_a_request_after_a_rewind_has_another_seed():
    branch = opened(chars("abc", "abc"))
    seeds = [request_seed(branch)]
    for _ in range(2):
        await branch.generate()
        branch.rewind(6)
        seeds.append(request_seed(branch))
    assert branch.length == 6 and len(set(seeds)) == 3
    assert seeds[0] == request_seed(opened(chars()))


async def test_seek_moves_the_next_token_and_views_without_kv_are_refused():
    branch = opened(chars("ab"), "abc")
    branch.seek(9)
    branch.extend([5])
    assert (branch.length, branch.position) == (4, 10)
    for wrong in (-1, 5000):
        with pytest.raises(InvalidInput):
            branch.seek(wrong)
    (child,) = branch.fork(1)
    for operation in (
        branch.block,
        branch.seal,
        lambda: branch.arrange([]),
        lambda: branch.lockstep("g"),
        lambda: branch.watch(child),
        lambda: branch.attach([child]),
    ):
        with pytest.raises(UnsupportedByEngine, match="native"):
            operation()


def test_prompt_longer_than_the_context_is_refused():
    with pytest.raises(PromptTooLong):
        opened(chars(), "x" * 11, context_limit=10)


async def test_a_closed_engine_opens_nothing_and_closes_its_branches():
    engine = chars()
    branch = opened(engine)
    await engine.close()
    await engine.close()
    assert branch.is_closed
    with pytest.raises(EngineClosed):
        opened(engine)
    with pytest.raises(InvalidInput, match="another engine"):
        opened(chars()).merge([opened(chars())])


async def test_a_script_that_runs_out_says_so():
    with pytest.raises(InvalidInput, match="call 1"):
        await opened(chars()).generate()


@given(
    st.text(max_size=9),
    st.sampled_from(["\ud83d", "\ude00", "\ud83d\ude00"]),
    st.text(max_size=9),
    st.sampled_from([0, 1]),
)
async def test_a_script_that_writes_half_a_surrogate_pair_is_refused(before, half, after, kind):
    text = before + half + after
    script = [lambda _: text, [text]][kind]
    for tokenizer in (CharTokenizer(), WordTokenizer()):
        branch = opened(ScriptedEngine(script, tokenizer=tokenizer))
        with pytest.raises(InvalidInput, match=f"text of call 1: half a surrogate pair at character {len(before)}"):
            await branch.generate()
        assert text_of(branch) == "prompt"


class Burst(ScriptedEngine):
    """Gives its tokens without a pause between them, the last ones in the pass in which it ends."""

    async def complete(self, generation):
        async def source():
            await asyncio.sleep(0)
            for token in range(100, 110):
                yield token

        return await decode(generation, source())


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("engine", [Burst, lambda script: ScriptedEngine([script])])
async def test_iterations_give_all_tokens_side_by_side_and_again(engine, count):
    branch = opened(engine("x" * 20))
    generation = branch.generate(SamplingParams(max_tokens=count))

    async def tokens():
        return [token async for token in generation]

    found = await asyncio.gather(tokens(), tokens())
    branch.rewind(0)  # What the branch does then does not change what was generated.
    done = await generation
    assert [*found, await tokens()] == [done.token_ids] * 3 and len(done.token_ids) == count


@pytest.mark.parametrize("engine", ["scripted", "native"])
async def test_what_no_step_can_compute_is_refused_by_every_engine(engine):
    async with Runtime("countdown") if engine == "native" else Runtime(engine=chars(capabilities=VIEWS)) as rt:
        size = 1053 if engine == "native" else rt.engine.tokenizer.vocab_size
        branch, stranger = rt.engine.open([5]), rt.engine.open([5])
        child, closed = branch.fork(2)
        grandchild = child.fork(1)[0]
        closed.close()
        wrong = [
            *(partial(rt.engine.open, [5], **{name: value}) for name in ("seed", "priority") for value in ("x", 1.0)),
            *(partial(rt.engine.open, [], context_limit=value) for value in (0, -5, "5")),
            *(partial(take, [id]) for take in (rt.engine.open, branch.extend) for id in ("a", 1.5, True, -1, size)),
            *(partial(branch.fork, n) for n in (0, -1, "2", 1.0)),
            *(partial(branch.rewind, length) for length in (-1, 2, 1.0, "1")),
            *(partial(branch.seek, position) for position in (-1, 2.5, "1")),
            *(partial(take, [child, other]) for take in (branch.merge, branch.attach)
              for other in (branch, stranger, grandchild)),
            partial(branch.watch, branch),
        ]  # fmt: skip
        child.extend([7])
        for operation in wrong:
            with pytest.raises(InvalidInput):
                operation()
            assert (branch.tokens, branch.position) == ([5], 1), operation
        for take in (branch.merge, branch.attach):
            with pytest.raises(BranchClosed):
                take([closed])


@given(st.text(max_size=30))
def test_tokenizers_give_texts_back(text):
    for tokenizer in (CharTokenizer(), WordTokenizer()):
        assert tokenizer.decode(tokenizer.encode(text)) == f"<s>{text}"
        assert tokenizer.decode(tokenizer.encode_continuation((), text)) == text


async def test_a_stop_of_byte_tokens_is_seen_with_the_token_that_completes_it():
    """Llama-2's newline is one. A text that is written step by step loses and gains nothing."""
    tokenizer = ours("byte fallback, space by the pre-tokenizer")
    whole = "one\n\ntwo\n\nthree"
    engine = ScriptedEngine(lambda context: whole[len(context) - len("Answer:") :], tokenizer=tokenizer)
    branch = engine.open(tokenizer.encode("Answer:"))
    params = SamplingParams(stop=("\n\n",), include_stop=True)
    assert [(await branch.generate(params)).text for _ in range(2)] == ["one\n\n", "two\n\n"]
    assert tokenizer.decode(branch.tokens) == "<s> Answer:one\n\ntwo\n\n"
    (newline,) = tokenizer.encode_continuation(branch.tokens, "\n")
    done = await branch.generate(SamplingParams(stop=("\n",), max_tokens=1, forced=(newline,)))
    assert (done.finish_reason, done.token_ids, done.rolled_back) == (FinishReason.STOP, [], 1)


class Given(ScriptedEngine):
    """Samples the tokens it is given, and notes how many of them may be shown after each."""

    async def complete(self, generation):
        self.shown = []

        async def source():
            for token in self.given:
                yield token
                self.shown.append(len(generation._shown))

        return await decode(generation, source())


def by_native(tokenizer, tokens, params):
    """The completion that the native engine makes of them, and how many may be shown after each."""
    view = SimpleNamespace(length=1, position=1, tokens=[0])
    branch = SimpleNamespace(view=view, reused_tokens=0, context_limit=100)
    loop = asyncio.get_running_loop()
    generation = NativeGeneration(branch, params, tokenizer=tokenizer, loop=loop, lock=nullcontext(), abort=print)
    generation.is_streamed = True
    counts, shown = [], 0
    for token in tokens:
        delivery = generation.push(token, -0.5, None, None)
        if delivery is not None and delivery.is_last:
            return delivery.completion, counts
        shown += len(delivery.tokens) if delivery is not None else 0
        counts.append(shown)
    raise AssertionError("no end")


@pytest.mark.parametrize("name", KINDS)
@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.one_of(st.sampled_from(["a", " ", " 👩", "\ufffd", " stop", "\u00e9", "\n", "\u4e16"]), st.integers(3, 299)),
        max_size=12,
    ),
    st.lists(st.sampled_from(["\n", "\n\n", " stop", "a", "\u00e9", "\u4e16", "\U0001f469", "op\n"]), max_size=3),
    st.booleans(),
    st.lists(st.integers(0, 299), max_size=3),
    st.integers(1, 16),
)
async def test_texts_end_as_on_the_native_engine(name, pieces, stops, include, stop_ids, limit):
    """Of tokens of any kind the same stay, are shown and are spelled."""
    tokenizer = ours(name)
    tokens = tokenizer.encode("a")
    for piece in pieces:
        is_id = isinstance(piece, int)
        tokens += [piece % tokenizer.vocab_size] if is_id else tokenizer.encode_continuation(tokens, piece)
    tokens.append(tokenizer.eos_ids[0])
    stop_ids = [id % tokenizer.vocab_size for id in stop_ids]
    params = SamplingParams(stop=stops, include_stop=include, stop_token_ids=stop_ids, max_tokens=limit, logprobs=0)
    expected, shown = by_native(tokenizer, tokens, params)
    engine = Given([], tokenizer=tokenizer)
    engine.given = tokens
    branch = engine.open([0])
    generation = branch.generate(params)
    done = await generation
    assert replace(done, top_logprobs=None) == replace(expected, top_logprobs=None)
    assert engine.shown == shown
    assert branch.tokens == [0, *done.token_ids] and [token async for token in generation] == done.token_ids


class BytesTokenizer(CharTokenizer):
    """UTF-8 bytes: characters spread over tokens."""

    prefix_ids = ()

    def encode_continuation(self, before, text):
        return [byte + 2 for byte in text.encode()]

    def decode(self, token_ids):
        return bytes(token - 2 for token in token_ids).decode(errors="replace")


@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=20))
def test_text_streams_give_whole_characters_and_count_all_tokens(text):
    for tokenizer in (CharTokenizer(), BytesTokenizer()):
        stream = TextStream(tokenizer)
        tokens = tokenizer.encode_continuation((), text)
        parts = [stream.push(token) for token in tokens]
        assert "".join(part for part, _ in parts) == text
        assert sum(count for _, count in parts) == len(tokens)


async def test_forced_tokens_come_before_what_the_script_writes():
    engine = chars("xyz", "uvw")
    branch = opened(engine, "p")
    forced = tuple(engine.tokenizer.encode_continuation((), "ab"))
    done = await branch.generate(SamplingParams(forced=forced, max_tokens=4))
    assert (done.text, engine.prompts) == ("abxy", ["pab"])
    assert (await branch.generate(SamplingParams(forced=forced, stop=("a",)))).text == ""
