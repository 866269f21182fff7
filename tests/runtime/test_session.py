"""Sessions are what they claim: a CPU session never passes for CUDA, and refusals name what is missing."""

import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from onnxprune.errors import InputError, ModelError, ProviderRefused
from onnxprune.runtime import cuda, session
from onnxprune.runtime.session import (
    Placement,
    SessionSettings,
    open_session,
    placement,
    profiled_placement,
    prove_session,
    run_session,
    why_refused,
)

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FEED = {"image": np.ones((2, 3, 12, 12), np.float32)}


def test_placement_and_profile_on_the_cpu(net_path):
    opened = open_session(net_path)
    assert placement(opened, "cpu") == Placement("cpu", {CPU: 5}, None, ())
    profiled = profiled_placement(net_path, SessionSettings(), FEED)
    assert profiled == Placement("cpu", {CPU: 5}, 0, ())
    assert profiled.proved


@pytest.mark.parametrize("optimization", ["none", "all"])
def test_path_and_bytes_run_alike(net_path, optimization):
    settings = SessionSettings(optimization=optimization, threads=0)
    by_path, by_bytes = (
        run_session(open_session(source, settings), FEED)["logits"] for source in (net_path, net_path.read_bytes())
    )
    assert by_path.shape == (2, 5)
    np.testing.assert_array_equal(by_path, by_bytes)


def test_settings_that_make_no_sense():
    for bad in ({"provider": "tpu"}, {"threads": -1}, {"optimization": "some"}):
        with pytest.raises(InputError):
            SessionSettings(**bad)


@pytest.mark.parametrize("content, what", [(b"", "can't open"), (b"not a model", "can't open")])
def test_what_is_no_model(tmp_path, content, what):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"{what} .*bad.onnx"):
        open_session(path)
    with pytest.raises(ModelError, match=what):
        open_session(content)


def test_a_feed_that_does_not_fit(net_path):
    with pytest.raises(ModelError, match="can't run the model"):
        run_session(open_session(net_path), {"image": np.ones((2, 4, 12, 12), np.float32)})


class Tampered:
    """A CPU session that says that it runs on CUDA."""

    def __init__(self, opened):
        self.opened = opened

    def get_providers(self):
        return [CUDA, CPU]

    def __getattr__(self, name):
        return getattr(self.opened, name)


def test_a_cpu_session_disguised_as_cuda_is_refused(net_path, monkeypatch):
    monkeypatch.setattr(cuda, "why_not_cuda", lambda: None)
    real = session.onnxruntime.InferenceSession
    monkeypatch.setattr(
        session.onnxruntime,
        "InferenceSession",
        lambda source, options, providers: Tampered(real(source, options, [CPU])),
    )
    with pytest.raises(ProviderRefused, match=f"Conv on {CPU}.*Gemm on {CPU}"):
        open_session(net_path, SessionSettings("cuda"))


def test_a_silent_fall_back_to_the_cpu_is_refused(net_path, monkeypatch):
    monkeypatch.setattr(cuda, "why_not_cuda", lambda: None)
    real = session.onnxruntime.InferenceSession
    monkeypatch.setattr(
        session.onnxruntime, "InferenceSession", lambda source, options, providers: real(source, options, [CPU])
    )
    with pytest.raises(ProviderRefused, match=f"opened the model on {CPU}"):
        open_session(net_path, SessionSettings("cuda"))


class Forged(Tampered):
    """One that forged the assignment record too."""

    def get_provider_graph_assignment_info(self):
        return [SimpleNamespace(ep_name=CUDA, get_nodes=lambda: [SimpleNamespace(op_type="Conv")])]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="this system has no /proc/self/maps")
def test_a_forged_record_is_refused_for_want_of_mapped_libraries(net_path, monkeypatch):
    monkeypatch.setattr(cuda, "why_not_cuda", lambda: None)
    monkeypatch.setattr(cuda, "mapped_libraries", list)
    forged = Forged(open_session(net_path))
    with pytest.raises(ProviderRefused, match=r"libcublas, libcuda isn't mapped .*would not be a cuda figure"):
        prove_session(forged, "cuda")


