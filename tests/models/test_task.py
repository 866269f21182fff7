"""The reference tasks: their parts are disjoint, alike, and the same every time."""

import hashlib

import numpy as np
import pytest
import torch

from onnxprune_models import digits_resnet, quick_digits
from onnxprune_models.task import random_affine, split_by_class

MODELS = {"digits_resnet": digits_resnet, "quick_digits": quick_digits}
SIZES = {"digits_resnet": (3500, 500, 1000), "quick_digits": (1197, 200, 400)}


@pytest.fixture(scope="module")
def tasks():
    return {name: module.task() for name, module in MODELS.items()}


def hashes(part):
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in part.images}


@pytest.mark.parametrize("name", MODELS)
def test_parts_have_their_sizes_and_share_no_image(tasks, name):
    parts = (tasks[name].train, tasks[name].validation, tasks[name].test)
    assert tuple(len(part.labels) for part in parts) == SIZES[name]
    assert len(set().union(*map(hashes, parts))) == sum(SIZES[name])


@pytest.mark.parametrize("name", MODELS)
def test_every_class_has_the_same_share_of_each_part(tasks, name):
    task = tasks[name]
    whole = np.bincount(np.concatenate([task.train.labels, task.validation.labels, task.test.labels]))
    for part in (task.train, task.validation, task.test):
        expected = whole * len(part.labels) / whole.sum()
        assert np.abs(np.bincount(part.labels) - expected).max() <= 2  # two parts were rounded before the third


@pytest.mark.parametrize("name", MODELS)
def test_images_are_float32_between_0_and_1_and_fit_the_network(tasks, name):
    task, module = tasks[name], MODELS[name].build().eval()
    for images, labels in (task.train, task.validation, task.test):
        assert (images.dtype, labels.dtype) == (np.float32, np.int64)
        assert images.shape[1:] == task.example_inputs[0].shape[1:]
        assert images.min() == 0
        assert images.max() == 1
    with torch.no_grad():
        assert module(*task.example_inputs).shape == (len(task.example_inputs[0]), 10)


@pytest.mark.parametrize("name", MODELS)
def test_loading_twice_gives_the_same_split(tasks, name):
    again = MODELS[name].task()
    for part in ("train", "validation", "test"):
        for first, second in zip(getattr(tasks[name], part), getattr(again, part), strict=True):
            assert np.array_equal(first, second)


def test_split_keeps_one_of_two_equal_images_and_follows_its_seed():
    images = np.arange(40, dtype=np.float32).reshape(40, 1, 1, 1)
    doubled, labels = np.concatenate([images, images]), np.tile(np.arange(40) % 2, 2)
    parts = split_by_class(doubled, labels, validation=6, test=10, seed=3)
    assert [len(part.labels) for part in parts] == [24, 6, 10]
    assert sorted(np.concatenate([part.images.ravel() for part in parts])) == list(range(40))
    assert all((part.images.ravel() % 2 == part.labels).all() for part in parts)
    assert not np.array_equal(split_by_class(doubled, labels, validation=6, test=10, seed=4)[2].images, parts[2].images)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (9, 4, 2), (1, 7, 7)])
def test_split_rounds_each_part_to_its_exact_size(sizes):
    labels = np.repeat(np.arange(3), sizes)
    images = np.arange(15, dtype=np.float32).reshape(15, 1, 1, 1)
    parts = split_by_class(images, labels, validation=4, test=4, seed=0)
    assert [len(part.labels) for part in parts] == [7, 4, 4]


def test_random_affine_repeats_with_its_generator_and_varies_each_image():
    images = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1, 1)
    first, again, other = (random_affine(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.allclose(first[0], first[1])


def test_random_affine_without_any_range_changes_nothing():
    images = torch.rand(3, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    same = random_affine(images, torch.Generator(), degrees=0, shift=0, scale=0, shear=0)
    assert torch.allclose(same, images, atol=1e-5)
