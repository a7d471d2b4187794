"""XTasC-Net's direct network: a ResNet encoder shared by all tasks and one decoder with skips per task.

Nakano, Chen & Demachi 2021 (arXiv:2111.14122), with the sizes and first weights of its released code, on the ResNets
of He et al. 2016 (arXiv:1512.03385) as torchvision has them: stages, module names and first weights. 27,785,280
parameters with ResNet-34 and the two Cityscapes tasks (7 classes); `models/transfer.py` is the rest of the method.

"mid" is the encoder's output, shared by all tasks, "last" a task's decoder's, its own; both are non-negative. No
decoder convolution but the head runs at full size.

NOTE: the released code takes ResNet-34 whatever depth was asked for when the download fails; here that is refused.
It normalises the images of Cityscapes but not those of NYUv2: `normalise`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from models.network import Network, conv_bn_relu, initialise, resize, scaled

STAGES = {  # encoder -> its block, and how many each of the four stages has
    18: (BasicBlock, (2, 2, 2, 2)), 34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)), 101: (Bottleneck, (3, 4, 23, 3)), 152: (Bottleneck, (3, 8, 36, 3)),
}  # fmt: skip
CHANNELS, DECODER = (64, 128, 256, 512), 128    # of the stages, which a bottleneck makes 4 times as many; at width 1
STRIDES = {  # side of a pixel of the last map -> of each stage: stride, dilation of its first block, of the others
    32: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)), 8: ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)),
}  # fmt: skip
NORMALISE = {  # mean and deviation of the channels; of "bgr" those of blue, green and red, as Aligned-MTL has them
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "bgr": ((0.485, 0.456, 0.406), (1.0, 1.0, 1.0)),
}  # fmt: skip

# What the check of params.yaml reads: name, least side of an image, whether tasks have one label an image, taps.
TITLE, SMALLEST, FLAT, TAPS = "ResNet", 32, False, ("mid", "last")


def stage(block, c_in, c, count, stride, first=1, others=1):
    """(B, c_in, H, W) -> (B, 4c or c, H/stride, W/stride): one of the four stages of a ResNet.

    first, others: dilations of the 3x3 convolutions of its first block and of the others, which a bottleneck takes.
    """
    c_out, shortcut = c * block.expansion, None
    if stride > 1 or c_in != c_out:
        shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
    return nn.Sequential(block(c_in, c, stride, shortcut, dilation=first),
                         *(block(c_out, c, dilation=others) for _ in range(count - 1)))


class Encoder(nn.Module):
    """torchvision's ResNet without its classifier: its weights fit at width 1. `channels`: those of the five maps.

    stride: 32, or 8, where the last two stages keep the size and their convolutions are dilated instead.
    """

    def __init__(self, encoder, width, stride=32):
        super().__init__()
        block, counts = STAGES[encoder]
        c = [scaled(channels, width) for channels in CHANNELS]
        self.channels = [c[0], *(channels * block.expansion for channels in c)]
        self.conv1 = nn.Conv2d(3, c[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(c[0])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            stage(block, *one, *how) for *one, how in zip(self.channels[:4], c, counts, STRIDES[stride], strict=True))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        """x (B, 3, H, W) -> maps at 1/2, 1/4, 1/8, 1/16 and 1/32 of its size, or the last two at 1/8, rounded up."""
        e0 = F.relu(self.bn1(self.conv1(x)), inplace=True)
        e1 = self.layer1(F.max_pool2d(e0, 3, stride=2, padding=1))
        e2 = self.layer2(e1)
        e3 = self.layer3(e2)
        return e0, e1, e2, e3, self.layer4(e3)


class Normalise(nn.Module):
    """Images (B, 3, H, W) less a mean, by a deviation: one of NORMALISE. "bgr" turns the channels round first."""

    def __init__(self, name):
        super().__init__()
        one_of("ResNet", "normalise", name, NORMALISE)
        self.turned = name == "bgr"
        for what, values in zip(("mean", "deviation"), NORMALISE[name], strict=True):
            self.register_buffer(what, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, x):
        return ((x.flip(1) if self.turned else x) - self.mean) / self.deviation


class Decoder(nn.Module):
    """Decoder of one task: five blocks of three convolutions each. `taps`: channels of the encoder's maps."""

    def __init__(self, taps, c):
        super().__init__()
        inputs = [taps[-1], *(c + skip for skip in taps[-2::-1])]
        self.blocks = nn.ModuleList(
            nn.Sequential(conv_bn_relu(c_in, c), conv_bn_relu(c, c), conv_bn_relu(c, c)) for c_in in inputs
        )

    def forward(self, taps, size):
        """Encoder's maps -> (B, c, *size). A block's output is brought to the next skip's size, the last's to `size`;
        where 32 divides the sides each is twice the one before.
        """
        first, *others = self.blocks
        x = first(taps[-1])
        for block, skip in zip(others, taps[-2::-1], strict=True):
            x = block(torch.cat([resize(x, skip.shape[2:]), skip], 1))
        return resize(x, size)


