"""The table of cases that every rule is held against, and the one oracle.

Each case stands between a convolution or a Gemm that produces channels and one that reads them. `units` is what a
person counts: how many smallest legal deletions there are. A case whose operator pins has the units of the rest only.
A case runs in `opset`, and once more in each of `opsets`: forms of an operator that are written alike.
"""

import re
from dataclasses import dataclass, field

import numpy as np
import onnx

IMAGE = {"x": "N,3,8,8"}
ROWS = {"x": "N,6"}
OLDEST = 7


def forms(*operators: str, since: int = OLDEST) -> tuple[int, ...]:
    """The opsets from `since` on in which one of the operators got another definition, and `since` if that is older."""
    known = {(s.name, s.since_version) for s in onnx.defs.get_all_schemas_with_history() if not s.domain}
    first = max([since, *(min(v for n, v in known if n == name) for name in operators)])
    return tuple(sorted({first} | {v for n, v in known if n in operators and v > first}))


@dataclass
class Case:
    name: str
    body: str
    units: int
    weights: dict[str, tuple[int, ...]]
    inputs: dict[str, str] = field(default_factory=lambda: dict(IMAGE))
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: str = "float[ya,yb,yc,yd] y"
    opset: int = 20
    opsets: tuple[int, ...] = ()
    restated: int = 0
    infos: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def operators(self) -> set[str]:
        return set(re.findall(r"= (\w+)[<(]", self.body))

    def check(self, oracle) -> None:
        """What is removed computes what the mask computes, in each opset, and there are as many units as said."""
        for number, opset in enumerate((self.opset, *self.opsets)):
            model = oracle.parse(
                self.body, self.inputs, self.weights, self.constants, self.outputs, opset, infos=self.infos
            )
            channels = oracle.check(model, trials=1 if number else 4)
            assert len(channels.units) == self.units, (opset, channels.pinned)
            assert sum(u.exactness == "restated" for u in channels.units) == self.restated


def image(name: str, middle: str, units: int, after: tuple[int, ...] = (5, 8, 1, 1), **more) -> Case:
    """Conv (8 channels) -> `middle`, from a to b -> Conv (5 outputs)."""
    weights = {"w0": (8, 3, 1, 1), "w9": after} | more.pop("weights", {})
    return Case(name, f"a = Conv(x, w0) {middle} y = Conv(b, w9)", units, weights, **more)


def rows(name: str, middle: str, units: int, after: tuple[int, ...] = (8, 5), **more) -> Case:
    """MatMul (8 neurons) -> `middle`, from a to b -> MatMul (5 outputs)."""
    weights = {"w0": (6, 8), "w9": after} | more.pop("weights", {})
    outputs = more.pop("outputs", "float[ya,yb] y")
    return Case(
        name, f"a = MatMul(x, w0) {middle} y = MatMul(b, w9)", units, weights, dict(ROWS), outputs=outputs, **more
    )


QKV = "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv)"
HEADS = (
    "q1 = Reshape(q0, s4) q = Transpose<perm=[0,2,1,3]>(q1) k1 = Reshape(k0, s4) kt = Transpose<perm=[0,2,3,1]>(k1) "
    "v1 = Reshape(v0, s4) v = Transpose<perm=[0,2,1,3]>(v1)"
)
JOIN = "o1 = Transpose<perm=[0,2,1,3]>(o) o2 = Reshape(o1, s3) y = MatMul(o2, wo)"


def tokens(name: str, body: str, units: int, **more) -> Case:
    """Attention over x[N,5,6] with 2 heads of 4."""
    weights = {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 5)}
    if "wf" in more.get("weights", {}):
        weights = {"wo": (8, 5)}
    constants = {"s4": np.array([0, 5, 2, 4]), "s3": np.array([0, 5, 8]), "half": np.float32(0.5)}
    return Case(
        name,
        body,
        units,
        weights | more.get("weights", {}),
        {"x": "N,5,6"},
        constants | more.get("constants", {}),
        "float[a,b,c] y",
    )


BN = {"s": (8,), "t": (8,), "m": (8,), "var": (8,)}


def heads(name: str, middle: str, units: int, **more) -> Case:
    """Attention over x[N,5,6] with `middle` from the values v[N,2,5,4] to u, of the same shape."""
    return tokens(
        name, f"{QKV} {HEADS} {middle} s = MatMul(q, kt) p = Softmax<axis=-1>(s) o = MatMul(p, u) {JOIN}", units, **more
    )
