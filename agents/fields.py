"""The fields of `CodeMonkeys`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from ..runtime.engine import Engine, SamplingParams
from ..runtime.engines.model_digest import model_digest, option_digests
from ..runtime.errors import InvalidInput, PromptTooLong, UnsupportedByEngine
from ..runtime.jobs.context import Context
from ..runtime.methods.base import Method, Temperature
from ..runtime.methods.nesting import Inner, all_inputs, reading
from ..runtime.price import Price
from ..runtime.spec import Several, Spec
from .edits.base import FORMS, EditForm
from .machines.editing import system_message
from .predictions import read_systems
from .repository import Repository, is_test
from .sandbox.base import Sandbox, parse_sandbox
from .sandbox.script import check_command
from .voting import VoteRule

Stage = Literal["relevance", "ranking", "tests", "edits", "selection"]

CONTEXT_SHARE = 0.5
"""Of a model's context window that the repository may take; the rest is for the conversation."""


class StageModel(Spec):
    """Another model for a stage."""

    model: str = Field(min_length=1)
    """As for `Runtime`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of its engine."""

    def inputs(self) -> dict[str, Any]:
        """See `Method.inputs`."""
        files = {f"options.{name}": digest for name, digest in option_digests(self.options).items()}
        return {"model": model_digest(self.model), **files}


