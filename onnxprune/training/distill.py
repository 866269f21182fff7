"""Distillation: a pruned network learns from what the dense one says about the same batch."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from onnxprune.errors import InputError, RecipeError


@dataclass(frozen=True)
class Distillation:
    """How much a teacher counts.

    `weight` (0..1) is the share of the teacher's loss; the task's own gets the rest. `temperature` softens both
    networks' probabilities. Raises RecipeError for values out of range.
    """

    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise RecipeError(
                f"The distillation weight is {self.weight}; give a number from 0 (no teacher) to 1 (no labels)."
            )
        if not self.temperature > 0:
            raise RecipeError(f"The distillation temperature is {self.temperature}; give a number above 0, such as 2.")

    def mix(self, task_loss: torch.Tensor, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The loss to minimise: (1 - weight) of the task's loss and `weight` of the distillation loss."""
        return (1 - self.weight) * task_loss + self.weight * distillation_loss(student, teacher, self.temperature)


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 2.0) -> torch.Tensor:
    """Divergence KL(teacher || student) of the softened class probabilities, in nats per sample.

    Both are logits [N,C,*S] with the classes on axis 1; positions S count as samples. The result is scaled by
    temperature**2, so that its gradients keep their size when the temperature changes (Hinton, Vinyals and Dean 2015,
    "Distilling the Knowledge in a Neural Network", section 2). No gradient flows into the teacher. Raises InputError
    where the shapes differ.
    """
    if student.shape != teacher.shape:
        raise InputError(
            f"The student's logits have shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; "
            "both must score the same classes for the same batch."
        )
    student_log = functional.log_softmax(student / temperature, dim=1)
    teacher_log = functional.log_softmax(teacher.detach() / temperature, dim=1)
    per_class = functional.kl_div(student_log, teacher_log, reduction="none", log_target=True)
    return per_class.sum(dim=1).mean() * temperature**2
