"""GLoRIA's and MGCA's training steps in PyTorch, as their code takes them.

A loop over reports in GLoRIA's contrast and over tokens where word-pieces become words;
MGCA's contrast of tokens in one product for the batch. Image towers are residual
networks or vision transformers. Written from the formulas.
Imported only where PyTorch is installed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from experiments.bench.torch_pair import TorchResNet
from experiments.bench.torch_training import Training
from experiments.bench.words import OPTIMIZER, Towers
from experiments.examples.zero_shot_in_pytorch import Layer, ViT
from medjax.nn.resnet import ResNetConfig
from medjax.nn.vit import ViTConfig
from medjax.vlp.towers import bert_config, network_config
from medjax.weights import to_torch


class Maps(TorchResNet):
    """Images to places of the third stage ``[b, r, c]`` and the mean of the last.

    Third: where a class token looks, which there is none of.
    """

    kind = "resnet"

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        self.wide = config.widths[2], config.widths[-1]

    def forward(self, x: torch.Tensor) -> Any:
        x = self.pool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for i in range(1, 4):
            x = getattr(self, f"layer{i}")(x)
        places = x.flatten(2).transpose(1, 2)
        return places, getattr(self, "layer4")(x).mean((2, 3)), None  # noqa: B009


class Patches(ViT):
    """Images to patch tokens, the class token, and where that looks at last."""

    kind = "vit"

    def __init__(self, config: ViTConfig) -> None:
        c = config
        super().__init__(c.width, c.layers, c.heads, c.patch, c.image_size, c.mlp_ratio)
        self.wide = c.width, c.width

    def forward(self, x: torch.Tensor) -> Any:
        asked: list[torch.Tensor] = []
        last: Layer = self.blocks[-1]  # pyright: ignore[reportAssignmentType]
        hook = last.attn.register_forward_pre_hook(lambda _, seen: asked.extend(seen))
        tokens = self.tokens(x)
        hook.remove()
        b, n, d = asked[0].shape
        heads = last.attn.heads
        q, k, _ = last.attn.qkv(asked[0]).reshape(b, n, 3, heads, -1).unbind(2)
        looks = torch.einsum("bhd,bnhd->bhn", q[:, 0], k) * (d // heads) ** -0.5
        return tokens[:, 1:], tokens[:, 0], looks.softmax(2).mean(1)[:, 1:].detach()


def words_of(
    hidden: torch.Tensor, ids: torch.Tensor, continues: Sequence[bool], *, closing: bool
) -> tuple[torch.Tensor, list[int]]:
    """Sums of the pieces of each word, token by token; and how many words there are."""
    rows, counts = [], []
    for states, row in zip(hidden, ids.tolist(), strict=True):
        length = sum(i != 0 for i in row) - (not closing)
        words: list[torch.Tensor] = []
        for state, piece in zip(states[:length], row, strict=False):
            if words and continues[piece]:
                words[-1] = words[-1] + state
            else:
                words.append(state)
        counts.append(len(words))
        rows.append(F.pad(torch.stack(words), (0, 0, 0, len(row) - len(words))))
    return torch.stack(rows), counts


def both_ways(scores: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the diagonal, rows and columns."""
    own = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)


def word_contrast(
    words: torch.Tensor,
    counts: Sequence[int],
    regions: torch.Tensor,
    temps: tuple[float, float, float],
) -> torch.Tensor:
    """GLoRIA's local contrast: one report after the other against all images."""
    columns = []
    for row, count in zip(words, counts, strict=True):
        own = row[:count]
        share = (regions @ own.T).softmax(dim=2)
        weight = (temps[0] * share.transpose(1, 2)).softmax(dim=2)
        cosine = F.cosine_similarity(weight @ regions, own[None], dim=2)
        columns.append((temps[1] * cosine).exp().sum(1).log())
    return both_ways(temps[2] * torch.stack(columns, dim=1))


