"""The operation as fastMRI's code would run it, in eager PyTorch.

Written from the definition of its blocks: ``fft2c`` is an inverse shift, an orthonormal
2-D transform and a shift; ``sens_expand`` multiplies by the maps and transforms,
``sens_reduce`` transforms back and sums over coils. (Its own code does the shifts by
``narrow`` and ``cat`` on real views; ``torch.fft``'s are at least as fast.)
"""

import torch

from medjax_kernels.data_consistency.bench_cases import ITERATIONS, LAM, STEP

Tensors = dict[str, torch.Tensor]
PLANE = (-2, -1)


def fft2c(x: torch.Tensor) -> torch.Tensor:
    """Centred, orthonormal."""
    x = torch.fft.fft2(torch.fft.ifftshift(x, PLANE), norm="ortho")
    return torch.fft.fftshift(x, PLANE)


def ifft2c(k: torch.Tensor) -> torch.Tensor:
    """Its inverse."""
    k = torch.fft.ifft2(torch.fft.ifftshift(k, PLANE), norm="ortho")
    return torch.fft.fftshift(k, PLANE)


def expand(x: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """``F S x``."""
    return fft2c(maps * x[:, None])


def reduce(k: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """``S^H F^H k``."""
    return torch.sum(maps.conj() * ifft2c(k), dim=1)


def apply(x: torch.Tensor, maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``A^H A x``."""
    return reduce(mask[:, None] * expand(x, maps), maps)


def normal(image: torch.Tensor, maps: torch.Tensor, mask: torch.Tensor) -> Tensors:
    """The normal operator."""
    return {"x": apply(image, maps, mask)}


def gradient(image: torch.Tensor, maps: torch.Tensor, mask: torch.Tensor) -> Tensors:
    """The pull-back of the image, by image and by maps.

    PyTorch's gradient of a real loss is the conjugate of JAX's cotangent, which for the
    conjugate of the cotangent gives the conjugate of the result.
    """
    x, s = (a.detach().requires_grad_() for a in (image, maps))
    by_x, by_s = torch.autograd.grad(apply(x, s, mask), (x, s), image.conj())
    return {"by image": by_x.conj(), "by maps": by_s.conj()}


def solve(rhs: torch.Tensor, maps: torch.Tensor, mask: torch.Tensor) -> Tensors:
    """Conjugate gradients, one recurrence per image, a fixed number of steps."""

    def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.sum((a.conj() * b).real, dim=PLANE, keepdim=True)

    x, r, p = torch.zeros_like(rhs), rhs, rhs
    size = inner(r, r)
    for _ in range(ITERATIONS):
        ap = apply(p, maps, mask) + LAM * p
        alpha = size / inner(p, ap)
        x, r = x + alpha * p, r - alpha * ap
        last, size = size, inner(r, r)
        p = r + size / last * p
    return {"x": x}


def cascade(
    coils: torch.Tensor,
    measured: torch.Tensor,
    kspace: torch.Tensor,
    measured_kspace: torch.Tensor,
    maps: torch.Tensor,
    mask: torch.Tensor,
) -> Tensors:
    """E2E-VarNet's block on its own state, k-space; no network between."""
    del coils, measured
    zero = torch.zeros((), dtype=kspace.dtype, device=kspace.device)
    sampled = mask[:, None].bool()
    consistency = torch.where(sampled, kspace - measured_kspace, zero) * STEP
    refinement = expand(reduce(kspace, maps), maps)
    return {"k": kspace - consistency - refinement}
