"""Several processes that train one model, as `torchrun` starts them."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Is this the only process, or the one that writes files?"""
    return os.environ.get("RANK", "0") == "0"


def end_group() -> bool:
    """Leave the process group, if there is one; is this the first process?"""
    import torch

    if not torch.distributed.is_initialized():
        return True
    rank = torch.distributed.get_rank()
    torch.distributed.destroy_process_group()
    return rank == 0
