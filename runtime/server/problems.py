"""Errors as HTTP answers, in the format of OpenAI's API."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidInput, OutOfBlocks, PlaitError, UnsupportedByEngine, told


class Refused(PlaitError):
    """A request that gets an error for an answer."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, retry: int | None = None
    ) -> None:
        """`retry`: seconds after which it may go better."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = {} if retry is None else {"Retry-After": str(retry)}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"


_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def as_refusal(error: BaseException) -> Refused:
    """What a client is told of an error; of those that are no `PlaitError`, nothing."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, InvalidInput | UnsupportedByEngine | OutOfBlocks):  # never goes better
        return Refused(400, str(error), code=type(error).__name__)
    if isinstance(error, PlaitError):
        return Refused(500, str(error), code=type(error).__name__)
    return Refused(500, "internal error")


def as_event(error: BaseException) -> str:
    """The same, as a `Failed` event tells it."""
    return told(error) if isinstance(error, PlaitError) else str(as_refusal(error))
