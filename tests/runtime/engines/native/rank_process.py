"""A process that is rank 1 (and 2, ...) of one model after the other, so that tests of many models start one."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import IO, Any

from plait.runtime.engines.native.parallel.messages import Start
from plait.runtime.engines.native.parallel.worker import serve


def _serve(start: Start, orders: SimpleQueue[Any], channel: IO[str]) -> None:
    try:
        serve(start, orders, channel)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main() -> None:
    queues: list[SimpleQueue[Any]] = []
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)
        while True:
            try:
                order = pickle.load(sys.stdin.buffer)
            except EOFError:
                os._exit(0)
            if isinstance(order, Start):
                if order.shard.rank == 1:
                    queues = []
                queues.append(SimpleQueue())
                threading.Thread(target=_serve, args=(order, queues[-1], channel), daemon=True).start()
            else:
                for queue in queues:
                    queue.put(copy.deepcopy(order))  # a plan serves one thread


if __name__ == "__main__":
    main()
