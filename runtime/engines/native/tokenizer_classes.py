"""What transformers' tokenizer classes have, whatever tokenizer.json says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

_OVERRULED = frozenset(
    "deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 ernie4_5 ernie4_5_moe flex_olmo fuyu glm glm4 glm4_moe "
    "glm4_moe_lite gpt_bigcode granite granitemoe granitemoehybrid granitemoeshared hyperclovax jamba kimi_linear "
    "mimo_v2_flash minicpm3 minimax_m2 ministral ministral3 mistral mixtral modernbert-decoder nemotron olmo2 olmo3 "
    "olmo_hybrid persimmon phi3 phimoe stablelm".split()
)
"""Types of models whose tokenizer.json counts, whatever class is named: transformers knows that their files may name a
wrong one."""
_SENTENCEPIECE = ("LlamaTokenizer", "CodeLlamaTokenizer")
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_SPECIAL: Mapping[str, Mapping[str, str]] = {
    "CodeGenTokenizer": _GPT2,
    "CodeLlamaTokenizer": _LLAMA,
    "CohereTokenizer": {
        "bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "unk_token": "<UNK>", "sep_token": "<SEP>",
        "pad_token": "<PAD>", "cls_token": "<CLS>", "mask_token": "<MASK_TOKEN>",
    },
    "GPT2Tokenizer": _GPT2,
    "GPTNeoXTokenizer": {**_GPT2, "pad_token": "<|padding|>"},
    "GemmaTokenizer": {
        "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>",
    },
    "LlamaTokenizer": _LLAMA,
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
}  # fmt: skip
"""What the classes call their special tokens where no file does."""


def as_transformers_has_it(tokenizer: Tokenizer, own: Mapping[str, Any], model_type: object) -> None:
    """Change a tokenizer to what its class makes of it. `own`: the fields of tokenizer_config.json."""
    kind, splitter = _class(tokenizer, own, model_type), tokenizer.pre_tokenizer
    if tokenizer.normalizer is None and kind == "Qwen2Tokenizer":
        tokenizer.normalizer = normalizers.NFC()
    if kind in ("GPT2Tokenizer", "GPTNeoXTokenizer") and isinstance(splitter, pre_tokenizers.ByteLevel):
        splitter.add_prefix_space = bool(own.get("add_prefix_space"))
    if kind in _SENTENCEPIECE:
        _as_llama(tokenizer, own, is_code=kind == "CodeLlamaTokenizer")


def default_tokens(tokenizer: Tokenizer, own: Mapping[str, Any], model_type: object) -> Mapping[str, str]:
    """By name, the special tokens of the class, for what files leave out. `own` as in `as_transformers_has_it`."""
    return _SPECIAL.get(_class(tokenizer, own, model_type), {})


def _class(tokenizer: Tokenizer, own: Mapping[str, Any], model_type: object) -> str:
    """The name of the class; empty where it does not count."""
    kind = str(own.get("tokenizer_class")).removesuffix("Fast")
    # Llama's is named by some whose tokens are GPT-2's, too.
    is_sentencepiece = isinstance(tokenizer.model, models.BPE) and tokenizer.model.byte_fallback
    is_wrong = str(model_type) in _OVERRULED or kind in _SENTENCEPIECE and not is_sentencepiece
    return "" if is_wrong else kind


def _as_llama(tokenizer: Tokenizer, own: Mapping[str, Any], *, is_code: bool) -> None:
    """A space in front of the text, and of what stands behind special tokens only if `legacy`: the first files had it
    from their normaliser, which is blind to what stands before. Code Llama's class knows no `legacy`."""
    has_space = own.get("add_prefix_space") in (None, True)
    scheme = "never" if not has_space else "always" if own.get("legacy") and not is_code else "first"
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", scheme, split=False)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if has_space or is_code else [])])
