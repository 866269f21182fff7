"""Reports: everything is on the page, nothing is loaded, and anybody can read it."""

import copy
import re
from html.parser import HTMLParser
from importlib import resources

import pytest

from onnxprune.deploy.report import write_bench_report, write_report, write_shrink_report
from onnxprune.errors import OutputError
from onnxprune.runtime.diagnosis import Diagnosis, OperatorTime
from onnxprune.runtime.energy import estimate
from onnxprune.runtime.results import DataUsed, ProviderAgreement

REFUSAL = "the CUDA provider can't load libcublasLt.so.13: install CUDA 13"
VOID = {"meta", "br", "hr", "img", "input", "link"}
WIDTHS = [
    {"group": "stem.weight", "kind": "channel", "before": 32, "after": 16},
    {"group": "head.weight", "kind": "channel", "before": 10, "after": 10},
]


def epoch(number, phase, **changes):
    values = {"train_loss": 2.0 / (number + 1), "validation_loss": 2.1 / (number + 1), "validation_metric": 0.9}
    return {"epoch": number, "phase": phase, "learning_rate": 1e-3, "seconds": 35.0, **values, **changes}


def step(number, before, decision, left, reason=""):
    cost = {"params": left, "macs": left, "bytes": left}
    return {"step": number, "epoch": before, "target": 0.5, "cost": cost, "metric": 0.9, "decision": decision} | {
        "reason": reason
    }


HISTORY = {
    "version": 1,
    "epochs": [epoch(0, "dense"), epoch(1, "prune"), epoch(2, "prune", validation_loss=None), epoch(3, "finetune")],
    "steps": [step(0, 1, "kept", 0.6), step(1, 2, "rolled back", 0.3, "fell by 3.1 points")],
    "widths": WIDTHS,
}


