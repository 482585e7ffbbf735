"""The prefix-tree forward against one forward for each call, and against the masks of traces."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import add_fused_lm_head

from plait import InvalidInput
from plait.rl.grpo.forest import Forest
from plait.rl.grpo.packed import lay_out, pack, score, token_cost
from plait.rl.masks import text_trace, trace_mask
from plait.runtime.trace.record import SpanRecord
from plait.tests.rl.grpo.tools import TraceWriter
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.methods.multiverse.tools import Par, TagTokenizer, render, structures

MODEL = tiny("qwen3", max_position_embeddings=4096)[0].train()
add_fused_lm_head(MODEL, outputs=("log_probs", "entropy"))
COST = token_cost(64, 96)


def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
    MODEL.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in MODEL.parameters()]


def scored(traces, *, share: bool, most: int = 4096) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Log-probabilities and entropies of all sampled tokens, call after call, and how many tokens were computed."""
    forest = Forest()
    calls = [call for trace in traces for call in forest.add(trace)]
    rows = pack(forest, calls, share=share, token_cost=COST, most=most)
    assert sorted(i for row in rows for i in row.calls) == list(range(len(calls)))
    layout = lay_out(forest, calls, rows, most=512)
    logprobs, entropies = score(MODEL, layout)
    flat = [
        torch.cat([values[i, : len(call.tokens)] for i, call in enumerate(calls)]) for values in (logprobs, entropies)
    ]
    return flat[0], flat[1], layout.num_tokens


def by_mask(trace) -> torch.Tensor:
    """The same from one forward over the whole trace with its own mask."""
    mask = trace_mask(trace)
    hidden = MODEL.model(mask.input_ids(), attention_mask=mask.dense(), position_ids=mask.position_ids())[0]
    found = MODEL.lm_head(hidden)[0].log_softmax(-1)
    own = torch.from_numpy(mask.is_sampled & (mask.source >= 0))
    source, tokens = torch.from_numpy(mask.source).long()[own], torch.tensor(mask.token_ids)[own]
    return found[source, tokens]


def with_logprobs(trace):
    for segment in trace.segments:
        for piece in segment.pieces:
            if piece.kind == "sampled":
                piece.logprobs = [0.0] * len(piece.token_ids)
    return trace


def group():
    """Two APR rollouts of one prompt: they spawn the same child, and one of them another one."""
    traces = []
    for end in (7, 8):
        made = TraceWriter()
        prompt = made.segment(made.branch("0"), ([1, 2, 3, 4], None), ([10, 11, 12, end], [0.0] * 4))
        made.segment(made.branch("1", "0"), ([1, 50, 51], None), ([60, 61], [0.0] * 2))
        if end == 8:
            made.segment(made.branch("2", "0"), ([1, 50, 52], None), ([60, 61], [0.0] * 2))
        made.segment("0", ([70, 71], None), ([80, 81, end], [0.0] * 3), view=[(prompt, 7)])
        traces.append(made.trace)
    return traces


def test_shared_tokens_are_computed_once():
    forest = Forest()
    calls = [call for trace in group() for call in forest.add(trace)]
    # Prompt and sample 4 + 3 + the two ends, the child 1, 50, 51, 60, 61 less the BOS that all begin with, the other
    # child 52, 60, 61, the join 70, 71, 80, 81 and its two ends.
    assert len(forest) == 9 + 4 + 3 + 6
    assert len(calls) == 7
    shared, _, packed = scored(group(), share=True)
    alone, _, unpacked = scored(group(), share=False)
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)
    assert packed < unpacked


@pytest.mark.parametrize("most", [4096, 12])
def test_gradients_do_not_depend_on_the_packing(most):
    shared, shared_entropy, _ = scored(group(), share=True, most=most)
    weights = torch.randn(len(shared), generator=torch.Generator().manual_seed(0))
    packed = gradients((weights * shared + 0.1 * weights * shared_entropy).mean())
    alone, alone_entropy, _ = scored(group(), share=False)
    unpacked = gradients((weights * alone + 0.1 * weights * alone_entropy).mean())
    torch.testing.assert_close(packed, unpacked, atol=1e-5, rtol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in unpacked) > 0.01


