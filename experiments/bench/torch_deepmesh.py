"""DeepMesh in PyTorch, as published: its networks, and the second stage's loss.

Modules and their parameters have the names of ``qmeng99/DeepMesh`` (``MotionMesh_25d``,
``deformnet``, ``Mesh_2d``), widths are free. The loss takes vertices near a plane out
of all vertices, example by example and plane by plane, as many as there are.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from experiments.bench import torch_heart
from experiments.bench.torch_heart import Step
from medjax.heart.deepmesh import DeepMeshConfig
from medjax.heart.deepmesh_networks import NetworkConfig

EPSILON = 1e-6
Pair = tuple[torch.Tensor, torch.Tensor]
"""An image, or its features, at t and at end-diastole."""


def _block(
    before: int, width: int, *, size: int = 3, stride: int = 1, rank: int = 2
) -> nn.Sequential:
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[rank]
    norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[rank]
    layer = conv(before, width, size, stride, size // 2, bias=False)
    return nn.Sequential(layer, norm(width), nn.ReLU(inplace=True))


def _up(before: int, width: int, *, rank: int = 3) -> nn.Sequential:
    """Twice as large."""
    conv = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[rank]
    norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[rank]
    layer = conv(before, width, 3, 2, 1, output_padding=1, bias=False)
    return nn.Sequential(layer, norm(width), nn.ReLU(inplace=True))


class Mesh2d(nn.Module):
    """Long-axis images with as many channels as there are slices.

    Args:
      config: Widths.
      slices: Of the short axis.
    """

    def __init__(self, config: NetworkConfig, slices: int) -> None:
        super().__init__()
        self.conv1 = _block(1, config.stem)
        self.conv2 = _block(config.stem, slices)

    def forward(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Images ``b 1 h w``, each normalised by itself."""
        first = [self.conv1(image) for image in images]
        return [self.conv2(image) for image in first]


def encoder(config: NetworkConfig, slices: int) -> nn.Sequential:
    """The levels that every image goes through, ``conv_blocks_2D``.

    Args:
      config: Widths.
      slices: Channels of an image.
    """
    levels, before = [], slices
    for i, widths in enumerate(config.levels):
        blocks = []
        for j, width in enumerate(widths):
            blocks.append(_block(before, width, stride=2 if i and not j else 1))
            before = width
        levels.append(nn.Sequential(*blocks))
    return nn.Sequential(*levels)


class MotionMesh25d(nn.Module):
    """Three views at t and at end-diastole to a field over the volume.

    Args:
      config: Widths.
      slices: Of the short axis.
    """

    def __init__(self, config: NetworkConfig, slices: int) -> None:
        super().__init__()
        self.conv_blocks_2D = encoder(config, slices)
        ends = [widths[-1] for widths in config.levels]
        self.conv_list_2D = nn.Sequential(*(_block(2 * n, config.fuse) for n in ends))
        self.conv6 = _block(config.fuse * 3 * len(ends), config.fuse, size=1)
        self.conv7 = _block(config.fuse, config.fuse, size=1)
        widths = config.volume
        self.conv3d9 = _block(1, widths[0], rank=3)
        self.way, number = [], 10
        for before, width in zip(widths, widths[1:], strict=False):
            self._add(number, _block(before, width, stride=2, rank=3), width)
            number += 1
        for before, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self._add(number, _up(before, width), width)
            number += 1
        self.last = f"conv3d{number}"
        self.add_module(self.last, nn.Conv3d(widths[0], 3, 1))

    def _add(self, number: int, first: nn.Module, width: int) -> None:
        for name, layer in (
            (f"conv3d{number}", first),
            (f"conv3d{number}_1", _block(width, width, rank=3)),
        ):
            self.add_module(name, layer)
            self.way.append(name)

    def forward(self, views: Sequence[Pair]) -> torch.Tensor:
        """The field ``b 3 d h w``, along columns, rows and slices, -1 to 1."""
        parts: list[list[torch.Tensor]] = [[] for _ in views]
        features = [list(pair) for pair in views]
        for i, level in enumerate(self.conv_blocks_2D):
            features = [[level(image) for image in pair] for pair in features]
            for part, pair in zip(parts, features, strict=True):
                both = self.conv_list_2D[i](torch.cat(pair, dim=1))
                if i:
                    both = functional.interpolate(
                        both, scale_factor=2**i, mode="bilinear", align_corners=True
                    )
                part.append(both)
        x = self.conv7(self.conv6(torch.cat([x for part in parts for x in part], 1)))
        x = self.conv3d9(x[:, None])
        for name in self.way:
            x = getattr(self, name)(x)
        return torch.tanh(getattr(self, self.last)(x))


