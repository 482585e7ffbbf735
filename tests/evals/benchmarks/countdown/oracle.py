"""A policy that makes no mistake: it continues every thread as the trace writer does."""

from plait.rl.countdown import traces
from plait.runtime.methods.apr import compact as lang


def oracle(texts):
    """Each text with what a faultless model adds, up to its end or the spawn word."""
    return [" ".join(_continue(text.split())) for text in texts]


def _continue(words):
    start = lang.read_prompt(words)
    if start.mode == "mv":
        return _continue_multiverse(words, start)
    write = traces.parallel if start.mode == "apr" else traces.sequential
    whole = write(start.nums, start.target).words
    if lang.JOIN in words:
        behind = whole.index(lang.END) + 1
        assert words == whole[:behind], "the runtime's join section differs from the trained one"
    elif lang.JOIN in whole:
        return [*whole[: whole.index(lang.JOIN)], lang.SPAWN]
    return whole


def _continue_multiverse(words, start):
    whole = traces.multiverse(start.nums, start.target).words
    if words[-2] == "<Path>":
        head = "".join(words[-2:])
        begin = next(i for i in range(2, len(whole)) if "".join(whole[i - 2 : i]) == head)
        return words + whole[begin : whole.index("</Path>", begin) + 1]
    if words[-1] == "<Conclusion>":
        assert words == whole[: len(words)], "what the conclusion sees differs from the trained text"
        return whole
    assert words == whole[: start.length]
    return whole[: whole.index("</Goal>") + 1]
