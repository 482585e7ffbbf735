"""`Collectives`: what all ranks of one engine work out together.

Plain collectives and not `torch.distributed.tensor`: a `DTensor` needs the default process group, which may be that of
somebody else in this process (a trainer's), or of another engine; and with it every operation of a layer goes through
its dispatch, where two sums per layer are all there is to say.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store, TCPStore

CONNECT = timedelta(seconds=60)
"""For ranks that have all loaded their weights to find each other."""
WAIT = timedelta(minutes=30)
"""For the others in one operation; somebody who died is noticed at once."""
_HOST = "127.0.0.1"
_NCCL_SETTINGS = {
    # Ours is to say what becomes of a lost rank: nccl would end this process.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
}
_environment = threading.Lock()


def open_store() -> TCPStore:
    """Where the ranks of a new group find each other: on this machine alone, at a free port."""
    listener = socket.create_server((_HOST, 0))
    port = listener.getsockname()[1]
    return _store(port, is_master=True, master_listen_fd=listener.detach())


def join_store(port: int) -> TCPStore:
    """That of another process."""
    return _store(port, is_master=False)


def _store(port: int, **options: Any) -> TCPStore:
    make: type[TCPStore] = dist.TCPStore  # type: ignore[attr-defined]
    return make(_HOST, port, wait_for_workers=False, timeout=CONNECT, **options)


class Collectives:
    """One rank's part in a group of its own: nccl on CUDA devices, else gloo. All ranks call the same in one order."""

    def __init__(self, store: Store, rank: int, size: int, device: torch.device) -> None:
        """Waits for the other ranks; raises RuntimeError where they do not come."""
        self.size = size
        self._store = store  # what connects later uses it
        self._group = _nccl(store, rank, size) if device.type == "cuda" else _gloo(store, rank, size)
        self._group._set_default_timeout(WAIT)
        self.sum(torch.zeros(1, device=device))  # nccl connects at its first operation

    def sum(self, x: Tensor) -> Tensor:
        """The sum of what the ranks give, bitwise the same on all of them; may be written over x."""
        x = x.contiguous()
        self._group.allreduce([x]).wait()
        return x

    def gather(self, x: Tensor) -> Tensor:
        """(M, W) of each rank -> (size, M, W)."""
        found = x.new_empty(self.size * len(x), *x.shape[1:])
        self._group._allgather_base(found, x.contiguous()).wait()
        return found.view(self.size, *x.shape)

    def abort(self) -> None:
        """Ends what waits for another rank, in whatever thread. With gloo that ends by itself when the other dies."""
        if self._group.name() == "nccl":
            self._group.abort()


def _gloo(store: Store, rank: int, size: int) -> Any:
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=_HOST)]
    options._timeout = CONNECT
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Store, rank: int, size: int) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = WAIT
    with _environ(_NCCL_SETTINGS):
        return dist.ProcessGroupNCCL(store, rank, size, options)


@contextmanager
def _environ(values: dict[str, str]) -> Iterator[None]:
    """There are settings that can be given in no other way."""
    with _environment:
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
