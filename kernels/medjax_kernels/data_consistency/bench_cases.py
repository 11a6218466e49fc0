"""What :mod:`medjax_kernels.bench` times of this operation, and against whom.

Bytes are those of image, maps and result, each once. FLOPs are the algorithm's: two
transforms by FFT cost ``10 log2 n`` per coil pixel and axis, by the thin factor of
``r`` lines ``16 r`` (``8 r`` folded, as in the solve on a Hopper GPU), by the dense
circulant ``8 n``.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from medjax_kernels import data_consistency as dc
from medjax_kernels.bench.case import Case, Contestant, Outputs
from medjax_kernels.data_consistency import reference
from medjax_kernels.data_consistency.shapes import SHAPES, Shape
from medjax_kernels.data_consistency.solve import conjugate_gradient
from medjax_kernels.data_consistency.xla import Precision

LAM, ITERATIONS, STEP = 0.05, 10, 0.9
Operation = Callable[..., Outputs]


def default_shapes(platform: str) -> tuple[str, ...]:
    """What is timed if no shape is named."""
    return ("laptop", "cmr") if platform == "cpu" else ("square", "cmr", "knee")


def problem(shape: Shape, seed: int, *, along_w: bool = False) -> tuple:
    """Random images, maps of unit norm over coils, and masks of ``lines`` each."""
    rng = np.random.default_rng(seed)
    b, c, h, w = shape.batch, shape.coils, shape.height, shape.width
    if along_w:
        h, w = w, h
    image = complex_normal(rng, b, h, w)
    maps = complex_normal(rng, b, c, h, w)
    maps /= np.linalg.norm(maps, axis=1, keepdims=True)
    mask = np.zeros((b, shape.height), np.float32)
    for row in mask:
        row[rng.permutation(shape.height)[: shape.lines]] = 1
    return image, maps, mask[:, None, :] if along_w else mask[:, :, None]


def complex_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Real and imaginary part standard normal."""
    planes = rng.standard_normal((2, *shape), np.float32)
    return (planes[0] + 1j * planes[1]).astype(np.complex64)


def coil_problem(shape: Shape, seed: int) -> tuple:
    """State and data of a cascade, both as coil images and as k-space; maps, mask."""
    _, maps, mask = problem(shape, seed)
    rng = np.random.default_rng((seed, 1))
    coils = [complex_normal(rng, *maps.shape) for _ in range(2)]
    shifted = (np.fft.ifftshift(c, (-2, -1)) for c in coils)
    kspace = [np.fft.fftshift(np.fft.fft2(c, norm="ortho"), (-2, -1)) for c in shifted]
    return *coils, *(k.astype(np.complex64) for k in kspace), maps, mask


def exact_normal(image: Array, maps: Array, mask: Array) -> Array:
    """The definition: both axes, centred."""
    return reference.normal_operator(image, maps, mask[..., None, :, :])


def normal(image: Array, maps: Array, mask: Array, **options: Any) -> Outputs:
    """``A^H A x``."""
    return {"x": dc.normal_operator(image, maps, mask, **options)}


def gradient(image: Array, maps: Array, mask: Array, **options: Any) -> Outputs:
    """The pull-back of the image through the operator: by image and by maps."""
    return pull_back(
        functools.partial(dc.normal_operator, **options), image, maps, mask
    )


def plain_gradient(image: Array, maps: Array, mask: Array) -> Outputs:
    """The same of the definition."""
    return pull_back(exact_normal, image, maps, mask)


def pull_back(
    operator: Callable[..., Array], image: Array, maps: Array, mask: Array
) -> Outputs:
    """Cotangents of image and maps, the image itself being the result's."""
    _, pull = jax.vjp(lambda x, s: operator(x, s, mask), image, maps)
    by_image, by_maps = pull(image)
    return {"by image": by_image, "by maps": by_maps}


def solve(rhs: Array, maps: Array, mask: Array, **options: Any) -> Outputs:
    """Ten iterations of the proximal solve."""
    options |= {"lam": LAM, "iterations": ITERATIONS}
    return {"x": dc.proximal_solve(rhs, maps, mask, **options)}


def plain_solve(
    rhs: Array, maps: Array, mask: Array, *, axes: tuple[int, ...]
) -> Outputs:
    """The same recurrence with the definition's operator."""
    x = conjugate_gradient(
        lambda x: exact_normal(x, maps, mask) + LAM * x,
        rhs,
        axes=axes,
        iterations=ITERATIONS,
        tolerance=0.0,
    )
    return {"x": x}


def cascade(
    coils: Array,
    measured: Array,
    kspace: Array,
    measured_kspace: Array,
    maps: Array,
    mask: Array,
    **options: Any,
) -> Outputs:
    """E2E-VarNet's step on coil images, the identity standing for the network."""
    del kspace, measured_kspace
    refinement = reference.combine(coils, maps)
    options |= {"step_size": STEP}
    return {"c": dc.varnet_update(coils, measured, maps, mask, refinement, **options)}


