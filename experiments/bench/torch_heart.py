"""What `heart` measures itself against, in PyTorch, as one would write it by hand."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from experiments.bench.measure import growth

Step = Callable[[], tuple[torch.Tensor, dict[str, np.ndarray]]]
"""Gives the loss, and gradients by name."""
CHUNK = 512
"""Points whose distances to all others are in memory together."""


def _contestant(
    f: Callable[[], tuple[torch.Tensor, torch.Tensor]], share: float = 1.0
) -> dict[str, Any]:
    """Fields of a `Contestant`, of a function that gives a value and a gradient."""
    value, gradient = f()
    return {
        "work": f,
        "values": (value.detach().numpy(), gradient.numpy()),
        "temporary": growth(f),
        "share": share,
    }


def step(
    networks: Sequence[nn.Module],
    weights: Mapping[str, np.ndarray],
    loss: Callable[[], torch.Tensor],
) -> Step:
    """Forward and backward of networks that are in training.

    Args:
      networks: Whose parameters' names differ.
      weights: What they start from; others are left aside.
      loss: Of the batch.
    """
    for network in networks:
        own = {k: np.array(weights[k]) for k in network.state_dict()}
        network.load_state_dict({k: torch.from_numpy(v) for k, v in own.items()})
        network.train()
    named = dict(pair for network in networks for pair in network.named_parameters())

    def run() -> tuple[torch.Tensor, dict[str, np.ndarray]]:
        for parameter in named.values():
            parameter.grad = None
        value = loss()
        value.backward()
        found = {k: p.grad for k, p in named.items() if p.grad is not None}
        return value.detach(), {k: g.numpy() for k, g in found.items()}

    return run


def winding(
    vertices: np.ndarray,
    faces: np.ndarray,
    surface: np.ndarray,
    planes: np.ndarray,
    *,
    side: int,
    pixels: int,
) -> dict[str, Any]:
    """The winding number at pixels' centres, as a sum of dipoles at vertices.

    Args:
      vertices: mm.
      faces: Corners.
      surface: 0 inner, 1 outer wall.
      planes: Origins and steps, mm.
      side: Pixels of an image's rows and columns.
      pixels: Of each plane, evenly spread; the time is of so many.
    """
    stride = max(1, round(side / pixels**0.5))
    grid = torch.arange(stride // 2, side, stride, dtype=torch.float32)
    row, column = torch.meshgrid(grid, grid, indexing="ij")
    steps = torch.stack([row.reshape(-1), column.reshape(-1)], dim=-1)
    where = [
        torch.from_numpy(p[0]) + steps @ torch.from_numpy(p[1:])
        for p in np.array(planes)
    ]
    corners = torch.from_numpy(faces.astype(np.int64))
    sign = torch.from_numpy(np.where(surface == 1, 1.0, -1.0).astype(np.float32))
    start = torch.from_numpy(np.array(vertices))

    def f() -> tuple[torch.Tensor, torch.Tensor]:
        v = start.clone().requires_grad_(True)
        a, b, c = (v[corners[:, i]] for i in range(3))
        each = torch.linalg.cross(b - a, c - a) / 6
        area = torch.zeros_like(v)
        for i in range(3):
            area = area.index_add(0, corners[:, i], each)
        area = area * sign[:, None]
        total = torch.zeros(())
        gradient = torch.zeros_like(v)
        for points in where:
            away = v[None] - points[:, None]
            square = (away * away).sum(-1)
            dipoles = (away * area[None]).sum(-1) / square.clamp_min(1e-6) ** 1.5
            found = dipoles.sum(-1).div(4 * torch.pi).clamp(0, 1).sum()
            # Plane by plane, or all their pairs would be held.
            (part,) = torch.autograd.grad(found, v, retain_graph=True)
            gradient += part
            total = total + found.detach()
        return total * (side * side / len(steps)), gradient

    # Where the number jumps its gradient is another one than the area's.
    found = _contestant(f, share=len(steps) / side**2)
    return found | {"values": found["values"][:1]}


def nearest(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
    """Squared distances to the nearest, weighed and summed.

    Args:
      x: Points.
      y: Others.
      weight: Of each point.
    """
    points, others, w = (torch.from_numpy(np.array(a)) for a in (x, y, weight))

    def f() -> tuple[torch.Tensor, torch.Tensor]:
        a, b = points.clone().requires_grad_(True), others.clone().requires_grad_(True)
        with torch.no_grad():
            # The exact form: the expanded one loses hundredths of a millimetre.
            mode = "donot_use_mm_for_euclid_dist"
            found = [
                torch.cdist(part, b, compute_mode=mode).argmin(1)
                for part in a.split(CHUNK)
            ]
        value = (w * (a - b[torch.cat(found)]).square().sum(-1)).sum()
        value.backward()
        assert b.grad is not None
        return value, b.grad

    return _contestant(f)


def sampling(volume: np.ndarray, at: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
    """Trilinear values at points, weighed and summed.

    Args:
      volume: ``d h w c``.
      at: Voxel coordinates along d, h and w, inside.
      weight: Of each point and channel.
    """
    data = torch.from_numpy(np.moveaxis(volume, -1, 0).copy())[None]
    size = torch.tensor(volume.shape[:3], dtype=torch.float32)
    points, w = torch.from_numpy(np.array(at)), torch.from_numpy(weight.T.copy())

    def f() -> tuple[torch.Tensor, torch.Tensor]:
        image, p = (
            data.clone().requires_grad_(True),
            points.clone().requires_grad_(True),
        )
        # PyTorch counts from -1 to 1, and names the last axis first.
        grid = (2 * p / (size - 1) - 1).flip(-1)[None, None, None]
        found = functional.grid_sample(image, grid, align_corners=True)
        value = (w * found[0, :, 0, 0]).sum()
        value.backward()
        assert p.grad is not None
        return value, p.grad

    return _contestant(f)


def message(
    weights: Mapping[str, Any],
    x: np.ndarray,
    edges: np.ndarray,
    senders: np.ndarray,
    receivers: np.ndarray,
) -> dict[str, Any]:
    """A step of messages, summed by ``index_add_``.

    Args:
      weights: Of `medjax.nn.graph.MessageStep`.
      x: Features of vertices.
      edges: Features of edges.
      senders: Of every edge.
      receivers: Of every edge.
    """
    p = {
        layer: {
            k: torch.from_numpy(np.array(v)).requires_grad_(True) for k, v in w.items()
        }
        for layer, w in weights.items()
    }
    source, told = (torch.from_numpy(i.astype(np.int64)) for i in (senders, receivers))
    given, start = torch.from_numpy(np.array(edges)), torch.from_numpy(np.array(x))
    count = torch.zeros(len(x)).index_add_(0, told, torch.ones(len(told)))[:, None]

    def dense(name: str, value: torch.Tensor) -> torch.Tensor:
        return functional.linear(value, p[name]["kernel"].T, p[name].get("bias"))

    def norm(name: str, value: torch.Tensor) -> torch.Tensor:
        layer, width = p[name], value.shape[-1:]
        return functional.layer_norm(value, width, layer["scale"], layer["bias"])

    def f() -> tuple[torch.Tensor, torch.Tensor]:
        features = start.clone().requires_grad_(True)
        for layer in p.values():
            for tensor in layer.values():
                tensor.grad = None
        h = norm("norm", features)
        heard = dense("sender", h)[source] + dense("edge", given)
        each = functional.silu(heard + dense("receiver", h)[told])
        total = torch.zeros_like(h).index_add_(0, told, each)
        mean = norm("message_norm", dense("message", total / count))
        update = functional.silu(dense("update_0", torch.cat([h, mean], dim=-1)))
        value = (features + dense("update_1", update)).square().mean()
        value.backward()
        assert features.grad is not None
        return value, features.grad

    return _contestant(f)
