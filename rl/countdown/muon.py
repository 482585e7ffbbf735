"""Muon whose matrices of equal shape are orthogonalised together: on a GPU by a tenth of the kernels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .precision import has_bfloat16


class StackedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with `match_rms_adamw` and Nesterov momentum: the same updates, states and options."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update; no closure is called."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                self._step(group, shape, parameters)

    def _step(self, group: dict[str, Any], shape: torch.Size, parameters: list[Tensor]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))
        turned = orthogonal(updates, group["ns_coefficients"], group["ns_steps"], group["eps"]).to(updates.dtype)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        # The root mean square of an update is then 0.2 of the rate, whatever the shape (arXiv 2502.16982, section 2.2).
        torch._foreach_add_(parameters, list(turned.unbind()), alpha=-0.2 * group["lr"] * max(shape) ** 0.5)


def orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Matrices [.., rows, columns] with their singular values moved towards 1, by Newton-Schulz steps in bfloat16 (in
    float32 where that is the faster)."""
    a, b, c = coefficients
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.bfloat16() if has_bfloat16(x.device) else x.float()
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
