"""The contract between methods and engines: `Engine`, `Branch` and the few plain types they exchange.

A *branch* is one line of decoding. Its context is a *view* over KV segments (design: a context is a view); methods
compose views with `extend`, `fork`, `merge`, `rewind`, `watch`, `attach` and `arrange`, and decode with `generate`. All
but the last only edit the view, return at once and never wait: tokens they add are prefilled by the next `generate`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from .constraint import Constraint as Constraint
from .sampling import SamplingDefaults as SamplingDefaults
from .sampling import SamplingParams as SamplingParams
from .tokenizer import Tokenizer as Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do beyond `extend`, `fork`, `rewind` and `generate`."""

    kv_merge: bool = False
    """`Branch.merge` appends the branches' KV; nothing is encoded again."""
    live_views: bool = False
    """`Branch.watch` sees another branch's tokens as they are written."""
    parallel_contexts: bool = False
    """`Branch.attach` and `attach_contexts` take independently encoded contexts at the same positions (APE)."""
    context_temperature: float = 0.9
    """APE's T for the model (arXiv 2502.05431, section 4): calibrated, or the published code's default."""
    context_scale: float = 0.9
    """APE's S for the model."""
    logprobs: bool = False
    hidden_states: bool = False
    """`SamplingParams.hidden_state`."""
    constrained: bool = False
    """`SamplingParams.constrained`: a text under a constraint may be written in several calls."""
    certainty: bool = False
    """`SamplingParams.certainty`."""


class FinishReason(StrEnum):
    EOS = "eos"
    """The model ended its text with an end-of-sequence token."""
    STOP = "stop"
    """A stop string or stop token was met; see `Completion.stop`."""
    LENGTH = "length"
    """`max_tokens` was reached."""
    CONTEXT = "context"
    """The branch's context limit was reached."""
    MEMORY = "memory"
    """No KV block could be had, though all others waited: what it sees is larger than the KV store. (Without room in
    the swap space: others had the blocks.)"""
    GANG = "gang"
    """Another member of the branch's gang ended in the same pass; see `Branch.lockstep`."""


@dataclass(slots=True, kw_only=True)
class Costs:
    """What one `generate` call cost."""

    prefilled_tokens: int = 0
    """Pending tokens whose KV this call computed."""
    reused_tokens: int = 0
    """Pending tokens whose KV was found in the prefix index."""
    preemptions: int = 0
    """Times it had to wait for KV blocks that others needed more."""
    drafted_tokens: int = 0
    """Guesses that were verified together with the token before them."""
    accepted_tokens: int = 0
    """Of those, the tokens that were sampled, each of which saved a forward pass."""
    rolled_back: int = 0
    """Tokens sampled past a stop string and dropped again; they cost compute but are in no ledger."""


@dataclass(slots=True, kw_only=True)
class Completion(Costs):
    """What one `generate` call produced."""

    token_ids: list[int]
    """Sampled tokens that stayed in the branch, EOS or stop token included."""
    text: str
    """Decoded `token_ids` without EOS, stop token and (unless `include_stop`) the stop string. With `include_stop` it
    ends with the stop string, while the last of `token_ids` may go on behind it."""
    finish_reason: FinishReason
    stop: str | int | None = None
    """The stop string or token id that ended it."""
    logprobs: list[float] | None = None
    """One per token of `token_ids`; NaN: the engine was not told of this one."""
    top_logprobs: list[dict[int, float]] | None = None
    hidden_state: list[float] | None = None
    """(C,): the model's last hidden states, behind its final norm, from which `token_ids` were sampled, averaged. With
    `max_tokens=0`: the one at the branch's last token."""
    certainty: float | None = None
    """Self-certainty (arXiv 2502.18581, section 3): how far the model's distributions, from which `token_ids` were
    sampled, are from the uniform one, KL(uniform || p) in nats, averaged over the tokens. None without tokens."""


class Generation(Protocol):
    """A running `generate` call: await it for the `Completion`, or iterate it for token ids as they are sampled.

    Iteration ends when the generation does; awaiting afterwards returns the completion. Whoever iterates again, or
    beside another, gets all tokens from the first on. Tokens that may yet be rolled
    back (a stop string could have begun) are held back until they are certain. Cancelling the awaiting task, or leaving
    the loop through `aclose`, stops the generation; the branch keeps what was sampled so far.
    """

    @property
    def costs(self) -> Costs:
        """So far: what is counted where no completion comes, because it was stopped or failed. Without the forward pass
        that was under way then."""
        ...

    def __await__(self) -> Generator[Any, None, Completion]: ...
    def __aiter__(self) -> AsyncIterator[int]: ...
    async def aclose(self) -> None: ...


class Block(Protocol):
    """A handle on what one branch wrote, or is writing, since its view was arranged; keeps it alive until closed."""

    @property
    def tokens(self) -> list[int]: ...
    @property
    def computed(self) -> int:
        """Tokens of the segment being written whose keys and values are there; the rest are pending."""
        ...

    @property
    def seen(self) -> list[tuple[int, tuple[int, ...]]]:
        """For every pass that computed tokens of the segment being written under a view with live spans: the index of
        the first of them, and how many tokens of each live span, in order, they saw."""
        ...

    def close(self) -> None:
        """Let go; idempotent."""
        ...


