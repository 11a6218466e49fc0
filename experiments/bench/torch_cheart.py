"""CHeart's ``GenCVAE_Seq`` in PyTorch, as published, and its loss.

Modules have the names of ``MengyunQ/CHeart``, sizes are free. (A layer that is never
called is left out, and convolutions have one name instead of two.) Frames are decoded
one after the other, each normalised by itself.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from experiments.bench import torch_heart
from experiments.bench.torch_heart import Step
from medjax.heart.cheart_network import CLASSES, LEVELS, CHeartConfig
from medjax.heart.population import CONDITIONS


class GenCvaeSeq(nn.Module):
    """First frame and conditions to all frames.

    Args:
      config: Sizes; the conditions are told after the LSTM.
    """

    def __init__(self, config: CHeartConfig) -> None:
        super().__init__()
        self.frames = config.frames
        widths = [config.width * 2**i for i in range(LEVELS)]
        self.small = (widths[-1], *(n // 2**LEVELS for n in config.shape))
        flat = math.prod(self.small)
        layers: list[nn.Module] = []
        for before, width in zip(
            [CLASSES + len(CONDITIONS), *widths], widths, strict=False
        ):
            layers += [nn.Conv3d(before, width, 4, 2, 1), nn.BatchNorm3d(width)]
            # The last one's slope was given to a ReLU, which has none.
            last = width == widths[-1]
            layers.append(nn.ReLU(inplace=True) if last else nn.LeakyReLU(0.2))
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        self.linear_means = nn.Linear(flat, config.latent)
        self.linear_log_var = nn.Linear(flat, config.latent)
        self.lstm_cell = nn.LSTMCell(config.latent, config.latent)
        self.fc2 = nn.Linear(config.latent + len(CONDITIONS), flat)
        layers = [nn.Unflatten(1, self.small)]
        for before, width in zip(widths[::-1], [*widths[-2::-1], CLASSES], strict=True):
            layers.append(nn.ConvTranspose3d(before, width, 4, 2, 1))
            layers += [nn.BatchNorm3d(width), nn.LeakyReLU(0.2)]
        self.decoder = nn.Sequential(*layers[:-2])

    def encode(
        self, first: torch.Tensor, conditions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and logarithm of the variance of the posterior.

        Args:
          first: One-hot labels ``b k d h w``.
          conditions: Of each person.
        """
        wide = conditions[:, :, None, None, None].expand(-1, -1, *first.shape[2:])
        h = self.encoder(torch.cat([first, wide], dim=1))
        return self.linear_means(h), self.linear_log_var(h)

    def decode(self, z: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        """Logits ``b t k d h w``.

        Args:
          z: Latent vectors.
          conditions: Of each person.
        """
        hidden = cell = torch.zeros_like(z)
        found = []
        for t in range(self.frames):
            if t:
                hidden, cell = self.lstm_cell(z, (hidden, cell))
            at = torch.cat([hidden if t else z, conditions], dim=-1)
            found.append(self.decoder(self.fc2(at)))
        return torch.stack(found, dim=1)


def loss(
    network: GenCvaeSeq,
    labels: torch.Tensor,
    conditions: torch.Tensor,
    noise: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """Cross-entropy of every frame, and KL, a mean over latent dimensions.

    Args:
      network: In training.
      labels: Codes ``b t d h w``, as long integers.
      conditions: Of each person.
      noise: In place of a draw, ``b z``.
      beta: Weight of KL.
    """
    first = functional.one_hot(labels[:, 0], CLASSES).movedim(-1, 1).float()
    mean, log_variance = network.encode(first, conditions)
    logits = network.decode(mean + torch.exp(0.5 * log_variance) * noise, conditions)
    frames = [
        functional.cross_entropy(logits[:, t], labels[:, t])
        for t in range(logits.shape[1])
    ]
    kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()
    return torch.stack(frames).mean() + beta * kl


def step(
    weights: Mapping[str, np.ndarray],
    config: CHeartConfig,
    batch: Mapping[str, np.ndarray],
    noise: np.ndarray,
) -> Step:
    """Loss and gradients.

    Args:
      weights: What it starts from.
      config: Of the preset ``repo``, of any size.
      batch: ``labels`` and ``conditions``.
      noise: In place of a draw, ``b z``.
    """
    network = GenCvaeSeq(config)
    labels = torch.from_numpy(batch["labels"].astype(np.int64))
    told, drawn = (torch.from_numpy(np.array(x)) for x in (batch["conditions"], noise))
    return torch_heart.step(
        (network,),
        weights,
        lambda: loss(network, labels, told, drawn, beta=config.beta),
    )