@pytest.mark.skipif(why_refused("cuda") is None, reason="this machine has CUDA")
@pytest.mark.parametrize(
    "providers, only",
    [([CUDA], False), ([CUDA, CPU], False), ([CUDA], True), ([(CUDA, {"device_id": "0"}), CPU], False), (None, False)],
    ids=["alone", "with the CPU behind it", "without falling back", "with options", "unsaid"],
)
def test_each_way_of_asking_onnxruntime_for_cuda_is_refused_here(net_path, capfd, providers, only):
    """It calls itself a GPU build and opens the session on the CPU; we name what is missing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1" if only else "0")
    try:
        opened = onnxruntime.InferenceSession(str(net_path), options, providers=providers)
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
        assert only  # the one way in which ONNX Runtime itself refuses, though it doesn't say why
        opened = None
    capfd.readouterr()
    with pytest.raises(ProviderRefused) as caught:
        prove_session(opened, "cuda") if opened else open_session(net_path, SessionSettings("cuda"))
    assert why_refused("cuda") in str(caught.value)
    assert any(name in str(caught.value) for name in ("libcu", "onnxruntime-gpu", "driver"))


def test_a_session_without_a_record_proves_nothing(net_path):
    opened = onnxruntime.InferenceSession(str(net_path), providers=[CPU])
    with pytest.raises(ProviderRefused, match="record_ep_graph_assignment_info"):
        prove_session(opened, "cpu")
    assert prove_session(open_session(net_path), "cpu").proved


@pytest.mark.parametrize(
    "groups, proved",
    [
        ([(CUDA, ["Conv", "Relu"])], True),
        ([(CUDA, ["Conv"]), (CPU, ["Shape", "Gather"])], True),
        ([(CUDA, ["Relu"]), (CPU, ["Conv"])], False),
        ([(CPU, ["Relu"])], False),
        ([], False),
    ],
)
def test_what_counts_as_proof(groups, proved):
    nodes = [
        SimpleNamespace(
            ep_name=name, get_nodes=lambda operators=operators: [SimpleNamespace(op_type=o) for o in operators]
        )
        for name, operators in groups
    ]
    assert placement(SimpleNamespace(get_provider_graph_assignment_info=lambda: nodes), "cuda").proved is proved


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"providers": [CPU]}, "no CUDA provider. .*onnxruntime-gpu"),
        ({"missing": ["libcublasLt.so.13"], "driver": None}, "can't load libcublasLt.so.13, libcuda.*NVIDIA driver"),
        ({"missing": ["libcublasLt.so.13"]}, "can't load libcublasLt.so.13. Install CUDA"),
        ({"driver": None}, "Install the NVIDIA driver"),
        ({"devices": []}, "sees no device"),
        ({}, None),
    ],
    ids=["no provider", "no libraries, no driver", "no libraries", "no driver", "no device", "all there"],
)
def test_why_not_cuda(monkeypatch, changes, sentence):
    found = {"providers": [CUDA, CPU], "missing": [], "driver": object(), "devices": ["a GPU"], **changes}
    monkeypatch.setattr(cuda.onnxruntime, "get_available_providers", lambda: found["providers"])
    monkeypatch.setattr(cuda, "missing_libraries", lambda: list(found["missing"]))
    monkeypatch.setattr(cuda, "_driver", lambda: found["driver"])
    monkeypatch.setattr(cuda, "device_names", lambda: found["devices"])
    reason = cuda.why_not_cuda()
    if sentence is None:
        assert reason is None and why_refused("cuda") is None
    else:
        with pytest.raises(ProviderRefused, match=sentence):
            open_session(b"", SessionSettings("cuda"))
        assert why_refused("cpu") is None


def test_libraries_that_pip_installed_are_loaded_before_any_is_missed(monkeypatch, capsys):
    """ONNX Runtime's own preloading is asked first, and what it prints stays inside."""
    loaded = set()
    cuda.preload.cache_clear()
    monkeypatch.setattr(cuda.onnxruntime, "preload_dlls", lambda: (loaded.add("all"), print("loading")))
    monkeypatch.setattr(cuda, "_loads", lambda name: bool(loaded))
    assert cuda.missing_libraries() == [] and loaded == {"all"}
    assert capsys.readouterr().out == ""
    cuda.preload.cache_clear()


def test_this_machine_is_refused_by_name_or_has_a_device(net_path):
    """No mock: whatever this machine lacks is said, and nothing that runs on the CPU comes back."""
    reason = why_refused("cuda")
    if reason is None:
        assert placement(open_session(net_path, SessionSettings("cuda")), "cuda").proved
    else:
        with pytest.raises(ProviderRefused) as caught:
            open_session(net_path, SessionSettings("cuda"))
        assert str(caught.value) == reason
        assert "lib" in reason or "driver" in reason or "onnxruntime-gpu" in reason


def test_a_failing_layout_change_says_what_to_do():
    """ONNX Runtime's own nodes fail on some widths, where the file holds nothing wrong."""

    class Failing:
        def get_outputs(self):
            return []

        def run(self, names, feed):
            raise RuntimeError(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running ReorderInput "
                "node. Name:'ReorderInput' Status Message: nchwc_ops.cc:20 channels % 4 == 0 was false."
            )

    with pytest.raises(ModelError, match=r"channels % 4 == 0 was false\. That node is ONNX Runtime's own.*EXTENDED"):
        run_session(Failing(), {})