def one_of(network, name, value, known):
    if value not in known:
        raise ValueError(f"{network} {name} should be one of {', '.join(map(str, known))}. Found `{name} = {value}`.")


def imagenet(encoder, width=1):
    """torchvision's weights of this ResNet trained on ImageNet, but for its classifier's; downloaded once."""
    if width != 1:
        raise ValueError(f"Weights trained on ImageNet are of width 1. Found `width = {width}`.")
    weights = torchvision.models.get_model_weights(f"resnet{encoder}").IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as mistake:
        raise ValueError(
            f"ImageNet's weights of ResNet-{encoder} could not be loaded ({mistake}). Put {weights.url} into "
            f"{torch.hub.get_dir()}/checkpoints, or set `pretrained: false`."
        ) from None
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


class Model(Network):
    """Shared encoder, a decoder and a 1x1 head per task; `models/__init__.py` states what each method returns.

    `encoder` is the ResNet's depth, `pretrained` starts it with the weights trained on ImageNet, and `normalise` is
    "imagenet" (images less ImageNet's mean, by its deviation), "bgr" (blue first, less the mean of red, green and blue)
    or "none".
    """

    smallest = SMALLEST

    def __init__(self, tasks, width=1.0, *, encoder: Literal[18, 34, 50, 101, 152] = 34, pretrained: bool = False,
                 normalise: Literal["imagenet", "bgr", "none"] = "imagenet"):
        super().__init__(tasks, width)
        one_of("ResNet", "encoder", encoder, STAGES)
        self.normalise, self.encoder = Normalise(normalise), Encoder(encoder, width)
        c = scaled(DECODER, width)
        self.decoders = nn.ModuleDict({task: Decoder(self.encoder.channels, c) for task in tasks})
        self.heads = nn.ModuleDict({
            task: nn.Conv2d(c, head.channels, 1, bias=False) for task, head in tasks.items()})
        initialise(self.decoders)
        initialise(self.heads)
        if pretrained:
            self.encoder.load_state_dict(imagenet(encoder, width))

    def features(self, x):
        """x (B, 3, H, W) -> task -> {"mid": (B, C_mid, H/32, W/32), shared, "last": (B, C_last, H, W), its own}."""
        self.check(x)
        taps = self.encoder(self.normalise(x))
        return {task: {"mid": taps[-1], "last": decoder(taps, x.shape[2:])} for task, decoder in self.decoders.items()}

    def shared_parameters(self):
        return list(self.encoder.parameters())

    def attention_parameters(self, task):
        return list(self.decoders[task].parameters())

    def last_shared(self):
        """Weight (C, C, 3, 3), without bias, of the last block's second convolution (GradNorm, as released)."""
        return [self.encoder.layer4[-1].conv2.weight]

    @property
    def tap_channels(self):
        return {"mid": self.encoder.channels[-1], "last": next(iter(self.heads.values())).in_channels}
