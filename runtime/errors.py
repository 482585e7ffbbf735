"""Every error plait raises on purpose.

    PlaitError
    +-- InvalidInput          the caller's input is wrong; raised before any work, says what to do (also a ValueError)
    |   +-- UnknownModel      no such shipped model, folder, file, model of the hub or scheme
    |   +-- UnsupportedModel  the checkpoint's architecture, RoPE type or quantisation is not supported
    |   +-- PromptTooLong     the prompt does not fit the context window
    |   +-- InvalidBudget     a budget that allows no work at all
    |   +-- InvalidJob        malformed job JSON, unknown method
    |   +-- BrokerUnreachable no connection to the MQTT broker, or it refuses
    +-- UnsupportedByEngine   the method needs a capability this engine lacks; names engines that have it
    +-- BranchBusy            an operation on a branch that is generating right now
    +-- BranchClosed          an operation on a closed branch
    +-- EngineClosed          an operation on a closed engine or runtime
    +-- OutOfBlocks           the KV store cannot hold this even when everything else is evicted
    +-- NonFiniteLogits       the model gave NaN or infinite numbers: its weights are damaged, or overflow
    +-- WorkerLost            a process that runs a part of the model has ended, and the engine with it
    +-- ServerFailed          the server that an engine talks to refuses, fails or cannot be reached
    +-- JobFailed             a job ended by what is none of these: an error on a worker, a wait that others cancelled

Malformed *model output* is never an exception: every method defines an outcome for it. A failing `assert` is a defect
of plait itself.
"""


class PlaitError(Exception):
    """Base of every error plait raises on purpose."""


class InvalidInput(PlaitError, ValueError):
    """The caller's input is wrong; nothing has been started."""


class UnknownModel(InvalidInput):
    """The model string names no shipped model, folder, GGUF file, known scheme or model of the hub that can be had."""


class UnsupportedModel(InvalidInput):
    """The checkpoint is readable but its architecture or RoPE type is not supported."""


class PromptTooLong(InvalidInput):
    """The prompt does not fit into the context window."""


class InvalidBudget(InvalidInput):
    """The budget allows no work."""


class InvalidJob(InvalidInput):
    """The job description cannot be understood."""


class BrokerUnreachable(InvalidInput):
    """The MQTT broker cannot be reached, or refuses."""

    def __init__(self, message: str, *, is_refusal: bool = False) -> None:
        """`is_refusal`: the broker is there, and would say the same again."""
        super().__init__(message)
        self.is_refusal = is_refusal


class UnsupportedByEngine(PlaitError):
    """The engine lacks a capability that the method needs."""


class BranchBusy(PlaitError):
    """The branch is generating; await or cancel that first."""


class BranchClosed(PlaitError):
    """The branch was closed."""


class EngineClosed(PlaitError):
    """The engine or runtime was closed."""


class OutOfBlocks(PlaitError):
    """The KV store is too small for the request even with everything else evicted."""


class OutOfBudget(PlaitError):
    """More tokens were to be injected than the ledger has left. Methods look first (`TracedBranch.room`); a job whose
    method does not is ended with what it has."""


class NonFiniteLogits(PlaitError):
    """The model gave NaN or infinite numbers; the generation ended where it did, others go on."""


class WorkerLost(PlaitError):
    """A process that runs a part of the model has ended; the engine cannot go on and has to be loaded again. Of a job
    in a pool: so many workers ended while they ran it that it is not given to another."""


class ServerFailed(PlaitError):
    """The server that an engine talks to refuses, fails or cannot be reached, after all retries."""


class JobFailed(PlaitError):
    """A job on a worker ended by an error that is not plait's own; the message names it. Or what a method waited for
    was cancelled, and the method was not."""


def told(error: BaseException) -> str:
    """The type of an error, and what it says."""
    return f"{type(error).__name__}: {message(error)}"


def message(error: BaseException) -> str:
    """What an error says, which may be anybody's; something of ours where that raises."""
    try:
        return str(error)
    except Exception:
        return "it cannot say what is wrong"
