"""A vision transformer in PyTorch under timm's names: what parity is tested with.

Written for these tests, to the public description of timm's ``vit_*_patch16_224`` with
``num_classes=0``: names of the state dict, fused qkv, exact GELU, norm epsilon 1e-6.
"""

import torch
from torch import nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from medjax.nn.vit import ViTConfig


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, c: ViTConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.width, eps=1e-6)
        self.attn = Attention(c.width, c.heads)
        self.norm2 = nn.LayerNorm(c.width, eps=1e-6)
        self.mlp = Mlp(c.width, c.width * c.mlp_ratio)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, c: ViTConfig):
        super().__init__()
        self.proj = nn.Conv2d(3, c.width, c.patch, c.patch)

    def forward(self, x):
        return self.proj(x)


class TorchViT(nn.Module):
    """Images ``[b, 3, h, w]`` to all tokens, the class token first."""

    def __init__(self, c: ViTConfig):
        super().__init__()
        self.side = c.image_size // c.patch
        self.patch_embed = PatchEmbed(c)
        self.cls_token = nn.Parameter(torch.randn(1, 1, c.width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + self.side**2, c.width))
        self.blocks = nn.Sequential(*(Block(c) for _ in range(c.layers)))
        self.norm = nn.LayerNorm(c.width, eps=1e-6)

    def forward(self, x):
        x = self.patch_embed(x)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.norm(self.blocks(x + self.positions(grid)))

    def positions(self, grid):
        if tuple(grid) == (self.side, self.side):
            return self.pos_embed
        cls, square = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        square = square.reshape(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        square = interpolate(square, size=tuple(grid), mode="bicubic", antialias=True)
        return torch.cat([cls, square.flatten(2).transpose(1, 2)], dim=1)
