"""Which character of which alphabet an image shows (KD4MTL, Table 1); the images of the other domain have none."""

from pipeline.tasks.classes import OneLabel

TARGET = "characters"
FLAT = True
METRICS = {"characters_acc_pct": {"title": "Characters", "unit": "%", "better": +1}}
COLOUR = "#c8553d"


class Task(OneLabel):
    """Predictions (B, C), targets (B,)."""
