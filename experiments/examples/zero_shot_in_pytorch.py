"""Zero-shot scores in PyTorch, from the folder that a run exports and nothing else.

::

    python zero_shot_in_pytorch.py runs/imitate-tiny/towers film1.png film2.png \\
        --classes Pneumonia "Pleural Effusion"

Needs torch, transformers, safetensors, numpy and Pillow, and not medjax: copy it. The
folder holds both towers under the names of torchvision or timm and of Hugging Face, the
heads, the tokenizer, the sentences of each class, and in ``preparation.json`` how a
film and a text become input. Films are 8-bit images here (PNG, JPEG); for DICOM and 16
bits read them with ``medjax.data.images.read_image``. Scores equal medjax's to 1e-4.
"""

# %% The two image towers, under torchvision's and timm's names
import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A padded convolution without bias."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """A residual block, basic or bottleneck."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        if bottleneck:
            self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.bottleneck = bottleneck
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """torchvision's ResNet with ``fc`` replaced by the identity."""

    def __init__(
        self, blocks: tuple[int, ...], bottleneck: bool, width: int, stem: str
    ) -> None:
        super().__init__()
        channels, small = width, stem == "small"
        self.conv1 = conv(3, channels, 3 if small else 7, 2)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        for i, count in enumerate(blocks):
            stage, wide = nn.Sequential(), width * 2**i
            for b in range(count):
                stride = 2 if i > 0 and b == 0 else 1
                stage.append(Block(channels, wide, stride, bottleneck))
                channels = wide * (4 if bottleneck else 1)
            setattr(self, f"layer{i + 1}", stage)

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """After each of the four stages."""
        x, maps = self.pool(torch.relu(self.bn1(self.conv1(x)))), []
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps(x)[-1].mean((2, 3))