class Page(HTMLParser):
    """A page taken apart; badly nested elements are an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.words, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        self.links += [value for name, value in attributes if name in ("href", "src", "xlink:href", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def report(tmp_path, validation):
    def write(**changes):
        write_report(tmp_path / "r.html", **{"validation": validation, **changes})
        return (tmp_path / "r.html").read_text(encoding="utf-8")

    return write


def test_every_section_holds_its_figures(report):
    page = Page(report(history=HISTORY, recipe="seed: 7\n", title="Small network"))
    for words in (
        "Small network",
        "4 March 2026, 05:06 UTC",
        "5.8× fewer parameters 701 k → 121 k",
        "2.8× faster on CPU 1.41 ms → 0.513 ms",
        "−0.20 points top1 98.30% → 98.10%, 1,000 samples",
        "an inference takes 36.3% of the time it took before (95% interval 36.0% to 36.7%)",
        "parameters 701,234 121,234 17.3%",
        "top1, cpu no worse by more than 2 points -0.20 points passed",
        "16 of 42 channels are gone, 62% are left. 1 of 2 groups kept all of theirs.",
        "stem.weight channel 32 16 50%",
        "4 epochs in 2 min 20 s, 2 pruning steps, of which the guard rolled back 1.",
        "1 2 30.0% 30.0% 30.0% 0.9 rolled back fell by 3.1 points",
        "0.363 (0.360 to 0.367), faster",
        "CPU, batch 1, 1 thread before 1.412 1.553 – 12.7 12.5 61 MB 250",
        f"refused CUDA, batch 1 : {REFUSAL}",
        f"refused CUDA, top1 : {REFUSAL}",
        "CPU, top1 1,000 98.30% 98.10% −0.20 points −0.78 to +0.36 −2.00 points 5 3 passed",
        "1.50e-07 (at most 1e-05)",
        "cuda devices none",
        "packages numpy 2.1",
        "seed: 7",
        "ab12" * 16,
    ):
        assert words in page.text, words
    assert page.count("svg") == 4


def test_it_loads_nothing_and_runs_nothing(report):
    text = report(history=HISTORY)
    page = Page(text)
    assert page.links == []
    assert not {"script", "link", "img", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    assert re.findall(r"@import|https?://|url\((?!#)", text) == []


MISSING = {
    "nothing": {},
    "no steps": {"history": {"epochs": HISTORY["epochs"], "steps": []}},
    "widths only": {"history": {"widths": WIDTHS}},
    "one epoch": {"history": {"epochs": HISTORY["epochs"][:1]}},
    "no numbers": {
        "history": {"epochs": [epoch(0, "dense", train_loss=None, validation_loss=None, validation_metric=None)]}
    },
    "losses of 0": {"history": {"epochs": [epoch(n, "dense", train_loss=0.0, validation_loss=0.0) for n in range(3)]}},
    "negative metric": {"history": {"epochs": [epoch(n, "dense", validation_metric=-3.0 + n) for n in range(3)]}},
}


@pytest.mark.parametrize("name", MISSING)
def test_parts_may_be_missing(report, name):
    text = report(**MISSING[name])
    page = Page(text)
    has_epochs = "epochs" in MISSING[name].get("history", {})
    assert ("Training and pruning" in page.text) == has_epochs
    assert ("What was removed" in page.text) == ("widths" in MISSING[name].get("history", {}))
    assert "Recipe" not in page.text
    assert "nan" not in text.lower()


def test_only_refusals(report, validation, replaced):
    """A machine without what was asked for: sentences in the place of charts, and no figure under a CUDA heading."""
    bare = replaced(
        validation,
        equivalence=None,
        accuracy=validation.accuracy[1:],
        latency=validation.latency[1:],
        gates=(replaced(validation.gates[0], verdict="refused", reason=REFUSAL),),
        environment={},
    )
    page = Page(report(validation=bare))
    assert page.text.count(REFUSAL) == 3
    assert page.count("svg") == 0
    assert "Something that was asked for can't be measured" in page.text
    assert "Equivalence" not in page.text and "Measured on" not in page.text


def test_a_proof_in_float64_shows_both_figures(report, validation, replaced):
    """Of the distance in float32 the tolerance isn't said: that isn't what it was held against."""
    proof = replaced(validation.equivalence, error_over_range=3.1e-5, error_in_float64=6.2e-9, rounding=1.4e-5)
    page = Page(report(validation=replaced(validation, equivalence=proof)))
    for words in ("in float64 6.20e-09 (at most 1e-05)", "in float32 3.10e-05", "in float32 1.40e-05"):
        assert words in page.text
    assert "3.10e-05 (at most" not in page.text


def test_a_slower_larger_model_is_called_so(report, validation, replaced):
    comparison = validation.latency[0]
    slow = replaced(
        comparison,
        arms=(comparison.arms[1], replaced(comparison.arms[0], name="candidate")),
        ratios=(replaced(comparison.ratios[0], ratio=2.5, low=2.4, high=2.6, verdict="slower"),),
    )
    swapped = replaced(
        validation, reference=validation.candidate, candidate=validation.reference, latency=(slow,), gates=()
    )
    page = Page(report(validation=swapped))
    for words in ("5.8× more parameters", "2.5× slower on CPU", "Nothing was asked of it"):
        assert words in page.text, words


def test_a_model_that_crashed_has_its_sentence(report, validation, replaced):
    crashed = replaced(validation.latency[0], arms=validation.latency[0].arms[:1], ratios=())
    crashed = replaced(crashed, failures={"candidate": "crashed (SIGSEGV)"})
    page = Page(report(validation=replaced(validation, latency=(crashed,))))
    assert "failed CPU, batch 1, 1 thread, candidate : crashed (SIGSEGV)" in page.text


def test_a_metric_that_is_no_share_has_no_percent(report, validation, replaced):
    row = replaced(
        validation.accuracy[0],
        metric="my.metrics:rmse",
        reference=12.5,
        candidate=12.75,
        difference=0.25,
        low=-0.5,
        high=1.0,
        only_reference_right=None,
        only_candidate_right=None,
        verdict="measured",
        margin=None,
    )
    page = Page(report(validation=replaced(validation, accuracy=(row,))))
    assert "CPU, my.metrics:rmse 1,000 12.5 12.75 +0.25 −0.5 to +1 – – – measured" in page.text


def test_an_error_rate_has_its_margin_above_zero(report, validation, replaced):
    """Less is better: what may be lost is a rise."""
    (row, _) = validation.accuracy
    for higher_is_better, margin in ((True, "margin −2.00 points"), (False, "margin +2.00 points")):
        changed = replaced(row, higher_is_better=higher_is_better)
        assert margin in report(validation=replaced(validation, accuracy=(changed,)))


def test_why_where_and_on_what(report, validation, replaced):
    """What was read off the graphs, the proof of the provider, the other provider, the data, energy's constants."""
    cpu, cuda = validation.latency
    arm = replaced(
        cpu.arms[0], nodes_per_provider={"CUDAExecutionProvider": 11}, copies=2, libraries=("/opt/libcublas.so.13",)
    )
    on_a_gpu = replaced(
        cpu, provider="cuda", arms=(arm, *cpu.arms[1:]), device="a GPU, driver 1", load_before=0.5, load_after=1.25
    )
    on_a_gpu = replaced(on_a_gpu, settings={"tf32": "off", "convolution_search": "EXHAUSTIVE"})
    layouts = [Diagnosis(12, blocked, 2, 16, (), 0, ()) for blocked in (12, 3)]
    operators = [OperatorTime(f"conv{k}", "Conv", 0.5, None if k else 0.25) for k in range(14)]
    measured = replaced(validation.accuracy[0], nodes_per_provider={"candidate": {"CPUExecutionProvider": 9}})
    blurred = replaced(measured, condition="Gaussian blur, 1 pixel", verdict="measured", margin=None)
    page = Page(
        report(
            validation=replaced(
                validation,
                latency=(on_a_gpu, cuda),
                accuracy=(measured, blurred),
                findings=("9 convolutions lost the blocked layout: round layer3 to 48.",),
                diagnoses=tuple(layouts),
                operators=tuple(operators),
                agreement=(ProviderAgreement("candidate", ("cpu", "cuda"), validation.equivalence),),
                data=DataUsed("digits.npz", 1000, "cd34" * 16),
                energy=(estimate(10, 10), estimate(5, 5)),
            )
        )
    )
    for words in (
        "9 convolutions lost the blocked layout: round layer3 to 48.",
        "of these in the blocked layout 12 3",
        "conv0 Conv 0.500 0.250 conv1 Conv 0.500 –",
        "2 more operators not shown",
        "latency, CUDA, batch 1 before 11 on CUDA 2 libcublas.so.13 a GPU, driver 1 "
        "tf32 off, convolution search EXHAUSTIVE 0.5, 1.25",
        "top1, CPU after 9 on CPU",
        "Gaussian blur, 1 pixel 1,000 98.30% 98.10%",
        "after CPU against CUDA 1.5e-07 131 dB 100.00%",
        f"digits.npz : 1,000 samples, sha256 {'cd34' * 16}".replace(" :", ":"),
        "published constants: Horowitz, ISSCC 2014",
    ):
        assert words in page.text, words


