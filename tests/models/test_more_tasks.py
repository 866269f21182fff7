"""The other reference networks: speech, languages, and the network of CIFAR-10 tutorials."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from onnxprune.prune.cost import count
from onnxprune.training import explaining
from onnxprune.training.pruner import Pruner
from onnxprune_models import cifar_classic, digits_resnet, keyword_spotting, language_id
from onnxprune_models.task import Split, Task


def parameter_count(module):
    return sum(p.numel() for p in module.parameters())


# ---- CIFAR-10's classic network --------------------------------------------------------------------------------------


def test_the_classic_network_has_its_published_size():
    module = cifar_classic.build()
    assert parameter_count(module) == 2_175_626
    assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_without_a_folder_digits_lie_in_the_middle_of_three_equal_colours(monkeypatch):
    monkeypatch.delenv("CIFAR10", raising=False)
    images = np.random.default_rng(0).random((6, 1, 28, 28), dtype=np.float32)
    parts = [Split(images[start : start + 2], np.arange(start, start + 2)) for start in (0, 2, 4)]
    digits = Task("digits", *parts, example_inputs=())
    monkeypatch.setattr(digits_resnet, "task", lambda: digits)
    task = cifar_classic.task()
    for part, original in ((task.train, digits.train), (task.test, digits.test)):
        assert part.images.shape[1:] == (3, 32, 32) and part.images.dtype == np.float32
        assert np.array_equal(part.images[:, 1, 2:30, 2:30], original.images[:, 0])
        assert np.array_equal(part.images[:, 0], part.images[:, 2])
        assert part.images.sum() == pytest.approx(3 * original.images.sum(), rel=1e-5)
        assert np.array_equal(part.labels, original.labels)


def cifar_folder(folder, kind):
    """Five batches of 20 images and 20 to test, in one of the two versions."""
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        labels, pixels = np.arange(20) % 10, rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        if kind == "binary":
            (folder / f"{name}.bin").write_bytes(np.c_[labels.astype(np.uint8), pixels].tobytes())
        else:
            batch = {b"data": pixels, b"labels": labels.tolist()}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return pixels, labels


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_a_cifar_folder_is_read_in_either_version(tmp_path, monkeypatch, kind):
    pixels, labels = cifar_folder(tmp_path, kind)
    monkeypatch.setenv("CIFAR10", str(tmp_path))
    task = cifar_classic.task()
    assert [len(part.labels) for part in (task.train, task.validation, task.test)] == [90, 10, 20]
    assert np.array_equal(task.test.images, pixels.reshape(-1, 3, 32, 32).astype(np.float32) / np.float32(255))
    assert np.array_equal(task.test.labels, labels)
    varied = task.augment(torch.from_numpy(task.train.images[:4]), torch.Generator().manual_seed(0))
    assert varied.shape == (4, 3, 32, 32)


def test_what_is_no_batch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10", str(tmp_path))
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": os.getcwd}))
    with pytest.raises(ValueError, match=r"isn't data\. Fetch CIFAR-10 again"):
        cifar_classic.task()
    (tmp_path / "data_batch_1.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="isn't a batch of CIFAR-10's binary version"):
        cifar_classic.task()


# ---- languages -------------------------------------------------------------------------------------------------------


def test_no_message_and_no_text_is_in_two_parts():
    found = language_id.parts()
    for column in (1, 2):
        seen = [{row[column] for row in rows} for rows in found.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))
    task = language_id.task()
    assert [len(p.labels) for p in (task.train, task.validation, task.test)] == [len(rows) for rows in found.values()]
    for part in (task.train, task.validation, task.test):
        # One locale has 20 messages, none of them among those to validate.
        assert len(set(part.labels.tolist())) >= language_id.LOCALES - (part is task.validation)
        assert part.images.dtype == np.int64 and part.images.min() >= 0 and part.images.max() < 256


def test_texts_are_read_as_whole_characters():
    text = "ä" * 40
    assert len(language_id._cut(text)) == language_id.BYTES
    assert language_id._cut("a" + text).decode() == "a" + "ä" * 23


def test_bytes_behind_the_end_change_nothing():
    """Padding takes part in neither attention nor mean: a text alone is what it is beside others."""
    torch.manual_seed(0)
    module = language_id.LanguageId(width=16, heads=2, hidden=8, depth=1).eval()
    text = torch.zeros(1, language_id.BYTES, dtype=torch.int64)
    text[0, :5] = torch.tensor([72, 97, 108, 108, 111])
    before = module(text)
    with torch.no_grad():
        module.embed.weight[0] += 1.0
        module.place[5:] += 1.0
    assert torch.allclose(module(text), before, atol=1e-6)


def test_every_width_of_the_encoder_can_go_exactly():
    torch.manual_seed(0)
    module = language_id.LanguageId(width=16, heads=4, hidden=24, depth=1)
    example = (torch.randint(0, 256, (2, language_id.BYTES)),)
    rates = {"head": 0.5, "head dimension": 0.75, "neuron": 0.75}
    names = {"input_names": ("text",), "output_names": ("logits",)}
    pruner = Pruner(module, example, budget=rates, criterion="magnitude", round_to=1, **names)
    assert {unit.exactness for unit in pruner.channels.units} == {"exact"}
    pruner.prune(1.0)
    assert {(w["kind"], w["before"]) for w in pruner.widths()} >= {("head", 4), ("neuron", 24), ("neuron", 16)}
    assert all(pruner.cost[kind] <= rate + 1e-9 for kind, rate in rates.items())
    result = pruner.export()
    assert result.equivalence.passed
    # The products of attention, which have no weight, count as in any report.
    assert pruner.cost["macs"] == pytest.approx(count(result.model).macs / count(pruner.channels.model).macs)


WIDTHS = {"head": 0.5, "neuron": 0.5}
MINIATURES = {
    "languages": (lambda: language_id.LanguageId(width=16, heads=2, hidden=24, depth=1),
                  torch.randint(0, 256, (8, language_id.BYTES)), WIDTHS),
    "keywords": (keyword_spotting.build,
                 torch.randn(8, 1, keyword_spotting.BANDS, keyword_spotting.MOMENTS), {"channel": 0.5}),
    "cifar-classic": (cifar_classic.build, torch.randn(8, 3, 32, 32), {"channel": 0.5}),
    "digits": (digits_resnet.build, torch.randn(8, 1, 28, 28), {"channel": 0.5}),
}  # fmt: skip


@pytest.mark.parametrize(("build", "x", "budget"), MINIATURES.values(), ids=MINIATURES)
def test_what_the_report_draws_can_be_told_of_every_network(build, x, budget):
    """Importances and sensitivity, of embeddings and of layers over time too."""
    torch.manual_seed(0)
    module = build().eval()
    pruner = Pruner(module, (x[:2],), budget=budget, criterion="magnitude", round_to=1)
    parts = (module, pruner.masks.parameters, pruner.channels, pruner.groups)
    told = explaining.importance(*parts)
    curves = explaining.sensitivity(*parts, [(x, torch.arange(8) % 10)], nn.functional.cross_entropy)
    widths = {name: len(p) for name, p in module.named_parameters()}
    assert len(told["connections"]) > 0 and len(told["neurons"]) > 1
    assert {entry["group"] for entry in told["parameters"]} == {curve["group"] for curve in curves}
    for entry in told["neurons"]:
        assert np.isfinite(entry["values"]).all() and len(entry["values"]) in (widths[entry["layer"]], 16)
    assert all(np.isfinite(curve["losses"]).all() for curve in curves)


# ---- keywords --------------------------------------------------------------------------------------------------------

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng isn't installed on this machine")


def test_voices_speeds_and_other_words_are_in_one_part_only():
    for column in (0, 2, 3):
        seen = [set(part[column]) for part in keyword_spotting.PARTS.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))


@needs_espeak
def test_every_clip_of_a_small_part(monkeypatch):
    monkeypatch.setitem(keyword_spotting.PARTS, "test", (["m3"], ("en-us",), (165, 230), ["zero", "learn"]))
    part, again = (keyword_spotting._part("test", seed=2) for _ in range(2))
    assert part.images.shape == (2 * 12, 1, keyword_spotting.BANDS, keyword_spotting.MOMENTS)
    assert part.images.dtype == np.float32 and np.isfinite(part.images).all()
    assert np.bincount(part.labels).tolist() == [2] * 12
    assert np.array_equal(part.images, again.images)
    noise = part.images[part.labels == keyword_spotting.NOISE]
    words = part.images[part.labels < keyword_spotting.OTHER]
    assert words.std(axis=(2, 3)).min() > noise.std(axis=(2, 3)).max()


@needs_espeak
def test_words_are_told_apart():
    said = keyword_spotting.speak(["yes", "no", "stop"], "en-gb+m3", 150)
    assert len(said) == 3 and all(0.1 < len(word) / keyword_spotting.RATE_HZ < 0.8 for word in said)


def test_without_espeak_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="apt-get install espeak-ng"):
        keyword_spotting.speak(["yes"], "en-us", 150)


def test_a_tone_lies_in_its_mel_band():
    """1,000 Hz is 1,000 mel; 42 edges from 0 to 3,176 mel are 77.5 apart: the centre of band 12 is nearest."""
    time_s = np.arange(keyword_spotting.RATE_HZ) / keyword_spotting.RATE_HZ
    found = keyword_spotting.spectrograms(np.sin(2 * np.pi * 1000 * time_s)[None])[0]
    assert (found.argmax(axis=0) == 12).all()


def test_bands_and_moments_are_hidden_from_training_only_a_little():
    sounds = torch.ones(200, 1, keyword_spotting.BANDS, keyword_spotting.MOMENTS)
    hidden = keyword_spotting.vary(sounds, torch.Generator().manual_seed(0)) == 0
    bands, moments = hidden.all(dim=3).sum(2), hidden.all(dim=2).sum(2)
    assert bands.max() == keyword_spotting.BANDS // 6 and moments.max() == keyword_spotting.MOMENTS // 6
    assert sounds.all() and bands.min() == moments.min() == 0


def test_the_spotter_is_a_convolutional_network_of_twelve_classes():
    module = keyword_spotting.build()
    assert parameter_count(module) == 71_052
    assert module(torch.zeros(2, 1, keyword_spotting.BANDS, keyword_spotting.MOMENTS)).shape == (2, 12)
    assert any(isinstance(part, nn.Conv2d) and part.groups > 1 for part in module.modules())