class Fields(Method):
    """What `CodeMonkeys` can be told."""

    repository: Path
    """A git repository: a checkout, a bare one or a mirror."""
    commit: str = "HEAD"
    """What the issue is about."""
    issue: str = Field(min_length=1)
    """The issue, as somebody wrote it."""
    project: str = ""
    """What prompts call the project; empty: the repository's folder."""
    n: int = Field(default=10, ge=1, strict=True)
    """Trajectories."""
    test_calls: int = Field(default=8, ge=0, strict=True)
    """Model calls of one test trajectory at most, malformed answers included; 0: edits without tests."""
    edit_calls: int = Field(default=8, ge=1, strict=True)
    """Model calls of one edit trajectory at most."""
    selection_calls: int = Field(default=10, ge=0, strict=True)
    """Model calls of the selection at most; 0: the votes alone decide."""
    finalists: int = Field(default=3, ge=1, strict=True)
    """Candidates that the selection is among."""
    edits: str = "blocks"
    """The form of edits: `blocks` (search and replace), `functions` and `files` (written anew), `diff`."""
    context: Literal["files", "mixed", "functions", "function"] = "files"
    """What a trajectory sees of the repository. `files`: the chosen files whole. `functions`: the functions in them
    that belong most to the issue. `mixed`: files whole where they fit, of longer ones these functions. `function`: one
    of the functions each, dealt out so that the likelier ones are seen more often."""
    functions: int = Field(default=4, ge=1, strict=True)
    """Functions that are chosen, of a file with `mixed`, else in all."""
    files: Several[str] = ()
    """Paths that make up the context; empty: the relevance and ranking stages choose."""
    scan: int | None = Field(default=None, ge=0, strict=True)
    """Files that the relevance stage reads at most, the likeliest by a search for the issue's words first; 0: that
    search alone ranks; None: all."""
    suffixes: Several[str] = (".py",)
    """Of files that may be context, unless `files` names some."""
    context_tokens: int = Field(default=128_000, ge=1, strict=True)
    """Tokens of context at most; less where the model's own context is smaller."""
    file_tokens: int = Field(default=100_000, ge=1, strict=True)
    """Longer files are never read."""
    context_limit: int | None = Field(default=None, ge=1, strict=True)
    """Tokens one conversation may span, methods that give answers in it included; None: the model's own limit."""
    encoding: Literal["sequential", "parallel"] = "sequential"
    """`parallel`: the parts of the context are encoded each on its own (APE, arXiv 2502.05431), so that their order and
    choice cost nothing; needs an engine with parallel contexts."""
    shows_tests: bool = False
    """Show the context to the test trajectories too; the paper does not."""
    vote: VoteRule = "all"
    """Whose votes count: of all tests, or of those that show the issue on the original code."""
    check_command: Several[str] = ()
    """Run inside the repository, before and after: candidates on which it fails where it passed come last
    (`("python", "-m", "pytest", "-q")`)."""
    temperature: Temperature | None = 0.5
    """Of rankings, tests and edits; relevance and selection are greedy. None: the model's own."""
    max_tokens: int = Field(default=4096, ge=1, strict=True)
    """New tokens of one call at most; twice that in the selection."""
    sandbox: Annotated[
        SerializeAsAny[Sandbox],
        BeforeValidator(lambda value: parse_sandbox(value) if isinstance(value, dict) else value),
    ] = Field(default_factory=lambda: parse_sandbox({"sandbox": "bubblewrap"}))
    """What tests run in: `{"sandbox": "bubblewrap", ...}`, `docker` or `local`; see `sandbox`."""
    seconds: float = Field(default=100.0, gt=0)
    """Wall clock of one execution at most."""
    executions: int = Field(default=4, ge=1, strict=True)
    """Executions at a time."""
    models: dict[Stage, StageModel] = Field(default_factory=dict)
    """Stages that another model does; also `{"edits": "NAME"}`."""
    generators: dict[Stage, Inner] = Field(default_factory=dict)
    """Methods that give a stage's answers instead of plain decoding: the conversation so far takes the place of their
    prompt, their text is the answer. How it is sampled is said by their fields."""
    candidates: Path | None = None
    """A file or folder of predictions in SWE-bench's format: patches of other systems that join the votes."""
    instance: str | None = None
    """Whose predictions are taken from there; None: those of all instances, which then must be of one."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """Of models, or of stages, by name: what `details["costs"]` says in money."""
    folder: Path | None = None
    """Where states and executions are kept, each job's in a place of its own, so that one that was killed goes on;
    None: nowhere."""

    @property
    def fan_out(self) -> int:
        return self.n

    @field_validator("edits")
    @classmethod
    def _known_form(cls, value: str) -> str:
        if FORMS.find(value) is None:
            raise ValueError(FORMS.unknown(value))
        return value

    @field_validator("models", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {stage: {"model": model} if isinstance(model, str) else model for stage, model in value.items()}

    @field_validator("check_command")
    @classmethod
    def _can_be_started(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value:
            check_command(value)
        return value

    @field_validator("issue")
    @classmethod
    def _whole(cls, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a surrogate pair") from None
        return value

    @cached_property
    def source(self) -> Repository:
        """The repository at the commit. Raises `InvalidInput`."""
        return Repository(self.repository, self.commit)

    @property
    def project_name(self) -> str:
        """What prompts call it."""
        return self.project or self.source.path.name

    def check(self, engine: Engine) -> None:
        """Raises `InvalidInput` for a repository, sandbox or file that is not there, and `UnsupportedByEngine`."""
        texts = self.source.files()
        for path in self.files:
            if texts.get(path) is None:
                raise InvalidInput(f"files: there is no text file {path!r} in {self.repository} at {self.commit}")
        self.foreign()
        self.sandbox.check()
        for stage, generator in self.generators.items():
            if stage not in self.models:
                reading(generator, engine.tokenizer.encode(self.issue), self.context_limit).check(engine)
        if "edits" not in self.models:
            self.check_engine(engine)

    @property
    def most_parts(self) -> int | None:
        """Parts of the context at most."""
        return self.functions if self.context in ("functions", "function") else None

    def may_show(self, path: str) -> bool:
        """May the file be context?"""
        return path.endswith(tuple(self.suffixes)) and not is_test(path)

    def foreign(self) -> list[tuple[str, str]]:
        """(System, patch) of the candidates of other systems, each with a last newline: without it git takes the last
        hunk for a broken one. Raises `InvalidInput`."""
        if self.candidates is None:
            return []
        systems = read_systems(self.candidates)
        found = [(system, one) for system, some in systems.items() for one in some]
        names = sorted({one.instance_id for _, one in found})
        if self.instance is None and len(names) > 1:
            raise InvalidInput(
                f"{self.candidates} holds predictions for {len(names)} instances: say which by `instance`"
            )
        some = [(system, one.model_patch) for system, one in found if self.instance in (None, one.instance_id)]
        return [(system, patch if patch.endswith("\n") else f"{patch}\n") for system, patch in some]

    def inputs(self) -> dict[str, Any]:
        return {} if self.candidates is None else {"candidates": read_systems(self.candidates)}

    def check_engine(self, engine: Engine) -> None:
        """Raise what keeps the engine from the edits: `UnsupportedByEngine`, `InvalidInput` without a chat template,
        `PromptTooLong`."""
        if self.encoding == "parallel" and not engine.capabilities.parallel_contexts:
            raise UnsupportedByEngine(
                f"engine {engine.name} has no parallel contexts; the native engine has them, and encoding='sequential' "
                f"needs none"
            )
        tokens = len(engine.tokenizer.chat([{"role": "system", "content": self.edit_system()}]))
        limit = self.limit(engine.context_limit)
        room = int(limit * (1 - CONTEXT_SHARE))
        if tokens > room:
            raise PromptTooLong(
                f"the issue and the rules for edits have {tokens} tokens; of the {limit} of "
                f"{engine.name}'s context they may take {room}, to leave room for code and answers"
            )

    def limit(self, own: int) -> int:
        """Tokens that one conversation may span on an engine whose limit is `own`."""
        return own if self.context_limit is None else min(own, self.context_limit)

    @property
    def form(self) -> EditForm:
        """The form of edits."""
        form = FORMS.find(self.edits)
        assert form is not None  # checked when the method was made
        return form()

    def edit_system(self) -> str:
        """What every edit trajectory is told first."""
        has_tests = self.test_calls > 0 or self.edit_calls > 1
        return system_message(self.form, self.project_name, self.issue, has_tests=has_tests)

    def identity(self) -> dict[str, Any]:
        """What makes a job the same one when it goes on, beside its own model and seed; the commit's hash says what is
        in the repository, wherever that is, and other models' files say what these are. May block."""
        left = {"folder", "repository", "prices", "executions"}
        # Other systems' patches are in no trajectory: a file of them that grows makes no other job.
        own = self.model_copy(update={"candidates": None})
        files = {name: value for name, value in all_inputs(own).items() if value is not None}
        found = {**self.model_dump(mode="json", exclude=left), "commit": self.source.commit}
        return {**found, "inputs": files} if files else found

    def settings(self, engine: Engine) -> dict[str, Any]:
        return {"commit": self.source.commit, "sandbox": self.sandbox.sandbox}

    def sampling(self, ctx: Context, stage: Stage) -> SamplingParams:
        """Parameters of a stage's calls; the model's own where no field says otherwise, but for the repetition penalty:
        who edits code has to repeat it."""
        own = ctx.engine.sampling_defaults
        greedy = stage in ("relevance", "selection")
        temperature = own.temperature if self.temperature is None else self.temperature
        return SamplingParams(
            max_tokens=self.max_tokens * (2 if stage == "selection" else 1),
            temperature=0.0 if greedy else temperature,
            top_k=own.top_k,
            top_p=own.top_p,
            min_p=own.min_p,
            logprobs=0 if ctx.capabilities.logprobs else None,
        )
