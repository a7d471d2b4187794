"""BAM (Clark et al. 2019, arXiv 1907.04829): the student's predictions follow each single-task teacher's.

    L_t = c loss(p_t, label) + (1 - c) match(p_t, p_t of the teacher)

`anneal: linear`, teacher annealing: c grows from 0, the teacher alone, to 1, the labels alone; `none`: c = 1/2. The L_t
are what is balanced; an epoch is selected by the labels' losses. `taps` other than [] add feature distillation as it
is. Teachers run live for their predictions.
"""

from pipeline import objectives, tasks
from pipeline.objectives import feature_distillation, supervised
from pipeline.teachers import sources


class Objective(objectives.Composed):
    def __init__(self, row, model, split, device):
        distance = [feature_distillation.Distance(row, model, split, device)] if row["method"]["taps"] else []
        shared = distance[0].sources if distance else {}           # a live teacher need not be loaded twice
        super().__init__(Mixture(row, model, split, device, shared), *distance)


class Mixture(objectives.Objective):
    """The L_t above. `shared`: {task: where features are read}, of which the live teachers predict too."""

    def __init__(self, row, model, split, device, shared):
        method = row["method"]
        self.labels = supervised.Objective(row, model, split, device)
        self.temperature, self.anneal, self.domains = method["temperature"], method["anneal"], split.domains
        self.teachers = {task: shared[task] if isinstance(shared.get(task), sources.Live) else sources.Live(
            row, task, split.classes, device, method["teacher_bn"] == "batch") for task in row["tasks"]}

    def __call__(self, step):
        teacher_outputs = {task: self.predicted(task, teacher, step) for task, teacher in self.teachers.items()}
        labels = step.progress if self.anneal == "linear" else 0.5

        def mixed(predictions):
            """(T mixtures, {name: scalar} of what they are mixed of)."""
            losses = self.labels.losses(predictions, step.targets)
            matched = tasks.matches(predictions, teacher_outputs, step.targets, self.temperature)
            logged = {f"{kind}_{task}": x.detach() for kind, values in (("label", losses), ("match", matched))
                      for task, x in zip(self.teachers, values, strict=True)}
            return [labels * loss + (1 - labels) * match for loss, match in zip(losses, matched, strict=True)], logged
        losses, logged = mixed(step.predictions)
        return objectives.Losses(losses, lambda predictions: mixed(predictions)[0], logged=logged)

    def predicted(self, task, teacher, step):
        """A teacher's predictions of a batch; zeros, which nothing reads, for the images of another domain."""
        rows = feature_distillation.rows_of(self.domains.get(task), step.index, step.image.device)
        if rows is None:
            return teacher.predict(step.image)
        own = teacher.predict(step.image[rows])
        return own.new_zeros(len(step.image), *own.shape[1:]).index_copy(0, rows, own)

    def describe(self):
        return "task losses mixed with matches of live teachers' predictions"