def test_models_side_by_side(validation, replaced, tmp_path):
    """What `bench` writes: every model against the first, the one that failed, why, and where."""
    cpu, cuda = validation.latency
    third = replaced(cpu.arms[1], name="third.onnx")
    several = replaced(
        cpu,
        arms=(*cpu.arms, third),
        ratios=(*cpu.ratios, replaced(cpu.ratios[0], name="third.onnx", verdict="inconclusive")),
        failures={"fourth.onnx": "crashed (SIGFPE)"},
    )
    write_bench_report(
        tmp_path / "b.html",
        comparisons=(several, cuda),
        findings=("third.onnx: odd widths",),
        environment=validation.environment,
        created=validation.created,
    )
    page = Page((tmp_path / "b.html").read_text(encoding="utf-8"))
    for words in (
        "4 March 2026, 05:06 UTC",
        "CPU, batch 1, 1 thread, third.onnx",
        "0.363 (0.360 to 0.367), inconclusive",
        "failed CPU, batch 1, 1 thread, fourth.onnx : crashed (SIGFPE)",
        f"refused CUDA, batch 1 : {REFUSAL}",
        "third.onnx: odd widths",
        "cuda devices none",
    ):
        assert words in page.text, words
    assert page.count("h1") == 1 and page.count("caption") == page.count("table") == 2


