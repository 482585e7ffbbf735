"""Where a pool is: `mqtt://USER:PASSWORD@HOST:PORT/POOL`, and the names of its topics."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import InvalidInput
from ..passwords import without_password
from .messages import is_id

PORTS = {"mqtt": 1883, "mqtts": 8883}
_OURS = re.compile(r"mqtt[^/:]*:", re.IGNORECASE)
_LOGIN = re.compile(r"//[^/?#@]*:[^/?#@]*@")
PASSWORD_VARIABLE = "PLAIT_MQTT_PASSWORD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A broker, and a pool on it."""

    host: str
    port: int
    pool: str
    prefix: str = "plait"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}/{self.pool}"

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        prefix: str = "plait",
        user: str | None = None,
        password: str | None = None,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
    ) -> Address:
        """The password may also stand in the environment (`PLAIT_MQTT_PASSWORD`). `mqtts` checks the broker's
        certificate against `ca_file`, or the system's; `cert_file` and `key_file` are the client's own.
        Raises `InvalidInput`."""
        for option, text in (("prefix", prefix), ("user", user or ""), ("password", password or "")):
            if not isinstance(text, str):
                raise InvalidInput(
                    f"{option} is a text, not {text!r}" if option != "password" else f"{option} is a text"
                )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # It says parts of the address, which may be a password's.
            raise _no_address(url) from None
        if port is None:
            port = PORTS.get(parts.scheme, 0)
        pool = unquote(parts.path.strip("/")) or "default"
        if not port or not parts.hostname or parts.query or parts.fragment or "@" in parts.path:
            raise _no_address(url)
        for name, value in (("pool", pool), ("prefix", prefix)):
            if not all(map(is_id, value.split("/"))):
                raise InvalidInput(f"{name} {value!r}: letters, digits and . _ - only, in parts between slashes")
        _check_apart(f"{prefix}/{pool}".split("/"))
        files = (ca_file, cert_file, key_file)
        if parts.scheme == "mqtt" and any(files):
            raise InvalidInput("certificates are for mqtts:// addresses")
        user = user or unquote(parts.username or "") or None
        password = password or unquote(parts.password or "") or None
        if user:
            password = password or os.environ.get(PASSWORD_VARIABLE)
        elif password:
            raise InvalidInput("a password without a user: mqtts://USER@HOST/POOL, or the option user")
        address = cls(
            host=parts.hostname,
            port=port,
            pool=pool,
            prefix=prefix,
            user=user,
            password=password,
        )
        return address if parts.scheme == "mqtt" else replace(address, tls=_tls(*files))

    def topic(self, *levels: str) -> str:
        return "/".join((self.prefix, self.pool, *levels))

    def levels(self, topic: str) -> list[str]:
        """What stands in a topic behind the pool; nothing if it is none of ours."""
        root = self.topic("")
        return topic[len(root) :].split("/") if topic.startswith(root) else []


def _check_apart(root: list[str]) -> None:
    """Raise `InvalidInput` for a pool below another one whose workers would take its messages for theirs: they read
    `jobs/+/+` and `orders/NAME/+/+`, and a pool has two levels at least."""
    below = root[2:]
    for kind, end in (("jobs", below[-1:]), ("orders", below[-1:]), ("orders", below[-2:-1])):
        if end == [kind]:
            pool = "/".join(root)
            raise InvalidInput(f"what is sent in the pool {pool!r} would be {kind} of the one above: call it otherwise")


def _no_address(url: str) -> InvalidInput:
    return InvalidInput(
        f"{without_password(url)!r} is no address of a broker: mqtt://HOST/POOL, or "
        f"mqtts://USER:PASSWORD@HOST:PORT/POOL (in a password, / ? # @ are %2F %3F %23 %40)"
    )


def refuse_password(model: str) -> None:
    """Raises `InvalidInput` for the name of a model that is not to be written down: an address with a password, or one
    of a pool that is malformed."""
    if _OURS.match(model):
        Address.parse(model)
    if _LOGIN.search(model):
        raise InvalidInput("no passwords in addresses, which are written down: a pool's stands in PLAIT_MQTT_PASSWORD")


def _tls(ca_file: str | Path | None, cert_file: str | Path | None, key_file: str | Path | None) -> ssl.SSLContext:
    if key_file is not None and cert_file is None:
        raise InvalidInput("key_file is the key of a cert_file: there is none")
    for option, file in (("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)):
        try:
            if file is not None:
                Path(file).open("rb").close()
        except (OSError, ValueError, TypeError) as error:
            raise InvalidInput(f"{option} {str(file)[:200]!r}: {getattr(error, 'strerror', None) or error}") from None
    said = f"ca_file {str(ca_file)!r}"
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if cert_file is not None:
            said = f"cert_file {str(cert_file)!r}, key_file {str(key_file)!r}"
            context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"{said}: {error}") from None
    return context
