"""BAM (Clark et al. 2019, arXiv 1907.04829): the student's predictions follow each single-task teacher's.

    L_t = c loss(p_t, label) + (1 - c) match(p_t, p_t of the teacher)

`anneal: linear`, teacher annealing: c grows from 0, the teacher alone, to 1, the labels alone; `none`: c = 1/2. The L_t
are what is balanced; an epoch is selected by the labels' losses. `taps` other than [] add feature distillation as it
is. Teachers run live for their predictions.
"""

from pipeline import sources, tasks
from pipeline.objectives import feature_distillation


class Objective(feature_distillation.Objective):
    def __init__(self, run, model, split, device):
        super().__init__(run, model, split, device)
        method = run["method"]
        self.terms = ("distance",) if self.taps else ()
        self.temperature, self.anneal = method["temperature"], method["anneal"]
        self.teachers = [source if isinstance(source, sources.Live) else sources.Live(
            run, task, split.classes, device) for task, source in self.sources.items()]

    def __call__(self, index, image, predictions, features, targets):
        losses, terms, watched = super().__call__(index, image, predictions, features, targets) if self.taps else (
            self.losses(predictions, targets), {}, {})
        taught = {teacher.task: teacher.predict(image) for teacher in self.teachers}
        matched = tasks.matches(predictions, taught, self.temperature)
        labels = self.progress if self.anneal == "linear" else 0.5
        mixed = [labels * loss + (1 - labels) * match for loss, match in zip(losses, matched, strict=True)]
        seen = {f"{kind}_{teacher.task}": x.detach() for kind, values in (("label", losses), ("match", matched))
                for teacher, x in zip(self.teachers, values, strict=True)}
        return mixed, terms, watched | seen

    def describe(self):
        return f"predictions of live teachers, {super().describe()}"
