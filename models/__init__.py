"""Networks: one family per file, chosen by the file's name; `network` is what they share, `adaptor` no family.

Every family has a class `Model(tasks, width, **options)`, `tasks` an ordered mapping task -> head channels:

    model(x) -> predictions, features        x (B, 3, H, W), H and W at least 32 (lenet: 28)
        predictions   task -> (B, C_t, H, W) after the task's final activation; of a classification (B, C_t)
        features      task -> {"mid": (B, C_mid, H/32, W/32), "last": (B, C_last, H, W)}; lenet: {"last": (B, C_last)}
    model.features(x) -> features            the same without the heads, which a teacher does not need
    model.predict(features) -> predictions   the heads alone
    model.shared_parameters()                with task_parameters(t) of every task: each parameter once
    model.task_parameters(task)              those of its attention branch and those of its head, which are also
    model.attention_parameters(task), model.head_parameters(task)
    model.last_shared()                      weight of the last shared layer (GradNorm)
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
