"""plait: one runtime for parallel reasoning over shared KV segments.

async with plait.Runtime("countdown") as rt:
    job = await rt.submit(plait.APR(prompt="..."), budget=plait.Budget(total_tokens=20_000))
    async for event in job:
        ...
    result = await job
"""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from . import search
from .agents.code_monkeys import CodeMonkeys
from .runtime import errors, events
from .runtime.budget import Budget
from .runtime.cli.command import register_command
from .runtime.engine import (
    BlockUsage,
    Branch,
    Capabilities,
    Completion,
    Constraint,
    Costs,
    Engine,
    FinishReason,
    Generation,
    SamplingDefaults,
    SamplingParams,
    Tokenizer,
)
from .runtime.engines.recorder import Recorder
from .runtime.engines.registry import register_scheme
from .runtime.engines.replay import ReplayEngine
from .runtime.engines.scripted import ScriptedEngine
from .runtime.equality.registry import register_equality
from .runtime.errors import (
    BranchBusy,
    BranchClosed,
    BrokerUnreachable,
    EngineClosed,
    InvalidBudget,
    InvalidInput,
    InvalidJob,
    JobFailed,
    NonFiniteLogits,
    OutOfBlocks,
    OutOfBudget,
    PlaitError,
    PromptTooLong,
    ServerFailed,
    UnknownModel,
    UnsupportedByEngine,
    UnsupportedModel,
    WorkerLost,
)
from .runtime.job_spec import JobSpec, parse_job
from .runtime.jobs.branch import TracedBranch
from .runtime.jobs.context import Context
from .runtime.jobs.job import Job
from .runtime.methods.answers import extract
from .runtime.methods.apr import APR
from .runtime.methods.apr.dialect import Child, Dialect, Joined, Spawn, register_dialect
from .runtime.methods.base import Decoding, Method
from .runtime.methods.constraints import ChoiceConstraint, GrammarConstraint, JsonConstraint, RegexConstraint
from .runtime.methods.hogwild import Hogwild
from .runtime.methods.multiverse import Multiverse
from .runtime.methods.prompt import context_text, prompt_tokens
from .runtime.methods.registry import parse_method, register
from .runtime.methods.self_consistency import SelfConsistency
from .runtime.methods.sequential import Answering, Sequential
from .runtime.methods.tools import Tool
from .runtime.result import Finish, Generated, Outcome, Result, Usage
from .runtime.runtime import Runtime
from .runtime.trace.spans import send_spans
from .runtime.trace.trace import Trace
from .search.tree_search import TreeSearch

if TYPE_CHECKING:
    from . import evals as evals
    from .runtime.engines.native.engine import NativeEngine

__all__ = [
    "APR",
    "Answering",
    "BlockUsage",
    "Branch",
    "BranchBusy",
    "BranchClosed",
    "BrokerUnreachable",
    "Budget",
    "Capabilities",
    "Child",
    "ChoiceConstraint",
    "CodeMonkeys",
    "Completion",
    "Constraint",
    "Context",
    "Costs",
    "Decoding",
    "Dialect",
    "Engine",
    "EngineClosed",
    "Finish",
    "FinishReason",
    "Generated",
    "Generation",
    "GrammarConstraint",
    "Hogwild",
    "InvalidBudget",
    "InvalidInput",
    "InvalidJob",
    "Job",
    "JobFailed",
    "JobSpec",
    "Joined",
    "JsonConstraint",
    "Method",
    "Multiverse",
    "NativeEngine",
    "NonFiniteLogits",
    "OutOfBlocks",
    "OutOfBudget",
    "Outcome",
    "PlaitError",
    "PromptTooLong",
    "Recorder",
    "RegexConstraint",
    "ReplayEngine",
    "Result",
    "Runtime",
    "SamplingDefaults",
    "SamplingParams",
    "ScriptedEngine",
    "SelfConsistency",
    "Sequential",
    "ServerFailed",
    "Spawn",
    "Tokenizer",
    "Tool",
    "Trace",
    "TracedBranch",
    "TreeSearch",
    "UnknownModel",
    "UnsupportedByEngine",
    "UnsupportedModel",
    "Usage",
    "WorkerLost",
    "__version__",
    "context_text",
    "errors",
    "evals",
    "events",
    "extract",
    "parse_job",
    "parse_method",
    "prompt_tokens",
    "register",
    "register_command",
    "register_dialect",
    "register_equality",
    "register_scheme",
    "search",
    "send_spans",
]


__version__ = version("plait")

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and evaluations have libraries of their own; nothing else here does.
    if name == "NativeEngine":
        from .runtime.engines.native.engine import NativeEngine

        return NativeEngine
    if name == "evals":
        from importlib import import_module

        return import_module(".evals", __name__)
    raise AttributeError(f"module 'plait' has no attribute {name!r}")