class Branch(Protocol):
    """One line of decoding over a view of KV segments.

    Every operation raises `BranchClosed` after `close` and, but for `close` itself, `BranchBusy` while generating.
    """

    @property
    def path(self) -> tuple[int, ...]:
        """Place in the job's tree; with the job's seed it determines sampling."""
        ...

    @property
    def tokens(self) -> list[int]:
        """All tokens of the view in order, pending ones included; frozen and own spans, not live or attached ones."""
        ...

    @property
    def length(self) -> int:
        """`len(tokens)`."""
        ...

    @property
    def position(self) -> int:
        """Position of the next token."""
        ...

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens; raises `PromptTooLong` when they do not fit the branch's context limit."""
        ...

    def generate(self, params: SamplingParams | None = None) -> Generation:
        """Prefill pending tokens and decode. Starts at once, not at the first await.

        Raises `InvalidInput` for parameters that the model's vocabulary does not allow, before anything is scheduled.
        """
        ...

    def fork(self, n: int) -> list[Branch]:
        """n children that share this view; nothing is copied. The i-th has path `self.path + (forks + i,)`."""
        ...

    def merge(self, branches: Sequence[Branch]) -> None:
        """Append what each branch wrote since it was forked from this one, in order, at the positions it was written
        at. The next position becomes the furthest of them. The branches stay usable; close them when done.

        Extend before the next `generate`, as after `watch`, `attach` and `attach_contexts`: there is no token of the
        branch's own to go on from, and engines that merge KV raise `InvalidInput`. Those that merge texts go on."""
        ...

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens. The next token goes where the first forgotten one stood;
        what was watched or attached after that one is forgotten too. Who watches this branch sees the tokens go, and
        nothing of what comes then. At the current length nothing happens."""
        ...

    def watch(self, branch: Branch, shift: int = 0) -> None:
        """See `branch`'s own segment live, until that ends as `block` says, its positions moved by `shift`; it stays in
        front of the own segment. In an arranged view, where positions do not matter, a shift is `InvalidInput`. Needs
        `live_views`."""
        ...

    def attach(
        self, branches: Sequence[Branch], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        """See what each branch wrote since its fork, as one group with APE's temperature and scale (arXiv 2502.05431,
        section 4); the next position follows the furthest of them. `bias` is added to the log of the group's weight:
        log b makes it b times as heavy. Needs `parallel_contexts`."""
        ...

    def attach_contexts(
        self, contexts: Sequence[Sequence[int]], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        """See these texts as one group, as `attach` does: each encoded on its own behind this branch's view, all from
        the same position on. What was encoded before is reused. Raises `PromptTooLong`, `UnsupportedByEngine`, and
        `InvalidInput` in an arranged view: attach them first, `seal`, and arrange that block. Needs
        `parallel_contexts`."""
        ...

    def seek(self, position: int) -> None:
        """Let the next token go to `position`. What is written from there on overlaps what stands there already, as
        the paths of a Multiverse block do; raises `InvalidInput` outside 0 .. the context limit, and in an arranged
        view, which is read one behind another whatever the positions."""
        ...

    def block(self) -> Block:
        """A handle on what is being written, to be watched by others through `arrange`: all that was written since the
        view was last arranged or sealed, and what will be until that ends: with `seal`, and, once there is a token of
        it, when the view changes (`seek`, `rewind`, `merge`, `attach`, `attach_contexts`, `watch`) or others take it
        over (`fork`; being merged or attached). What is written then is in a block made then."""
        ...

    def seal(self) -> Block:
        """End what is being written, which becomes fixed text of the view, and give a handle on it."""
        ...

    def arrange(self, blocks: Sequence[Block]) -> None:
        """Replace the view by these blocks, read one behind another whatever positions they were written at, live
        where they are still being written; what is being written here comes last and stays, unless sealed (Hogwild!,
        arXiv 2504.06261, section 3). Raises `InvalidInput` if that was begun in a view that was not arranged.
        Needs `live_views`."""
        ...

    def lockstep(self, gang: str | None) -> None:
        """Step together with the other branches of this job's gang: no pass runs one of them without all, and when the
        generation of one ends, those of the others end in the same pass (`FinishReason.GANG`). None: leave."""
        ...

    def close(self) -> None:
        """Free the branch; idempotent; stops a running generation."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockUsage:
    """KV blocks at one moment. `free + cached + used == total` always."""

    total: int
    free: int
    cached: int
    used: int
    block_size: int = 16
    """Tokens per block."""


class Engine(Protocol):
    """Serves branches of one model."""

    @property
    def name(self) -> str: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def context_limit(self) -> int:
        """Positions one branch may span."""
        ...

    @property
    def sampling_defaults(self) -> SamplingDefaults:
        """What the model's makers sample with; greedy where they do not say."""
        ...

    def open(
        self,
        tokens: Sequence[int] = (),
        *,
        path: tuple[int, ...] = (),
        seed: int = 0,
        context_limit: int | None = None,
        job: str = "",
        priority: int = 0,
        deadline: float | None = None,
    ) -> Branch:
        """A new root branch.

        `path` and `seed` determine sampling. `context_limit` caps the view's tokens below the engine's own. Branches
        of one `job` share its fair part of the machine; a higher `priority` is served first, and of one priority the
        nearest `deadline`, in the event loop's time. An engine that has no such say ignores it.
        """
        ...

    def check_constraint(self, constraint: Constraint) -> None:
        """Raise what is wrong with a `SamplingParams.constraint` here, before any work: `InvalidInput` for one that is
        malformed, too large or uses what is not supported, `UnsupportedByEngine` where there are none."""
        ...

    def block_usage(self, job: str | None = None) -> BlockUsage:
        """All zero for engines that do not show their memory. With `job`, `used` counts the unique blocks that its
        branches hold."""
        ...

    async def start(self) -> None: ...
    async def close(self) -> None:
        """Stop everything; afterwards no task or thread is left. Idempotent."""
        ...
