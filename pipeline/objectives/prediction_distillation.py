"""BAM (Clark et al. 2019, arXiv 1907.04829): the student's predictions follow each single-task teacher's.

    L_t = c loss(p_t, label) + (1 - c) match(p_t, p_t of the teacher)

`anneal: linear`, teacher annealing: c grows from 0, the teacher alone, to 1, the labels alone; `none`: c = 1/2. The L_t
are what is balanced; an epoch is selected by the labels' losses. `taps` other than [] add feature distillation as it
is. Teachers run live for their predictions.
"""

from pipeline import tasks
from pipeline.objectives import feature_distillation
from pipeline.teachers import sources


class Objective(feature_distillation.Objective):
    def __init__(self, run, model, split, device):
        super().__init__(run, model, split, device)
        method = run["method"]
        self.terms = ("distance",) if self.taps else ()
        self.temperature, self.anneal = method["temperature"], method["anneal"]
        self.teachers = [source if isinstance(source, sources.Live) else sources.Live(
            run, task, split.classes, device) for task, source in self.sources.items()]

    def __call__(self, index, image, predictions, features, targets):
        self.taught = {teacher.task: self.predicted(teacher, index, image) for teacher in self.teachers}
        above = super() if self.taps else super(feature_distillation.Objective, self)
        return above.__call__(index, image, predictions, features, targets)

    def predicted(self, teacher, index, image):
        """A teacher's predictions of a batch; zeros, which nothing reads, for the images of another domain."""
        rows = self.rows(teacher.task, index, image.device)
        if rows is None:
            return teacher.predict(image)
        own = teacher.predict(image[rows])
        return own.new_zeros(len(image), *own.shape[1:]).index_copy(0, rows, own)

    def losses(self, predictions, targets):
        """The mixtures, by what the teachers said of this step's images."""
        losses = super().losses(predictions, targets)
        matched = tasks.matches(predictions, self.taught, targets, self.temperature)
        self.seen = {f"{kind}_{task}": x.detach() for kind, values in (("label", losses), ("match", matched))
                     for task, x in zip(self.taught, values, strict=True)}
        labels = self.progress if self.anneal == "linear" else 0.5
        return [labels * loss + (1 - labels) * match for loss, match in zip(losses, matched, strict=True)]

    def describe(self):
        return f"predictions of live teachers, {super().describe()}"
