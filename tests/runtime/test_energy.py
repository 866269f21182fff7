"""Energy is measured where something counts it, and else an estimate that says so."""

import numpy as np
import pytest

from onnxprune.runtime import energy, stopwatch
from onnxprune.runtime.session import SessionSettings


def rapl(folder, **zones):
    """A powercap folder: {zone: microjoules}; parts of a package (intel-rapl:0:0) have a colon more."""
    for name, counted in zones.items():
        zone = folder / name.replace("_", ":").replace("intel", "intel-rapl")
        zone.mkdir()
        (zone / "energy_uj").write_text(f"{counted}\n")
        (zone / "max_energy_range_uj").write_text("1000000\n")
    return folder


def test_packages_are_counted_once_and_their_parts_not_again(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "RAPL", rapl(tmp_path, intel_0=5000, intel_1=3000, intel_0_0=4000))
    counter = energy.counter("cpu")
    assert counter.name == "RAPL, all packages" and counter.read_mj() == 8.0


def test_a_counter_that_starts_again_is_seen_through(tmp_path, monkeypatch):
    """It counts to 1 J here: from 900 mJ on, and then to 100 mJ, are 200 mJ."""
    monkeypatch.setattr(energy, "RAPL", rapl(tmp_path, intel_0=900_000))
    counter = energy.counter("cpu")
    before = counter.read_mj()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100000")
    assert counter.read_mj() - before == pytest.approx(200.0)


@pytest.mark.parametrize("there", [False, True], ids=["no counter", "root's only"])
def test_what_cannot_be_read_is_none(tmp_path, monkeypatch, there):
    if there:
        (tmp_path / "intel-rapl:0").mkdir()  # and no energy_uj in it that could be read
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    assert energy.counter("cpu") is None and energy.counter("cuda") is None


def test_millijoules_of_one_inference(net_path, monkeypatch):
    """Every read of the counter finds 30 mJ more: they are shared by the runs in between."""
    counted = iter((30.0, 60.0))
    monkeypatch.setattr(energy, "counter", lambda provider: energy.Counter("a meter", lambda: next(counted)))
    monkeypatch.setattr(stopwatch, "ENERGY_S", 0.05)
    calls = []
    feed = {"image": np.ones((1, 3, 12, 12), np.float32)}
    run = stopwatch.runner(stopwatch.open_session(net_path), SessionSettings(), feed)
    found, source = stopwatch._energy_mj(lambda: calls.append(run()), SessionSettings())
    assert source == "a meter" and found == pytest.approx(30.0 / len(calls))


def test_the_estimate_is_operations_and_traffic_times_published_constants():
    found = energy.estimate(macs=1_000_000, weight_bytes=4_000)
    assert found.compute_mj == pytest.approx(1e6 * 4.6e-9)
    assert found.memory_mj == pytest.approx(4000 * 250e-9)
    assert found.total_mj == found.compute_mj + found.memory_mj
    assert "Horowitz, ISSCC 2014" in found.constants and "3.7 pJ" in found.constants
