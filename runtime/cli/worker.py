"""`plait worker`: run the jobs of a pool, which come over an MQTT broker.

    plait worker countdown --broker mqtt://host/pool --jobs 4
    plait worker FOLDER --broker mqtts://user@host/pool --ca-file ca.pem     # password: PLAIT_MQTT_PASSWORD

SIGTERM and Ctrl-C hand back what has not begun, and give running jobs `--grace` seconds to end.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

from ..errors import InvalidInput
from ..runtime import Runtime
from .options import add_engine_options, engine_options, named_path, utf8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="countdown", help="as for Runtime: a name, folder, GGUF file")
    parser.add_argument(
        "--broker", required=True, metavar="URL", help="mqtt://HOST/POOL or mqtts://USER@HOST:PORT/POOL"
    )
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="jobs that run at once (4)")
    parser.add_argument("--name", type=utf8, help="the worker's MQTT client id (random)")
    parser.add_argument("--prefix", type=utf8, default="plait", help="of all topics (plait)")
    parser.add_argument("--ca-file", type=named_path, help="certificates that the broker's is checked against")
    parser.add_argument("--cert-file", type=named_path, help="the worker's own certificate")
    parser.add_argument("--key-file", type=named_path, help="and its key")
    parser.add_argument("--packet-bytes", type=int, default=1 << 20, metavar="N", help="the broker's largest message")
    parser.add_argument("--grace", type=float, default=30.0, metavar="SECONDS", help="for running jobs to end (30)")
    parser.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="at the start for a broker (60)")
    add_engine_options(parser)


def run(options: argparse.Namespace) -> int:
    try:
        asyncio.run(_run(options))
    except ImportError as error:
        raise InvalidInput(f"{error}; pip install 'plait[mqtt]'") from None
    return 0


async def _run(options: argparse.Namespace) -> None:
    from ..mqtt.address import Address
    from ..mqtt.worker import Worker

    address = Address.parse(
        options.broker,
        prefix=options.prefix,
        ca_file=options.ca_file,
        cert_file=options.cert_file,
        key_file=options.key_file,
    )
    async with Runtime(options.model, **engine_options(options)) as runtime:
        worker = Worker(
            runtime,
            address,
            capacity=options.jobs,
            packet_bytes=options.packet_bytes,
            grace=options.grace,
            wait=options.wait,
            name=options.name,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        await worker.run()
