"""GLoRIA's two losses in PyTorch, report by report, written from the paper alone."""

from collections.abc import Mapping

import torch
from torch.nn import functional as F


def losses(
    image: torch.Tensor,
    text: torch.Tensor,
    regions: torch.Tensor,
    words: torch.Tensor,
    mask: torch.Tensor,
    *,
    temps: tuple[float, float, float],
) -> Mapping[str, torch.Tensor]:
    """Local and global contrast, both directions of each added.

    Args:
        image: of radiographs, [b, d].
        text: of reports, [b, d].
        regions: of radiographs, [b, r, d].
        words: of reports, [b, t, d].
        mask: words that are there, [b, t].
        temps: factor between the softmaxes, of the cosines, and of both similarities.
    """
    columns = []
    for report, present in zip(words, mask, strict=True):
        own = report[present]
        scores = regions @ own.T
        attention = (temps[0] * scores.softmax(dim=2)).softmax(dim=1)
        context = attention.transpose(1, 2) @ regions
        cosine = F.cosine_similarity(context, own[None], dim=2)
        columns.append((temps[1] * cosine).logsumexp(dim=1))
    wholes = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    return {
        "local": both_ways(temps[2] * torch.stack(columns, dim=1)),
        "global": both_ways(temps[2] * wholes),
    }


def both_ways(scores: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the diagonal, rows and columns."""
    own = torch.arange(len(scores))
    return F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)
