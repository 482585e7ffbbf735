"""Muon (arXiv 2502.16982): alone, with matrices of equal shape turned together, on a GPU by a tenth of the kernels; and
beside AdamW, as one optimizer of a whole model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from .precision import has_bfloat16


class StackedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with `match_rms_adamw` and Nesterov momentum: the same updates, states and options."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update; no closure is called."""
        for group in self.param_groups:
            _update(group, self.state)


class MuonWithAdamW(torch.optim.Optimizer):
    """The matrices inside a model's layers by Muon, all else (embeddings, output layer, norms) by AdamW."""

    def __init__(
        self, model: Any, *, lr: float, weight_decay: float, betas: tuple[float, float], eps: float = 1e-8
    ) -> None:
        """`model`: of transformers. `weight_decay`: of the matrices."""
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are {betas}: from 0 to less than 1 is allowed")
        tables = {id(model.get_output_embeddings()), id(model.get_input_embeddings())}
        linear = [m for m in model.modules() if isinstance(m, nn.Linear) and id(m) not in tables]
        matrices = [m.weight for m in linear if m.weight.requires_grad]
        known = {id(weight) for weight in matrices}
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        muon = {"momentum": 0.95, "ns_coefficients": (3.4445, -4.775, 2.0315), "ns_steps": 5, "eps": 1e-7}
        groups = [
            {"params": matrices, "weight_decay": weight_decay, "betas": None, **muon},
            {"params": others, "weight_decay": 0.0, "betas": betas, "eps": eps},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update; no closure is called."""
        for group in self.param_groups:
            if group["betas"] is None:
                _update(group, self.state)
            else:
                self._adamw(group)

    def _adamw(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": torch.zeros(()), **zeros}
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _update(group: dict[str, Any], states: dict[Tensor, Any]) -> None:
    """One update of a group of matrices, those of equal shape together."""
    alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for parameter in group["params"]:
        if parameter.grad is not None:
            alike[parameter.shape].append(parameter)
    for shape, parameters in alike.items():
        _update_alike(group, shape, parameters, states)


def _update_alike(
    group: dict[str, Any], shape: torch.Size, parameters: list[Tensor], states: dict[Tensor, Any]
) -> None:
    """One update of matrices of equal shape."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for parameter in parameters:
        if not states[parameter]:
            states[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    momenta = [states[parameter]["momentum_buffer"] for parameter in parameters]
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
