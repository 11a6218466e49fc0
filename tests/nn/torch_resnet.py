"""A residual network in PyTorch under torchvision's names: what parity is tested with.

Written for these tests, to the public description of torchvision's ``resnet18`` to
``resnet50``: padding, the stride on the 3x3 of a bottleneck, names of the state dict.
The classifier is left out, as where ``fc`` is replaced by the identity.
"""

import torch
from torch import nn

from medjax.nn.resnet import ResNetConfig


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
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

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(nn.Module):
    """Images ``[b, 3, h, w]`` to four maps and the pooled vector."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        channels = config.width
        small = config.stem == "small"
        self.conv1 = conv(3, channels, 3 if small else 7, 2)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        for i, count in enumerate(config.blocks):
            width = config.width * 2**i
            stage = nn.Sequential()
            for b in range(count):
                stride = 2 if i > 0 and b == 0 else 1
                stage.append(Block(channels, width, stride, config.bottleneck))
                channels = width * (4 if config.bottleneck else 1)
            setattr(self, f"layer{i + 1}", stage)

    def forward(self, x):
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps, x.mean((2, 3))
