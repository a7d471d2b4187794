"""The feature distance as one node of the tape: every gradient is made in the forward pass, backward hands them out."""

import torch

from kernels.reference import check_distance

TWICE = ("a second backward through feature_distance: its gradients are made once, while the features are read, and "
         "were handed out already; call it again, or set KERNELS=reference")
SECOND_DERIVATIVE = "feature_distance has no second derivative (create_graph=True); set KERNELS=reference"


def single_node(single_pass, scale, students, adaptors, teachers, energies, weights):
    """`reference.feature_distance` by an implementation's `single_pass` and `scale`, as kernels/cpu.py has them."""
    check_distance(students, adaptors, teachers, energies, weights)
    maps = [students] if torch.is_tensor(students) else list(students)
    weights = torch.as_tensor(weights, device=maps[0].device)
    trained = [a for a in adaptors if a is not None]
    return FeatureDistance.apply(single_pass, scale, teachers, energies, weights, len(maps), *maps, *trained)


class FeatureDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, single_pass, scale, teachers, energies, weights, count, *tensors):
        maps, adaptors = tensors[:count], tensors[count:] or [None] * len(teachers)
        want = ctx.needs_input_grad[6:]
        # a map that all tasks share is read once for all of them; maps of their own are read one after the other
        groups = [slice(t, t + 1) for t in range(count)] if count > 1 else [slice(None)]
        distances, student_gradients, adaptor_gradients = [], [], []
        for i, tasks in enumerate(groups):
            distance, by_student, by_adaptors = single_pass(
                maps[i], adaptors[tasks], teachers[tasks], weights[tasks], want[i], any(want[count:]))
            distances.append(distance)
            student_gradients.append(by_student)
            adaptor_gradients += by_adaptors or [None] * len(tensors[count:][tasks])
        distances = torch.cat(distances) + torch.stack(list(energies)).mean(1)
        total = (weights * distances).sum()
        ctx.scale, ctx.gradients = scale, [*student_gradients, *adaptor_gradients]
        kind = torch.promote_types(maps[0].dtype, torch.float32)
        distances, total = distances.to(kind), total.to(kind)
        ctx.mark_non_differentiable(distances)
        return total, distances

    @staticmethod
    def backward(ctx, by_total, _):
        if torch.is_grad_enabled():
            raise RuntimeError(SECOND_DERIVATIVE)
        if ctx.gradients is None:
            raise RuntimeError(TWICE)
        gradients, ctx.gradients = ctx.gradients, None     # autograd adopts a tensor that nobody else holds
        for gradient, wanted in zip(gradients, ctx.needs_input_grad[6:], strict=True):
            if wanted:
                ctx.scale(gradient, by_total)
        return None, None, None, None, None, None, *gradients