class Attention(nn.Module):
    """Self-attention with one layer for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    """Two layers and an exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Layer(nn.Module):
    """Attention, then MLP, each on the normalised input and added to it."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, width * ratio)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Patches of an image to tokens."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)


class ViT(nn.Module):
    """timm's vision transformer with ``num_classes=0`` and the class token."""

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        patch: int,
        image_size: int,
        mlp_ratio: int,
    ) -> None:
        super().__init__()
        self.side = image_size // patch
        self.patch_embed = PatchEmbed(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.side**2, width))
        layer = (Layer(width, heads, mlp_ratio) for _ in range(layers))
        self.blocks = nn.Sequential(*layer)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """All tokens, the class token first."""
        x = self.patch_embed(x)
        positions = self.positions((x.shape[2], x.shape[3]))
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.norm(self.blocks(x + positions))

    def positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """The learned positions, resampled for another number of patches."""
        if grid == (self.side, self.side):
            return self.pos_embed
        cls, square = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        square = square.reshape(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        square = F.interpolate(square, size=grid, mode="bicubic", antialias=True)
        return torch.cat([cls, square.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tokens(x)[:, 0]


# %% A film as the tower saw films in training
def square(film: np.ndarray, size: int, how: str) -> np.ndarray:
    """A film of any shape as a uint8 square."""
    if how == "mgca":  # keep the shape: the longest side to size, black around
        h, w = film.shape
        ratio = size / max(h, w)
        new = max(1, round(w * ratio)), max(1, round(h * ratio))
        method = Image.Resampling.BOX if ratio < 1 else Image.Resampling.BILINEAR
        small = np.asarray(Image.fromarray(film).resize(new, method))
        out = np.zeros((size, size), np.uint8)
        top, left = (size - new[1]) // 2, (size - new[0]) // 2
        out[top : top + new[1], left : left + new[0]] = small
        return out
    # Cut to the content, stretch to the full range, fill the square.
    rows, columns = np.flatnonzero(film.any(1)), np.flatnonzero(film.any(0))
    box = film[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    span = box.max() - box.min()
    box = (box - box.min()) * (255 / span) if span else box
    grown = F.interpolate(torch.tensor(box)[None, None], (size, size), mode="bilinear")
    return np.round(grown[0, 0].numpy()).astype(np.uint8)


def network_input(path: Path, how: dict) -> torch.Tensor:
    """A file as the network takes it, [3, size, size]."""
    film = np.asarray(Image.open(path).convert("L"))
    film = square(film, how["image_size"], how["resize"])
    side, out = len(film), how["input_size"]
    kept = round((how["crop_area"] * side**2) ** 0.5)
    corner = (side - kept) // 2
    middle = torch.tensor(film[corner : corner + kept, corner : corner + kept]) / 255
    at = (torch.arange(out) - (out - 1) / 2) * (kept / out) + (kept - 1) / 2
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1) * 2 / (kept - 1) - 1
    seen = F.grid_sample(middle[None, None], grid[None], align_corners=True)
    if how.get("upsample"):
        wide = (how["upsample"],) * 2
        seen = F.interpolate(seen, wide, mode="bilinear", align_corners=True)
    seen = seen[0]
    mean, std = (torch.tensor(how[name])[:, None, None] for name in ("mean", "std"))
    return (seen - mean) / std


# %% Towers and heads from the folder
class Head(nn.Module):
    """Linear layers, at most two, with a ReLU between them and their BatchNorms."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "linear1.weight" in self.tensors:
            x = self.part(x, 1)
        if "linear2.weight" in self.tensors:
            x = self.part(torch.relu(x), 2)
        return x

    def part(self, x: torch.Tensor, i: int) -> torch.Tensor:
        """A linear layer and its BatchNorm."""
        get = self.tensors.get
        x = F.linear(x, self.tensors[f"linear{i}.weight"], get(f"linear{i}.bias"))
        mean, var = get(f"bn{i}.running_mean"), get(f"bn{i}.running_var")
        if mean is None:
            return x
        return F.batch_norm(x, mean, var, get(f"bn{i}.weight"), get(f"bn{i}.bias"))


def open_image_tower(folder: Path) -> nn.Module:
    """The image tower, by what its folder says it is."""
    sizes = json.loads((folder / "config.json").read_text())
    names, kind = {
        "resnet": (("blocks", "bottleneck", "width", "stem"), ResNet),
        "vit": (("width", "layers", "heads", "patch", "image_size", "mlp_ratio"), ViT),
    }[sizes["network"]]
    tower = kind(*(sizes[name] for name in names))
    tower.load_state_dict(load_file(folder / "model.safetensors"))
    return tower.eval()


class Pair:
    """Both towers with their heads: films and texts to one space."""

    def __init__(self, folder: Path) -> None:
        self.how = json.loads((folder / "preparation.json").read_text())
        self.image = open_image_tower(folder / "image")
        self.text = AutoModel.from_pretrained(
            folder / "text", add_pooling_layer=False
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "text")
        heads = load_file(folder / "heads.safetensors")
        self.image_head, self.text_head = (
            Head(
                {
                    name.removeprefix(side): tensor
                    for name, tensor in heads.items()
                    if name.startswith(side)
                }
            )
            for side in ("image_head.", "text_head.")
        )

    @torch.no_grad()
    def embed_images(self, paths: list[Path]) -> torch.Tensor:
        """Unit-norm points, one row per film."""
        batch = torch.stack([network_input(path, self.how) for path in paths])
        return F.normalize(self.image_head(self.image(batch)), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """Unit-norm points, one row per text."""
        limit = self.how["max_length"]
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        ids, real = tokens["input_ids"], tokens["attention_mask"].bool()[..., None]
        states = self.text(
            input_ids=ids, attention_mask=real[..., 0], output_hidden_states=True
        ).hidden_states
        hidden = torch.stack(states[-self.how["layers_summed"] :]).sum(0)
        if self.how["pool"] == "cls":
            pooled = hidden[:, 0]
        elif self.how["pool"] == "max":
            pooled = hidden.masked_fill(~real, -torch.inf).amax(1)
        else:
            pooled = (hidden * real).sum(1) / real.sum(1)
        return F.normalize(self.text_head(pooled), dim=-1)


# %% Scores: nearer to "it is there" than to "it is not"?
def zero_shot(folder: Path, films: list[Path], classes: list[str]) -> torch.Tensor:
    """Cosine to the mean positive minus cosine to the mean negative sentence.

    Args:
        folder: What a run exports: its ``towers``.
        films: Files of images.
        classes: Names in the folder's ``prompts.json``.

    Returns:
        One row per film, one column per class.
    """
    pair = Pair(folder)
    prompts = json.loads((folder / "prompts.json").read_text())
    directions = []
    for name in classes:
        there, absent = (pair.embed_texts(side).mean(0) for side in prompts[name])
        directions.append(F.normalize(there, dim=0) - F.normalize(absent, dim=0))
    return pair.embed_images(films) @ torch.stack(directions).T


# %% From the command line
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Scores of films for classes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("films", type=Path, nargs="+")
    parser.add_argument("--classes", nargs="+", required=True)
    asked = parser.parse_args()
    found = zero_shot(asked.folder, asked.films, asked.classes)
    print("film", *asked.classes, sep=",")
    for film, row in zip(asked.films, found.tolist(), strict=True):
        print(film, *(f"{score:.6f}" for score in row), sep=",")
