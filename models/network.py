"""What the families share: the interface that `models/__init__.py` states, over one head a task on the tap "last"."""

import torch
from torch import nn


def scaled(channels, width):
    """Channel count under the width multiplier: a multiple of 8, at least 8, and exact at width 1."""
    return max(8, round(channels * width / 8) * 8)


def initialise(module):
    """Xavier-normal weights, zero biases (KD4MTL released code); torch starts batch norm at 1 and 0."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_normal_(part.weight)
            nn.init.zeros_(part.bias)


class Network(nn.Module):
    """A family adds `heads` (a module a task), `features`, `activate`, `shared_parameters`, `last_shared` and
    `tap_channels`; `smallest` is the least H and W that its layers take.
    """

    smallest: int

    def __init__(self, width):
        super().__init__()
        if not width > 0:
            raise ValueError(f"Parameter `width` should be positive. Found `width = {width}`.")

    def check(self, x):
        """Refuse what is too small for the layers, and what is no colour image."""
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < self.smallest:
            raise ValueError(
                f"Input should be (B, 3, H, W) with H and W at least {self.smallest}. Found {tuple(x.shape)}."
            )

    def forward(self, x):
        """x (B, 3, H, W) -> predictions as `predict` gives them, features as `features` does."""
        features = self.features(x)
        return self.predict(features), features

    def predict(self, features):
        """What `features` gives -> predictions task -> (B, C_t, H, W) or (B, C_t), in float32 or better."""
        raw = {t: head(features[t]["last"]) for t, head in self.heads.items()}
        # under autocast heads give bfloat16, whose unit vectors are off by half a degree
        wide = {t: x.to(torch.promote_types(x.dtype, torch.float32)) for t, x in raw.items()}
        return {t: self.activate(t, x) for t, x in wide.items()}

    def head_parameters(self, task):
        return list(self.heads[task].parameters())

    def attention_parameters(self, task):
        return []

    def task_parameters(self, task):
        return [*self.attention_parameters(task), *self.head_parameters(task)]
