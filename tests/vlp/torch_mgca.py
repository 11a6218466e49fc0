"""MGCA's three losses in PyTorch, pair by pair, with what its code does by the way."""

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from tests.vlp.torch_gloria import both_ways


def losses(
    image: torch.Tensor,
    text: torch.Tensor,
    patches: torch.Tensor,
    words: torch.Tensor,
    directions: torch.Tensor,
    *,
    mask: torch.Tensor,
    word_looks: torch.Tensor,
    patch_looks: torch.Tensor | None,
    mask_pads: bool,
    unit_patches: bool,
) -> Mapping[str, torch.Tensor]:
    """Instances, tokens and prototypes; arguments as ``medjax.vlp.mgca.Compared``.

    Args:
        image: [b, d], not normalised, like all features here.
        text: [b, d].
        patches: [b, r, d].
        words: [b, t, d].
        directions: of the prototypes, [k, d].
        mask: words that are there, [b, t].
        word_looks: attention to words, [b, t].
        patch_looks: attention to patches, [b, r]; None: all alike.
        mask_pads: without it padding is what words are told apart from.
        unit_patches: whether what patches gather is normalised.
    """
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    patches, words = F.normalize(patches, dim=2), F.normalize(words, dim=2)
    local = []
    for i, there in enumerate(mask):
        kept = there if mask_pads else torch.ones_like(there)
        weights = clipped(word_looks[i])[kept]
        local.append(found_again(words[i][kept], patches[i], weights, unit=True))
        even = torch.full((len(patches[i]),), 1 / len(patches[i]), dtype=image.dtype)
        weights = even if patch_looks is None else clipped(patch_looks[i])
        local.append(
            found_again(patches[i], words[i][there], weights, unit=unit_patches)
        )
    unit = F.normalize(directions, dim=1)
    by_image, by_text = image @ unit.T, text @ unit.T
    swapped = [
        -(balanced(one.detach()) * (other / 0.2).log_softmax(1)).sum(1).mean()
        for one, other in ((by_image, by_text), (by_text, by_image))
    ]
    return {
        "instances": both_ways(image @ text.T / 0.07),
        "tokens": torch.stack(local).sum() / len(image),
        "prototypes": torch.stack(swapped).mean(),
    }


def clipped(looks: torch.Tensor) -> torch.Tensor:
    """Attention clipped to the 10th and 90th percentile of what is not zero."""
    weights, there = looks.clone(), looks.nonzero().squeeze(1)
    low, high = (torch.quantile(looks[there], q) for q in (0.1, 0.9))
    weights[there] = looks[there].clip(low, high)
    return weights / weights.sum()


def found_again(
    tokens: torch.Tensor, others: torch.Tensor, weights: torch.Tensor, *, unit: bool
) -> torch.Tensor:
    """Weighted cross-entropy of tokens and what they gathered, both directions."""
    gathered = (tokens @ others.T / 0.1).softmax(1) @ others
    gathered = F.normalize(gathered, dim=1) if unit else gathered
    logits, own = tokens @ gathered.T / 0.1, torch.arange(len(tokens))
    rows = F.cross_entropy(logits, own, reduction="none")
    columns = F.cross_entropy(logits.T, own, reduction="none")
    return (weights * (rows + columns)).sum() / 2


def balanced(scores: torch.Tensor) -> torch.Tensor:
    """Three rounds of Sinkhorn and Knopp on exp(scores / 0.05), [b, k]."""
    mass = (scores / 0.05).exp().T
    mass = mass / mass.sum()
    k, b = mass.shape
    for _ in range(3):
        mass = mass / mass.sum(1, keepdim=True) / k
        mass = mass / mass.sum(0, keepdim=True) / b
    return (mass / mass.sum(0, keepdim=True)).T