def items(depth: int = 2) -> st.SearchStrategy[list[str | Par]]:
    """Texts and blocks whose paths begin alike, and are often equal."""
    text = st.sampled_from(["", "a", "a", "ab"])
    if not depth:
        return st.lists(text, min_size=1, max_size=1)
    paths = st.lists(items(depth - 1), min_size=1, max_size=3)
    blocks = paths.map(lambda found: Par({str(i): path for i, path in enumerate(found, 1)}))
    return st.tuples(text, st.none() | blocks, text).map(lambda found: [one for one in found if one is not None])


ENCODE = TagTokenizer().encode
POSITIONS = st.sampled_from(["train", "engine"])


def merged(text, positions):
    return with_logprobs(text_trace(text + "x", ENCODE, positions, prompt=ENCODE("Q")))


@settings(max_examples=20, deadline=None)
@given(st.lists(structures(3) | items(), min_size=1, max_size=3), POSITIONS, st.booleans())
def test_merged_text_is_scored_as_under_the_mask_of_its_trace(texts, positions, share):
    """Multiverse: forks, paths side by side, merges, nested blocks; paths that begin alike, and equal ones."""
    traces = [merged(render(one), positions) for one in texts]
    found, _, _ = scored(traces, share=share)
    expected = torch.cat([by_mask(trace) for trace in traces])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weights = torch.randn(len(found), generator=torch.Generator().manual_seed(0))
    packed, masked = gradients((weights * found).mean()), gradients((weights * expected).mean())
    torch.testing.assert_close(packed, masked, atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(items(), POSITIONS)
def test_a_view_holds_each_of_its_tokens_and_equal_rollouts_share_all(texts, positions):
    trace = merged(render(texts), positions)
    forest = Forest()
    calls = forest.add(trace)
    # What stands last sees all, but for itself.
    assert len(forest) == len(forest.needed(calls[-1])) + 1 == len(trace_mask(trace))
    forest.add(merged(render(texts), positions))
    assert len(forest) == len(trace_mask(trace))


def test_equal_tokens_are_apart_in_the_view_that_holds_them_and_shared_with_others():
    """Of three equal paths one view holds the first and the last, another one the second."""
    made = TraceWriter()
    made.segment(made.branch("0"), ([1], None))
    for _ in range(3):
        made.segment("0", ([2], [-1.0]), view=[(0, 1)])
    made.segment("0", ([3, 5], [-1.0, -1.0]), view=[(0, 1), (1, 1), (3, 1)])
    made.segment("0", ([4, 5], [-1.0, -1.0]), view=[(0, 1), (2, 1)])
    forest = Forest()
    *_, both, one = forest.add(made.trace)
    assert [forest.tokens[node] for node in sorted(forest.needed(both))] == [1, 2, 2, 3]
    assert [forest.tokens[node] for node in sorted(forest.needed(one))] == [1, 2, 4]
    assert forest.tokens.count(2) == 2


def test_what_a_stopped_generation_left_is_context_at_most():
    made = TraceWriter()
    made.segment(made.branch("0"), ([1, 2], None), ([5, 6], [-1.0, -2.0]))
    made.trace.segments[0].pieces[1].logprobs = None
    made.segment("0", ([7], [-3.0]), view=[(0, 4)])
    (call,) = Forest().add(made.trace)
    assert call.tokens == [7] and call.logprobs == [-3.0]


def test_an_injected_token_is_context_and_what_follows_is_scored_behind_it():
    made = TraceWriter()
    made.segment(made.branch("0"), ([1], None), ([5], [-1.0]), ([9, 9], None), ([6], [-2.0]))
    forest = Forest()
    (call,) = forest.add(made.trace)
    assert call.tokens == [5, 6] and [forest.tokens[node] for node in call.sources] == [1, 9]
    assert [forest.positions[node] for node in call.sources] == [0, 3]


@pytest.mark.parametrize("span", [{"length": None}, {"length": 1, "shift": 3}])
def test_live_and_shifted_views_are_refused(span):
    made = TraceWriter()
    made.segment(made.branch("0"), ([1, 2], None))
    made.segment(made.branch("1"), ([3], [-1.0]))
    made.trace.segments[1].view = (SpanRecord(segment=0, **span),)
    with pytest.raises(InvalidInput, match="Hogwild"):
        Forest().add(made.trace)


def test_a_segment_that_is_seen_twice_is_refused():
    made = TraceWriter()
    made.segment(made.branch("0"), ([1, 2], None))
    made.segment("0", ([3], [-1.0]), view=[(0, 2), (0, 2)])
    with pytest.raises(InvalidInput, match="twice"):
        Forest().add(made.trace)
