"""The losses as PyTorch's training codes compute them, and adapters to fused ones.

``softmax`` and ``sigmoid`` are written from the definitions of OpenCLIP's losses: whole
logits in the features' dtype, ``cross_entropy`` against the diagonal in both
directions; ``-logsigmoid`` of signed logits. The adapters follow their packages'
public functions: Inf-CL 1.2.1, siglip-kernel 0.1.2, Liger 0.8.5, none of which has code
for a CPU. A loss that a package averages over directions is doubled, to be the sum.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from medjax_kernels.contrastive.bench_cases import BIAS

Tensor = torch.Tensor
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Contestant = Callable[..., dict[str, Tensor]]


def enter(loss: Loss, gradient: bool) -> Contestant:
    """A contestant from a loss of features and scale; further inputs are ignored."""

    def run(x: Tensor, y: Tensor, *rest: Tensor) -> dict[str, Tensor]:
        scale = rest[-1]
        if not gradient:
            with torch.no_grad():
                return {"loss": loss(x, y, scale)}
        leaves = [a.detach().requires_grad_() for a in (x, y, scale)]
        value = loss(leaves[0], leaves[1], leaves[2])
        by_x, by_y, by_scale = torch.autograd.grad(value, leaves)
        return {"loss": value, "x": by_x, "y": by_y, "scale": by_scale}

    return run


def softmax(gradient: bool) -> Contestant:
    """OpenCLIP's."""

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        logits = scale.to(x.dtype) * x @ y.T
        labels = torch.arange(len(x), device=x.device)
        return F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)

    return enter(loss, gradient)


def sigmoid(gradient: bool) -> Contestant:
    """OpenCLIP's SigLIP."""

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        logits = scale.to(x.dtype) * x @ y.T + BIAS
        signs = 2 * torch.eye(len(x), dtype=x.dtype, device=x.device) - 1
        return -F.logsigmoid(signs * logits).sum() / len(x)

    return enter(loss, gradient)


def inf_cl(gradient: bool) -> Contestant:
    """Inf-CL's tiles; one direction a call."""
    from inf_cl import cal_flash_loss  # pyright: ignore[reportMissingImports]

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        one = cal_flash_loss(x, y, scale=scale)
        return one.mean() + cal_flash_loss(y, x, scale=scale).mean()

    return enter(loss, gradient)


def siglip_kernel(gradient: bool) -> Contestant:
    """siglip-kernel's own choice of variant."""
    from siglip_kernel import (  # pyright: ignore[reportMissingImports]
        fused_siglip_loss,
    )

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        bias = torch.tensor(BIAS, device=x.device)
        return fused_siglip_loss(x, y, torch.log(scale), bias)

    return enter(loss, gradient)


def liger(gradient: bool) -> Contestant:
    """Liger's fused linear cross-entropy; one direction a call."""
    from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
        LigerFusedLinearCrossEntropyLoss,
    )

    cross_entropy = LigerFusedLinearCrossEntropyLoss()

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        labels = torch.arange(len(x), device=x.device)
        one, other = (
            cross_entropy(b, scale.to(a.dtype) * a, labels) for a, b in ((x, y), (y, x))
        )
        return one + other

    return enter(loss, gradient)
