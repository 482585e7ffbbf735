"""What transformers' tokenizer classes have, whatever tokenizer.json says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

_OVERRULED = {"mistral", "ministral", "olmo2", "phi3"}
"""Types of models whose tokenizer.json counts, whatever class is named: their files are known to name a wrong one."""


def as_transformers_has_it(tokenizer: Tokenizer, own: Mapping[str, Any], model_type: object) -> None:
    """Change a tokenizer to what its class makes of it. `own`: the fields of tokenizer_config.json."""
    kind, splitter = str(own.get("tokenizer_class")).removesuffix("Fast"), tokenizer.pre_tokenizer
    if tokenizer.normalizer is None and kind == "Qwen2Tokenizer":
        tokenizer.normalizer = normalizers.NFC()
    if kind in ("GPT2Tokenizer", "GPTNeoXTokenizer") and isinstance(splitter, pre_tokenizers.ByteLevel):
        splitter.add_prefix_space = bool(own.get("add_prefix_space"))
    # The class is named by some whose tokens are GPT-2's, too.
    is_sentencepiece = isinstance(tokenizer.model, models.BPE) and tokenizer.model.byte_fallback
    if kind in ("LlamaTokenizer", "CodeLlamaTokenizer") and is_sentencepiece and model_type not in _OVERRULED:
        _as_llama(tokenizer, own, is_code=kind == "CodeLlamaTokenizer")


def _as_llama(tokenizer: Tokenizer, own: Mapping[str, Any], *, is_code: bool) -> None:
    """A space in front of the text, and of what stands behind special tokens only if `legacy`: the first files had it
    from their normaliser, which is blind to what stands before. Code Llama's class knows no `legacy`."""
    has_space = own.get("add_prefix_space") in (None, True)
    scheme = "never" if not has_space else "always" if own.get("legacy") and not is_code else "first"
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", scheme, split=False)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if has_space or is_code else [])])