class Deformnet(nn.Module):
    """Three views at end-diastole to the field of the first stage.

    Args:
      config: Widths.
      slices: Of the short axis.
    """

    def __init__(self, config: NetworkConfig, slices: int) -> None:
        super().__init__()
        self.conv_blocks_2D = encoder(config, slices)
        self.conv2d9 = _block(3 * config.levels[-1][-1], config.neck)
        self.way, before = [], config.neck
        for number, width in enumerate(config.up, 10):
            for name, layer in (
                (f"conv2d{number}", _up(before, width, rank=2)),
                (f"conv2d{number}_1", _block(width, width)),
            ):
                self.add_module(name, layer)
                self.way.append(name)
            before = width
        self.conv3d17 = _block(1, 3, rank=3)
        self.conv3d18 = nn.Conv3d(3, 3, 1)

    def forward(self, views: Sequence[torch.Tensor]) -> torch.Tensor:
        """The field ``b 3 d h w``, along columns, rows and slices, -1 to 1."""
        codes = [self.conv_blocks_2D(view) for view in views]
        x = self.conv2d9(torch.cat(codes, dim=1))
        for name in self.way:
            x = getattr(self, name)(x)
        return torch.tanh(self.conv3d18(self.conv3d17(x[:, None])))


def hausdorff(
    pixels: torch.Tensor, weight: torch.Tensor, contour: torch.Tensor, diagonal: float
) -> torch.Tensor:
    """The weighted Hausdorff distance of vertices near a plane and a contour.

    Args:
      pixels: Of the vertices.
      weight: Of each.
      contour: Its pixels.
      diagonal: Of the image.
    """
    if not len(pixels) or not len(contour):
        return pixels.new_tensor(0.0 if len(pixels) == len(contour) else diagonal)
    away = (pixels[:, None] - contour[None] + EPSILON).square().sum(-1).sqrt()
    first = (weight * away.min(1)[0]).sum() / (weight.sum() + EPSILON)
    spread = (1 - weight[:, None]) * diagonal + weight[:, None] * away
    soft = (spread + EPSILON).pow(-7.0).mean(0).pow(-1.0 / 7.0)
    return first + soft.mean()


