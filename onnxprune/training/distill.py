"""Distillation: a pruned network learns from what the dense one says about the same batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import InputError, RecipeError


@dataclass(frozen=True)
class Distillation:
    """How much a teacher counts.

    `weight` (0..1) is the share of the teacher's loss; the task's own gets the rest. `temperature` softens both
    networks' probabilities. `features` names modules whose outputs are to be alike as well, `feature_weight` is what
    that counts for, see `similarity_loss`. Raises RecipeError for values out of range.
    """

    weight: float = 0.5
    temperature: float = 2.0
    features: tuple[str, ...] = ()
    feature_weight: float = 100.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise RecipeError(
                f"The distillation weight is {self.weight}; give a number from 0 (no teacher) to 1 (no labels)."
            )
        if not self.temperature > 0:
            raise RecipeError(f"The distillation temperature is {self.temperature}; give a number above 0, such as 2.")

        if not self.feature_weight >= 0:
            raise RecipeError(f"The weight of features is {self.feature_weight}; give a number of at least 0.")

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


def similarity_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """||G_s - G_t||^2 / n^2, G the products of a batch's outputs [n,...] with each other, each row at length 1.

    Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682, eqs. 1 to 4: samples that are
    alike to the teacher shall be alike to the student, however many channels each has. No gradient flows into the
    teacher.
    """
    grams = []
    for outputs in (student, teacher.detach()):
        rows = outputs.flatten(1).float()
        grams.append(functional.normalize(rows @ rows.T, dim=1))
    return (grams[0] - grams[1]).square().sum() / len(student) ** 2


class Watch:
    """What named modules of two networks gave last; use it as a context, within which the modules are watched.

    Raises RecipeError for a name that either network doesn't have.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, names: Sequence[str]):
        self.names = tuple(names)
        self._parts = {}
        for side, module in (("student", student), ("teacher", teacher)):
            found = dict(module.named_modules())
            missing = [name for name in names if name not in found]
            if missing:
                known = ", ".join(name for name in found if name)
                raise RecipeError(f"The {side} has no module '{missing[0]}' to distil. Name some of: {known}.")
            self._parts[side] = {name: found[name] for name in names}
        self._seen: dict[tuple[str, str], torch.Tensor] = {}
        self._hooks: list = []

    def __enter__(self) -> "Watch":
        for side, parts in self._parts.items():
            for name, part in parts.items():

                def see(_: nn.Module, __: tuple, output: torch.Tensor, key: tuple[str, str] = (side, name)) -> None:
                    self._seen[key] = output

                self._hooks.append(part.register_forward_hook(see))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._seen.clear()

    def loss(self) -> torch.Tensor:
        """The mean of the named modules' losses, for what both networks said last."""
        pairs = [(self._seen["student", name], self._seen["teacher", name]) for name in self.names]
        return sum(similarity_loss(*pair) for pair in pairs) / len(pairs)  # type: ignore[return-value]