def plain_cascade(
    coils: Array,
    measured: Array,
    kspace: Array,
    measured_kspace: Array,
    maps: Array,
    mask: Array,
) -> Outputs:
    """The same where its authors define it: the state is k-space."""
    del coils, measured
    refinement = reference.combine(reference.inverse_fourier(kspace), maps)
    m = mask[..., None, :, :]
    return {
        "k": reference.varnet_kspace_update(
            kspace, measured_kspace, maps, m, refinement, STEP
        )
    }


def exact_cascade(
    coils: Array,
    measured: Array,
    kspace: Array,
    measured_kspace: Array,
    maps: Array,
    mask: Array,
) -> Outputs:
    """Both states, each from its own inputs."""
    k, k0 = reference.fourier(coils), reference.fourier(measured)
    k = plain_cascade(coils, measured, k, k0, maps, mask)["k"]
    plain = plain_cascade(coils, measured, kspace, measured_kspace, maps, mask)
    return {"c": reference.inverse_fourier(k), **plain}


def folds(platform: str, s: Shape, precision: Precision) -> bool:
    """Whether the solve per readout position folds its factor: on a Hopper GPU."""
    if platform != "gpu":
        return False
    from medjax_kernels.data_consistency import gpu_solve

    together = gpu_solve.choose_together(s.height, s.coils, s.lines, precision)
    return together is not None


def own(
    operation: Operation, platform: str, s: Shape, copies: int, *, readouts: bool
) -> list[Contestant]:
    """Every implementation of this package; ``copies`` operators' worth of FLOPs."""
    pixels = copies * s.batch * s.coils * s.height * s.width
    fft = round(10 * math.log2(s.height) * pixels)
    thin, dense = 16 * s.lines * pixels, 8 * s.height * pixels

    def make(**options: Any) -> Callable[[], Operation]:
        return lambda: functools.partial(operation, **options)

    found = [
        Contestant("ours", make(lines=s.lines), fft),
        Contestant("xla_fft", make(implementation="xla_fft"), fft),
        Contestant("xla_dft thin", make(implementation="xla_dft", lines=s.lines), thin),
        Contestant("xla_dft dense", make(implementation="xla_dft"), dense),
    ]
    if platform == "cpu":
        return found
    flops, unit = (thin, "float16") if platform == "gpu" else (dense, "bfloat16")
    passes: dict[Precision, int] = {
        "highest": 3 if platform == "gpu" else 6,
        "default": 1,
    }
    for precision, count in passes.items():
        options = {"implementation": platform, "precision": precision, "lines": s.lines}
        name = f"{platform} {precision}"
        work = count * flops // (2 if readouts and folds(platform, s, precision) else 1)
        found.append(Contestant(name, make(**options), work, unit))
    return found


def peers(plain: Operation, torch_name: str, s: Shape, copies: int) -> list[Contestant]:
    """The definition in XLA, and in PyTorch by a function of :mod:`.bench_torch`."""
    pixels = copies * s.batch * s.coils * s.height * s.width
    flops = round(10 * math.log2(s.height * s.width) * pixels)

    def make_torch() -> Operation:
        from medjax_kernels.data_consistency import bench_torch

        return getattr(bench_torch, torch_name)

    found = [Contestant("xla 2-D FFT", lambda: plain, flops, peer="xla")]
    if torch_name:
        modules = ("torch",)
        found.append(
            Contestant("torch.fft", make_torch, flops, "float32", "torch_fft", modules)
        )
    return found


def plain_normal(image: Array, maps: Array, mask: Array) -> Outputs:
    """The definition as a contestant."""
    return {"x": exact_normal(image, maps, mask)}


def cases(shape: str, platform: str) -> list[Case]:
    """The benchmarks of one named shape.

    Args:
        shape: a name of :data:`.shapes.SHAPES`.
        platform: of the chip: its kernel takes part under that name.

    Returns:
        Operator (mask along either axis), its gradient, the ten-step solve in both its
        forms, and the cascade.
    """
    s = SHAPES[shape]
    plane = 8 * s.batch * s.height * s.width
    maps = plane * s.coils
    images = functools.partial(problem, s)
    turned = functools.partial(problem, s, along_w=True)
    readouts = functools.partial(solve, per_readout=True)
    whole = functools.partial(plain_solve, axes=(-2, -1))
    apart = functools.partial(plain_solve, axes=(-2,))
    # Name, ours, the definition, PyTorch's, inputs, bytes, operators' worth of FLOPs.
    once, pulled = 2 * plane + maps, 2 * plane + 2 * maps
    listed = [
        ("normal", normal, plain_normal, "normal", images, once, 1),
        ("normal, mask along w", normal, plain_normal, "normal", turned, once, 1),
        ("gradient", gradient, plain_gradient, "gradient", images, pulled, 2),
        ("solve", solve, whole, "solve", images, once, ITERATIONS),
        ("solve per readout", readouts, apart, "", images, once, ITERATIONS),
        (
            "cascade",
            cascade,
            plain_cascade,
            "cascade",
            functools.partial(coil_problem, s),
            4 * maps,
            1,
        ),
    ]
    return [
        Case(
            name,
            inputs,
            exact_cascade if name == "cascade" else plain,
            moved,
            (
                *own(ours, platform, s, copies, readouts=ours is readouts),
                *peers(plain, torch_name, s, copies),
            ),
        )
        for name, ours, plain, torch_name, inputs, moved, copies in listed
    ]
