"""Which digit an image shows (KD4MTL, Table 1); the images of the other domain have none."""

from pipeline.tasks.classes import OneLabel

TARGET = "digits"
FLAT = True
METRICS = {"digits_acc_pct": {"title": "Digits", "unit": "%", "better": +1}}
COLOUR = "#1b6ca8"


class Task(OneLabel):
    """Predictions (B, C), targets (B,)."""