def test_words_from_outside_are_only_words(report, validation, replaced):
    evil = "<script>alert('1')</script>\"&"
    history = copy.deepcopy(HISTORY)
    history["widths"][0]["group"] = history["steps"][1]["reason"] = history["epochs"][0]["phase"] = evil
    text = report(
        validation=replaced(
            validation,
            environment={evil: evil},
            reference=replaced(validation.reference, file=evil),
            latency=(replaced(validation.latency[1], refused=evil),),
        ),
        history=history,
        recipe=evil,
        title=evil,
    )
    page = Page(text)
    assert page.count("script") == 0
    assert page.text.count(evil) >= 8


def test_accessible(report):
    page = Page(report(history=HISTORY, recipe="seed: 7\n"))
    tags = dict(page.tags[::-1])
    assert tags["html"]["lang"] == "en"
    assert len(page.ids) == len(set(page.ids))
    for name, attributes in page.tags:
        for reference in attributes.get("aria-labelledby", "").split():
            assert reference in page.ids
        if name == "svg":
            assert attributes["role"] == "img" and attributes["aria-labelledby"]
        if name == "th":
            assert attributes["scope"] in ("row", "col")
    assert page.count("h1") == 1 and page.count("main") == 1
    assert page.count("caption") == page.count("table") > 5


def test_what_shrink_did(validation, tmp_path):
    def kept(index, node="conv2"):
        return {"tensor": "relu1", "axis": 1, "index": index, "node": node, "reason": "read through zero padding"}

    write_shrink_report(
        tmp_path / "s.html",
        report={
            "verdicts": {"removed": 1234, "folded": 66, "merged": 0, "kept": 16},
            "kept_dead": [*map(kept, range(14)), kept(3, "conv<3>")],
            "subnormals": 7,
            "zero_below": 2.0**-126,
        },
        before=validation.reference,
        after=validation.candidate,
        equivalence=validation.equivalence,
        title="net.onnx",
    )
    page = Page((tmp_path / "s.html").read_text(encoding="utf-8"))
    for words in (
        "1,300 channels removed",
        "7 weights smaller than 1.18e-38 became 0 first. Values inside the network are assumed to be finite.",
        "5.2× fewer MACs",
        "removed 1,234 folded 66 merged 0 kept 16",
        "relu1 14 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … conv2 read through zero padding",
        "relu1 1 3 conv<3> read through zero padding",
        "1.50e-07 (at most 1e-05)",
    ):
        assert words in page.text, words


def test_shrink_without_anything_to_say(validation, tmp_path):
    figures = {"before": validation.reference, "after": validation.reference}
    write_shrink_report(tmp_path / "s.html", report={"verdicts": {"removed": 0}, "kept_dead": []}, **figures)
    page = Page((tmp_path / "s.html").read_text(encoding="utf-8"))
    assert "Nothing is dead" in page.text
    assert page.count("section") == 1 and page.count("li") == 0


# ---- colours ----


def palettes():
    css = resources.files("onnxprune.deploy").joinpath("templates", "report.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in (light, dark)]


def luminance(colour):
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast(theme):
    """4.5 for words, 3 for marks, in both themes (WCAG 2.2 AA)."""
    colours = palettes()[theme]
    words = [("ink", "page"), ("ink", "card"), ("muted", "page"), ("muted", "card"), ("muted", "band-other")]
    words += [("after", "card"), ("second", "card"), ("ink", "band"), ("after", "band-other")]
    words += [(style, f"{style}-tint") for style in ("good", "bad", "unsure", "refused", "plain")]
    for one, other in words:
        assert contrast(colours[one], colours[other]) >= 4.5, (one, other)
    for one, other in [("before", "card"), ("good", "card"), ("bad", "band-other"), ("second", "band-other")]:
        assert contrast(colours[one], colours[other]) >= 3, (one, other)


def test_unwritable(validation, tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        write_report(tmp_path / "nowhere" / "r.html", validation=validation)
