"""The distillation loss against its definition."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from onnxprune.errors import InputError, RecipeError
from onnxprune.training.distill import Distillation, Watch, distillation_loss, similarity_loss
from onnxprune.training.finetune import train
from onnxprune.training.settings import TrainingSettings


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("shape", [(5, 10), (2, 4, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_loss_is_the_softened_divergence_per_sample(shape, temperature):
    student, teacher = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    p, q = softmax(teacher.numpy() / temperature), softmax(student.numpy() / temperature)
    expected = (p * np.log(p / q)).sum(axis=1).mean() * temperature**2
    assert distillation_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_equal_logits_have_no_loss_and_a_shift_of_all_classes_changes_nothing():
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    assert distillation_loss(logits, logits + 7.0).item() == pytest.approx(0, abs=1e-6)


def test_gradient_reaches_the_student_alone():
    student, teacher = (torch.randn(3, 5, requires_grad=True) for _ in range(2))
    distillation_loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_gradient_keeps_its_size_at_high_temperatures():
    generator = torch.Generator().manual_seed(2)
    teacher, sizes = torch.randn(8, 5, generator=generator), []
    for temperature in (20.0, 40.0):
        student = torch.zeros(8, 5, requires_grad=True)
        distillation_loss(student, teacher, temperature).backward()
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_unlikely_classes_stay_finite():
    loss = distillation_loss(torch.tensor([[0.0, 2000.0]]), torch.tensor([[2000.0, 0.0]]), 1.0)
    assert loss.item() == pytest.approx(2000)


def test_different_shapes_are_refused_with_both_named():
    with pytest.raises(InputError, match=r"\(2, 3\).*\(2, 4\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_mix_divides_between_labels_and_teacher(weight):
    student, teacher = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(3))
    expected = (1 - weight) * 1.5 + weight * distillation_loss(student, teacher, 3.0).item()
    mixed = Distillation(weight, 3.0).mix(torch.tensor(1.5), student, teacher)
    assert mixed.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [{"weight": -0.1}, {"weight": 1.1}, {"temperature": 0}, {"temperature": math.nan}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(RecipeError, match=next(iter(bad))):
        Distillation(**bad)


def test_samples_that_are_alike_to_the_teacher_by_hand():
    """Outputs (3, 4) and (4, -3) have nothing in common; (1, 0) and (1, 0) are the same."""
    apart, same = torch.tensor([[3.0, 4.0], [4.0, -3.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # Rows (1, 0) and (0, 1) against (r, r) and (r, r), r the root of a half.
    r = 0.5**0.5
    assert similarity_loss(same, apart).item() == pytest.approx(2 * ((1 - r) ** 2 + r**2) / 4)
    assert similarity_loss(2 * apart, apart).item() == pytest.approx(0, abs=1e-6)
    wider = torch.cat([apart, torch.zeros(2, 5)], dim=1)
    assert similarity_loss(wider, apart).item() == pytest.approx(0, abs=1e-6), "widths may differ"


def test_features_at_named_layers_come_closer_to_the_teachers():
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    x, y = torch.randn(64, 4), torch.arange(64) % 3

    def distance():
        with torch.no_grad(), Watch(student, teacher, ["1"]) as watch:
            student(x)
            teacher(x)
            return watch.loss().item()

    before = distance()
    train(
        student,
        lambda epoch: [(x, y)] * 20,
        settings=TrainingSettings(epochs=3, learning_rate=0.02),
        evaluate=lambda module: 0.5,
        teacher=teacher,
        distillation=Distillation(weight=0.0, features=("1",), feature_weight=1000.0),
    )
    assert distance() < 0.3 * before
    assert not student[1]._forward_hooks and not teacher[1]._forward_hooks
    with pytest.raises(RecipeError, match=r"The student has no module 'layer9' to distil\. Name some of: 0, 1, 2"):
        Watch(student, teacher, ["layer9"])
