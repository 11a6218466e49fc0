"""The formulas once more, as a loop over reports in PyTorch with its own autograd."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.word_region import oracle

torch = pytest.importorskip("torch", reason="PyTorch is installed for parity only")


def loop(words, regions, lengths, temp1=4.0, temp2=5.0, eps=1e-8):
    """One report against all images at a time, cut at its length."""
    columns = []
    for report, length in zip(words, lengths, strict=True):
        e = report[:length]
        scores = torch.einsum("mrd,td->mrt", regions, e)
        share = torch.softmax(scores, dim=2)
        attention = torch.softmax(temp1 * share, dim=1)
        context = torch.einsum("mrt,mrd->mtd", attention, regions)
        dots = (context * e).sum(2)
        norms = context.norm(dim=2) * e.norm(dim=1)
        cosine = dots / norms.clamp(min=eps)
        columns.append(torch.log(torch.exp(temp2 * cosine).sum(1)))
    return torch.stack(columns, dim=1)


def test_equals_a_loop_in_torch():
    b = oracle.batch()._replace(lengths=jnp.array([7, 3, 2, 1], jnp.int32))
    b = b._replace(words=jnp.nan_to_num(b.words))
    words, regions = (
        torch.tensor(np.asarray(a), dtype=torch.float64, requires_grad=True)
        for a in (b.words, b.regions)
    )
    expected = loop(words, regions, b.lengths.tolist())
    expected.backward(torch.tensor(np.asarray(b.cotangent), dtype=torch.float64))
    both = expected.detach().numpy(), (words.grad.numpy(), regions.grad.numpy())
    assert max(oracle.errors(oracle.value_and_gradient("xla_chunked", b), both)) < 1e-6
