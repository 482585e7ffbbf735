"""In what training computes: bfloat16, where that is an instruction."""

from __future__ import annotations

import torch


def has_bfloat16(device: str | torch.device) -> bool:
    """Does it multiply bfloat16? A processor that does not emulates it, and takes eight times as long as in float32."""
    if torch.device(device).type != "cpu":
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "bf16"))  # of x86, of ARM


def autocast(device: str | torch.device) -> torch.autocast:
    """Matrices are multiplied in bfloat16, where the device has it; in float32 elsewhere."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=has_bfloat16(device))
