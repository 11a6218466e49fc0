"""A vision transformer in PyTorch under timm's names: what parity is tested with.

It is the one that the zero-shot script carries, written to the public description of
timm's ``vit_*_patch16_224`` with ``num_classes=0``: names of the state dict, fused qkv,
exact GELU, norm epsilon 1e-6.
"""

import torch

from experiments.examples.zero_shot_in_pytorch import ViT
from medjax.nn.vit import ViTConfig


class TorchViT(ViT):
    """Images ``[b, 3, h, w]`` to all tokens, the class token first."""

    def __init__(self, c: ViTConfig):
        super().__init__(c.width, c.layers, c.heads, c.patch, c.image_size, c.mlp_ratio)
        self.cls_token.data = torch.randn(1, 1, c.width)
        self.pos_embed.data = torch.randn(self.pos_embed.shape)

    def forward(self, x):
        return self.tokens(x)
