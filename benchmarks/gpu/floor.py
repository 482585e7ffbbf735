"""What the card can do at best, measured: the floors that everything else is compared with.

python -m plait.benchmarks.gpu.floor
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

import torch

from .lines import Setting, setting
from .timing import measure, wall_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The card's own limits."""

    copy: float
    """Bytes per second, read and written ones, of a large copy on the device."""
    matmul: float
    """FLOP per second of a large bfloat16 matrix product."""

    def floor_ms(self, num_bytes: float, flops: float = 0.0) -> float:
        """The least time in which so much can be moved and computed."""
        return max(num_bytes / self.copy, flops / self.matmul) * 1e3


def copy_rate(device: torch.device, num_bytes: int) -> float:
    """By a kernel: inside a CUDA graph a plain copy is the copy engine's, which is slower."""
    source = torch.randn(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / measure([lambda: torch.neg(source, out=target)], device, 9).ms * 1e3


def read_rate(device: torch.device, num_bytes: int) -> float:
    """Bytes per second of a sum, which only reads."""
    source = torch.ones(num_bytes // 4, device=device)
    return num_bytes / measure([source.sum], device, 9).ms * 1e3


def matmul_rate(device: torch.device, size: int) -> float:
    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return float(2 * size**3 / measure([lambda: torch.matmul(a, b, out=out)], device, 9).ms * 1e3)


def rates(at: Setting) -> Rates:
    """In about a second."""
    big, size = (1 << 20, 256) if at.is_dry else (4 << 30, 8192)
    return Rates(copy=copy_rate(at.device, big), matmul=matmul_rate(at.device, size))


def card(device: torch.device) -> str:
    """Name, driver and clocks as they are; nothing is set."""
    if device.type != "cuda":
        return "CPU"
    query = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return torch.cuda.get_device_name(device)
    name, driver, now, most, memory, power = (part.strip() for part in done.stdout.splitlines()[0].split(","))
    return f"{name}, driver {driver}, SM clock {now} of {most}, memory clock {memory}, power limit {power}"


def run(at: Setting) -> None:
    book, device = at.book, at.device
    found = rates(at)
    book.add("copy, read + written", value=found.copy / 1e9, unit="GB/s")
    book.add("sum, read", value=read_rate(device, 1 << 20 if at.is_dry else 4 << 30) / 1e9, unit="GB/s")
    book.add("bfloat16 matrix product", value=found.matmul / 1e12, unit="TFLOP/s")
    small = torch.zeros(32, device=device)

    def hundred() -> None:
        for _ in range(100):
            small.add_(1.0)

    book.add("launch, one by one", value=wall_ms(hundred, device) * 10, unit="us", note="host and device")
    book.add("launch, inside a CUDA graph", value=measure([hundred], device).ms * 10, unit="us")
    # Behind the rest, when the clocks are up.
    book.add("card", note=card(device))


def main(arguments: list[str] | None = None) -> None:
    run(setting("floor", __doc__, arguments))


if __name__ == "__main__":
    main()
