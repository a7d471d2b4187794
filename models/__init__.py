"""Networks: one family per file, chosen by the file's name; `network` is what they share, `adaptor` and
`transfer` are no families.

Every family has a class `Model(tasks, width, **options)`, `tasks` an ordered mapping of a task, by any name, to its
`network.Head`, the width of its head and its final activation:

    model(x) -> predictions, features        x (B, 3, H, W) in [0, 1], H and W at least 32 (lenet: 28); pspnet: and 8
                                             divides them
        predictions   task -> (B, C_t, H, W), lenet (B, C_t), after the task's final activation; pspnet with
                      `target_stride: 8` H/8 and W/8
        features      task -> {"mid": (B, C_mid, H/32, W/32), "last": (B, C_last, H, W)}; lenet: {"last": (B, C_last)};
                      of a side that 32 does not divide resnet rounds H/32 up, others down; adamt: H/16; pspnet: both
                      H/8
    model.features(x) -> features            the same without the heads, which a teacher does not need
    model.predict(features) -> predictions   the heads alone
    model.shared_parameters()                with task_parameters(t) of every task: each parameter once
    model.task_parameters(task)              those of its own branch or decoder and those of its head, which are also
    model.attention_parameters(task), model.head_parameters(task)
    model.first_own(task)                    weight of the first convolution that is the task's own (lenet: its linear
                                             head), where AdaMT-Net measures the gradients that weigh the tasks
    model.last_shared()                      parameters of the last shared layer (GradNorm), a list: its weight; resnet:
                                             of the last block's second convolution, which in a bottleneck a third one
                                             follows; pspnet: all of the last stage
    model.single_process                     why several processes cannot share its training; empty where they can
    model.tap_channels                       {"mid": C_mid, "last": C_last}; its keys are the taps there are
"""

import importlib
import pkgutil


def load(name, tasks, width=1.0, **options):
    """The network `models/<name>.py` for these tasks; weights are drawn from torch's default generator."""
    files = [module.name for module in pkgutil.iter_modules(__path__)]
    family = importlib.import_module(f"{__name__}.{name}") if name in files else None
    if not hasattr(family, "Model"):
        known = [file for file in files if hasattr(importlib.import_module(f"{__name__}.{file}"), "Model")]
        raise ValueError(f"Model `{name}` does not exist. Those that exist: {', '.join(known)}.")
    return family.Model(tasks, width, **options)