class Pair(nn.Module):
    """Both towers; what derives from it adds heads and says the loss."""

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        sees = network_config(towers.image)
        kind = Patches if isinstance(sees, ViTConfig) else Maps
        self.image: Any = kind(sees)  # pyright: ignore[reportArgumentType]
        sizes = transformers.BertConfig(**bert_config(towers.text).to_dict())
        self.text = transformers.BertModel(sizes, add_pooling_layer=False)
        if towers.text.layers_summed == 1:
            self.text.set_attn_implementation("eager")
        self.continues = towers.continues.tolist()
        self.wide = self.image.wide

    def read(self, ids: torch.Tensor, **options: Any) -> Any:
        """The report tower."""
        return self.text(input_ids=ids, attention_mask=(ids != 0).long(), **options)

    def take(self, variables: Mapping[str, Any]) -> None:
        """Takes over our weights."""

        def tower(name: str, network: str) -> dict[str, np.ndarray]:
            parts = {k: v[name][network] for k, v in variables.items() if name in v}
            return to_torch(network, parts)  # pyright: ignore[reportArgumentType]

        sees = tower("image", self.image.kind)
        state = {f"image.{k}": v for k, v in sees.items()}
        state |= {f"text.{k}": v for k, v in tower("text", "bert").items()}
        state |= self.heads(variables["params"])
        tensors = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
        found = self.load_state_dict(tensors, strict=False)
        missing = [k for k in found.missing_keys if "num_batches" not in k]
        missing = [k for k in missing if "running" not in k]
        if found.unexpected_keys or missing:
            raise ValueError(f"{found.unexpected_keys} and {missing} do not fit")

    def heads(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The heads' weights by PyTorch's names."""
        raise NotImplementedError


class Gloria(Pair):
    """GLoRIA: sums of the last layers, words, both contrasts."""

    def __init__(self, towers: Towers, temps: tuple[float, float, float]) -> None:
        super().__init__(towers)
        width = bert_config(towers.text).hidden_size
        self.summed, self.temps = towers.text.layers_summed, temps
        self.image_head = nn.Linear(self.wide[-1], width)
        self.local_head = nn.Linear(self.wide[0], width, bias=False)

    def heads(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        head = params["image_head"]["linear1"]
        return {
            "image_head.weight": head["kernel"].T,
            "image_head.bias": head["bias"],
            "local_head.weight": params["local_head"]["kernel"].T,
        }

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        places, pooled, _ = self.image(images)
        states = self.read(ids, output_hidden_states=True).hidden_states
        hidden = torch.stack(states[-self.summed :]).sum(0)
        words, counts = words_of(hidden, ids, self.continues, closing=False)
        real = (ids != 0)[..., None]
        sentence = (hidden * real).sum(1) / real.sum(1)
        whole = F.normalize(self.image_head(pooled)) @ F.normalize(sentence).T
        local = word_contrast(words, counts, self.local_head(places), self.temps)
        return local + both_ways(self.temps[2] * whole)


class Head(nn.Module):
    """Linear, BatchNorm, ReLU, Linear, BatchNorm without scale; of unit norm."""

    def __init__(self, wide: int, hidden: int, features: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(wide, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.linear2 = nn.Linear(hidden, features, bias=False)
        self.bn2 = nn.BatchNorm1d(features, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = x.shape[:-1]
        x = self.linear1(x.reshape(-1, x.shape[-1]))
        x = self.bn2(self.linear2(F.relu(self.bn1(x))))
        return F.normalize(x, dim=1).reshape(*shape, -1)


class Mgca(Pair):
    """MGCA as released: padding is among what words are told from."""

    def __init__(self, towers: Towers, config: Any) -> None:
        super().__init__(towers)
        self.config = config
        text = bert_config(towers.text).hidden_size
        sizes = config.hidden, config.features
        self.image_head = Head(self.wide[-1], *sizes)
        self.text_head = Head(text, *sizes)
        self.patch_head = Head(self.wide[0], *sizes)
        self.word_head = Head(text, *sizes)
        self.prototypes = nn.Parameter(torch.zeros(config.prototypes, config.features))

    def heads(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        state = {"prototypes": params["prototypes"]}
        for name in ("image_head", "text_head", "patch_head", "word_head"):
            for layer in ("linear1", "linear2"):
                state[f"{name}.{layer}.weight"] = params[name][layer]["kernel"].T
            state[f"{name}.bn1.weight"] = params[name]["bn1"]["scale"]
            state[f"{name}.bn1.bias"] = params[name]["bn1"]["bias"]
        return state

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        c = self.config
        places, pooled, seen = self.image(images)
        read = self.read(ids, output_attentions=True)
        looked = read.attentions[-1][:, :, 0].mean(1)
        both = torch.cat([read.last_hidden_state, looked[..., None]], dim=2)
        words, counts = words_of(both, ids, self.continues, closing=True)
        words, looks = words[:, 1:, :-1], words[:, 1:, -1].detach()
        image, report = (
            self.image_head(pooled),
            self.text_head(read.last_hidden_state[:, 0]),
        )
        patches, words = self.patch_head(places), self.word_head(words)
        places = torch.arange(words.shape[1], device=words.device)
        pad = places >= torch.tensor(counts, device=words.device)[:, None] - 1
        even = torch.full_like(patches[..., 0], 1 / patches.shape[1])
        by_patch = even if seen is None else weights_of(seen)
        tokens = self.found_again(words, patches, weights_of(looks), None)
        tokens = tokens + self.found_again(patches, words, by_patch, pad)
        unit = F.normalize(self.prototypes)
        scores = image @ unit.T, report @ unit.T
        codes = [sinkhorn(s.detach() / c.sinkhorn_epsilon, 3) for s in scores]
        swapped = [
            -(code * (other / c.prototype_temperature).log_softmax(1)).sum(1).mean()
            for code, other in zip(codes, scores[::-1], strict=True)
        ]
        instances = both_ways(image @ report.T / c.temperature)
        return instances + tokens + (swapped[0] + swapped[1]) / 2

    def found_again(
        self,
        tokens: torch.Tensor,
        others: torch.Tensor,
        weights: torch.Tensor,
        pad: torch.Tensor | None,
    ) -> torch.Tensor:
        """Contrast of tokens with what they gathered, both directions."""
        tau = self.config.local_temperature
        scores = tokens @ others.transpose(1, 2) / tau
        if pad is not None:
            scores = scores.masked_fill(pad[:, None], -torch.inf)
        gathered = scores.softmax(2) @ others
        # What a ViT's patches gather is left as it is, as in the released code.
        if pad is None or isinstance(self.image, Maps):
            gathered = F.normalize(gathered, dim=2)
        logits = tokens @ gathered.transpose(1, 2) / tau
        own = torch.arange(tokens.shape[1], device=tokens.device)
        own = own.expand(len(tokens), -1)
        cost = F.cross_entropy(logits, own, reduction="none")
        cost = cost + F.cross_entropy(logits.transpose(1, 2), own, reduction="none")
        return (weights * cost).sum() / 2 / len(tokens)


def weights_of(looks: torch.Tensor) -> torch.Tensor:
    """Attention clipped to the quantiles of what is not zero, row by row, of sum 1."""
    shares = []
    for row in looks.clone():
        there = row.nonzero().squeeze(1)
        low, high = (torch.quantile(row[there], q) for q in (0.1, 0.9))
        row[there] = row[there].clip(low, high)
        shares.append(row / row.sum())
    return torch.stack(shares)


def sinkhorn(scores: torch.Tensor, iterations: int) -> torch.Tensor:
    """Assignments of equal share, by scaling columns and rows, ``[b, k]``."""
    mass = scores.exp().T
    mass = mass / mass.sum()
    k, b = mass.shape
    for _ in range(iterations):
        mass = mass / mass.sum(1, keepdim=True) / k
        mass = mass / mass.sum(0, keepdim=True) / b
    return (mass / mass.sum(0, keepdim=True)).T


class Step(Training):
    """A training step of either, with our weights in it."""

    def __init__(
        self, pair: Pair, towers: Towers, variables: Mapping[str, Any]
    ) -> None:
        pair.take(variables)
        super().__init__(pair, OPTIMIZER, towers.batch)
        self.low = towers.image.dtype == "bfloat16"
        self.ids = self.batch["report"].long()

    def loss(self, view: Any) -> torch.Tensor:
        """Loss of the batch, of films that are prepared."""
        images = torch.from_numpy(np.array(view)).permute(0, 3, 1, 2)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.low):
            return self.network(images.to(self.device), self.ids)
