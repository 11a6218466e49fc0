"""GLoRIA's local similarity as its training code goes about it, in eager PyTorch.

Written from the definition: one report after another meets all images; its words attend
to the regions (softmax over words, then, times ``temp1``, over regions), are compared
with their contexts, and the cosines' exponentials summed.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from medjax_kernels.word_region.bench_cases import EPS, TEMP1, TEMP2

Tensor = torch.Tensor


def similarity(words: Tensor, regions: Tensor, lengths: list[int]) -> Tensor:
    """Images by reports."""
    columns = []
    for report, length in zip(words, lengths, strict=True):
        word = report[:length].expand(len(regions), -1, -1)
        scores = torch.bmm(word, regions.transpose(1, 2))
        attention = torch.softmax(TEMP1 * torch.softmax(scores, dim=1), dim=2)
        context = torch.bmm(attention, regions)
        cosine = F.cosine_similarity(word, context, dim=2, eps=EPS)
        columns.append(torch.log(torch.exp(TEMP2 * cosine).sum(dim=1)))
    return torch.stack(columns, dim=1)


def gloria(gradient: bool) -> Callable[..., dict[str, Tensor]]:
    """The contestant: forward pass or step."""

    def run(words: Tensor, regions: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        counts = lengths.tolist()
        if not gradient:
            with torch.no_grad():
                return {"similarity": similarity(words, regions, counts)}
        leaves = [a.detach().requires_grad_() for a in (words, regions)]
        logits = 10 * similarity(leaves[0], leaves[1], counts)
        labels = torch.arange(len(logits), device=logits.device)
        loss = F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
        by_words, by_regions = torch.autograd.grad(loss, leaves)
        return {"loss": loss, "words": by_words, "regions": by_regions}

    return run
