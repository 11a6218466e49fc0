"""A residual network in PyTorch under torchvision's names: what parity is tested with.

It is the one that the zero-shot script carries, written to the public description of
torchvision's ``resnet18`` to ``resnet50``: padding, the stride on the 3x3 of a
bottleneck, names of the state dict.
"""

from experiments.examples.zero_shot_in_pytorch import ResNet
from medjax.nn.resnet import ResNetConfig


class TorchResNet(ResNet):
    """Images ``[b, 3, h, w]`` to four maps and the pooled vector."""

    def __init__(self, c: ResNetConfig):
        super().__init__(c.blocks, c.bottleneck, c.width, c.stem)

    def forward(self, x):
        maps = self.maps(x)
        return maps, maps[-1].mean((2, 3))