class DeepMeshLoss:
    """The loss of a batch, given a field.

    Args:
      config: Its weights and geometry, those of the preset ``repo``.
      batch: As the system takes it; every plane is there and has a contour.
      neighbours: Receivers and senders of the mesh's edges, both ways.
    """

    def __init__(
        self,
        config: DeepMeshConfig,
        batch: Mapping[str, np.ndarray],
        neighbours: tuple[np.ndarray, np.ndarray],
    ) -> None:
        self.config = config
        data = {k: torch.from_numpy(np.array(v)) for k, v in batch.items()}
        self.sax, self.planes = data["sax"], data["planes"]
        self.vertices = data["vertices_ed"]
        self.slices, self.side = self.sax.shape[2], self.sax.shape[-1]
        self.told, self.source = (
            torch.from_numpy(np.array(ends, np.int64)) for ends in neighbours
        )
        count = self.vertices.shape[1]
        ones = torch.ones(len(self.told))
        self.degree = torch.zeros(count).index_add_(0, self.told, ones)[:, None]
        origin, rows, columns = self.planes[:, 0].unbind(1)
        through = (self.planes[:, self.slices - 1, 0] - origin) / (self.slices - 1)
        self.origin = origin[:, None]
        # Row, column and slice of a voxel to mm, and back.
        self.affine = torch.stack([rows, columns, through], dim=1)
        self.inverse = torch.linalg.inv(self.affine)
        half = [self.side / 2, self.side / 2, self.slices / 2]
        self.half = torch.tensor(half)
        lengths = self.planes[:, :, 1:].square().sum(-1).sqrt()
        contours, there = data["contours"][:, 1], data["contour_mask"][:, 1] > 0
        self.contours = [
            [
                points[mask] / length
                for points, mask, length in zip(*example, strict=True)
            ]
            for example in zip(contours, there, lengths, strict=True)
        ]
        axes = [torch.linspace(-1, 1, n) for n in self.sax.shape[2:]]
        grid = torch.meshgrid(*axes, indexing="ij")
        self.grid = torch.stack(grid[::-1], dim=-1)[None]

    def moved(self, field: torch.Tensor) -> torch.Tensor:
        """Vertices at t, mm: a vertex's row reads the field's last axis."""
        away = torch.bmm(self.vertices - self.origin, self.inverse)
        where = (away - self.half) / self.half
        read = functional.grid_sample(field, where[:, None, None], align_corners=True)
        where = where + read[:, :, 0, 0].transpose(1, 2)
        return torch.bmm(where * self.half + self.half, self.affine) + self.origin

    def plane_distance(self, vertices: torch.Tensor) -> torch.Tensor:
        """Mean over slices and sum over views, mean over examples."""
        total = vertices.new_zeros(())
        for p in range(self.planes.shape[1]):
            plane = self.planes[:, p]
            away = vertices - plane[:, :1]
            steps = plane[:, 1:]
            at = torch.bmm(away, steps.transpose(1, 2))
            at = at / steps.square().sum(-1)[:, None]
            normal = torch.linalg.cross(steps[:, 0], steps[:, 1])
            normal = normal / normal.norm(dim=-1, keepdim=True)
            height = torch.bmm(away, normal[..., None])[..., 0]
            weight = torch.exp(-self.config.tau * height.square())
            at = at.clamp(0.0, self.side - 1.0)
            each = []
            for i in range(len(at)):
                near = height[i].abs() < self.config.within
                each.append(
                    hausdorff(
                        at[i][near],
                        weight[i][near],
                        self.contours[i][p],
                        self.side * 2**0.5,
                    )
                )
            share = self.slices if p < self.slices else 1
            total = total + torch.stack(each).mean() / share
        return total

    def laplacian(self, vertices: torch.Tensor) -> torch.Tensor:
        """Mean distance of a vertex from the mean of its neighbours."""
        total = torch.zeros_like(vertices)
        total = total.index_add(1, self.told, vertices[:, self.source])
        return (total / self.degree - vertices).norm(dim=-1).mean()

    def image(self, field: torch.Tensor) -> torch.Tensor:
        """Mean squared difference of the image at t, warped, and that at ED."""
        grid = self.grid + field.permute(0, 2, 3, 4, 1)
        seen = functional.grid_sample(self.sax[:, 1:], grid, align_corners=True)
        return functional.mse_loss(seen, self.sax[:, :1])

    def __call__(self, field: torch.Tensor) -> torch.Tensor:
        """The weighted sum."""
        vertices = self.moved(field)
        slopes = [
            field.diff(dim=axis).square().sum() / field.shape[axis]
            for axis in (2, 3, 4)
        ]
        smooth = torch.sqrt(0.01 + torch.stack(slopes).sum() / len(field))
        return (
            self.config.plane * self.plane_distance(vertices)
            + self.config.image * self.image(field)
            + self.config.laplacian * self.laplacian(vertices)
            + self.config.smoothness * smooth
        )


def views(batch: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as the networks read them: ``2 b d h w`` of the short axis, ``2 2 b 1 h
    w`` of views, both at end-diastole and t.

    Args:
      batch: As the system takes it.
    """
    sax = torch.from_numpy(np.array(batch["sax"])).transpose(0, 1)
    lax = torch.from_numpy(np.array(batch["lax"])).permute(2, 1, 0, 3, 4)
    return sax.contiguous(), lax[:, :, :, None].contiguous()


def field_of(
    motion: MotionMesh25d, stem: Mesh2d, batch: Mapping[str, np.ndarray]
) -> torch.Tensor:
    """The field of a batch.

    Args:
      motion: The network.
      stem: Of the long-axis images.
      batch: As the system takes it.
    """
    (ed, now), ((ed_2, now_2), (ed_4, now_4)) = views(batch)
    two, two_ed, four, four_ed = stem([now_2, ed_2, now_4, ed_4])
    return motion([(now, ed), (two, two_ed), (four, four_ed)])


def step(
    weights: Mapping[str, np.ndarray],
    config: DeepMeshConfig,
    neighbours: tuple[np.ndarray, np.ndarray],
    batch: Mapping[str, np.ndarray],
) -> Step:
    """Loss and gradients of the second stage.

    Args:
      weights: What it starts from.
      config: Of the preset ``repo``, with any widths.
      neighbours: Receivers and senders of the mesh's edges, both ways.
      batch: As the system takes it; every plane is there and has a contour.
    """
    slices = batch["sax"].shape[2]
    motion, stem = MotionMesh25d(config.network, slices), Mesh2d(config.network, slices)
    judge = DeepMeshLoss(config, batch, neighbours)
    return torch_heart.step(
        (motion, stem), weights, lambda: judge(field_of(motion, stem, batch))
    )
