"""Random networks: compositions of the rules, as ONNX text with the shapes of their weights."""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

WIDTHS = (2, 4, 6, 8)


@dataclass
class Network:
    """Nodes as text, shapes of weights, and the constants; one input x [N,3,H,W], one output y."""

    lines: list[str] = field(default_factory=list)
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    constants: dict = field(default_factory=dict)
    count: int = 0

    def name(self, prefix: str = "t") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def node(self, text: str) -> str:
        out = self.name()
        self.lines.append(f"{out} = {text}")
        return out

    def weight(self, *shape: int, prefix: str = "w") -> str:
        name = self.name(prefix)
        self.weights[name] = shape
        return name

    def constant(self, array) -> str:
        name = self.name("k")
        self.constants[name] = array
        return name

    @property
    def body(self) -> str:
        return " ".join(self.lines)


@dataclass
class _Tensor:
    name: str
    channels: int
    even: bool  # whether a further halving of the image is possible


def _conv(draw, net: Network, x: _Tensor, outputs: int | None = None) -> _Tensor:
    outputs = outputs or draw(st.sampled_from(WIDTHS))
    groups = [g for g in (1, 2, x.channels) if x.channels % g == 0 and outputs % g == 0]
    group = draw(st.sampled_from(groups))
    kernel = draw(st.sampled_from((1, 3)))
    pad = kernel // 2
    w = net.weight(outputs, x.channels // group, kernel, kernel)
    bias = f", {net.weight(outputs, prefix='b')}" if draw(st.booleans()) else ""
    attributes = f"group={group}, pads=[{pad},{pad},{pad},{pad}]"
    return _Tensor(net.node(f"Conv<{attributes}>({x.name}, {w}{bias})"), outputs, x.even)


def _transposed(draw, net: Network, x: _Tensor) -> _Tensor:
    outputs = draw(st.sampled_from(WIDTHS))
    group = draw(st.sampled_from([g for g in (1, 2) if x.channels % g == 0 and outputs % g == 0]))
    w = net.weight(x.channels, outputs // group, 1, 1)
    return _Tensor(net.node(f"ConvTranspose<group={group}>({x.name}, {w})"), outputs, x.even)


def _norm(draw, net: Network, x: _Tensor) -> _Tensor:
    parts = ", ".join(net.weight(x.channels, prefix=p) for p in ("s", "t", "m"))
    net.count += 1
    variance = f"v{net.count}var"
    net.weights[variance] = (x.channels,)
    return _Tensor(net.node(f"BatchNormalization({x.name}, {parts}, {variance})"), x.channels, x.even)


def _activation(draw, net: Network, x: _Tensor) -> _Tensor:
    operator = draw(st.sampled_from(("Relu", "Sigmoid", "HardSwish", "Tanh", "Softplus", "Cos")))
    return _Tensor(net.node(f"{operator}({x.name})"), x.channels, x.even)


def _residual(draw, net: Network, x: _Tensor) -> _Tensor:
    y = _activation(draw, net, _conv(draw, net, x))
    y = _conv(draw, net, y, outputs=x.channels)
    operator = draw(st.sampled_from(("Add", "Mul", "Max", "Sub")))
    return _Tensor(net.node(f"{operator}({x.name}, {y.name})"), x.channels, x.even)


def _dense(draw, net: Network, x: _Tensor) -> _Tensor:
    y = _conv(draw, net, x)
    return _Tensor(net.node(f"Concat<axis=1>({x.name}, {y.name})"), x.channels + y.channels, x.even)


def _gate(draw, net: Network, x: _Tensor) -> _Tensor:
    pooled = _Tensor(net.node(f"GlobalAveragePool({x.name})"), x.channels, False)
    hidden = net.node(f"Conv({pooled.name}, {net.weight(2, x.channels, 1, 1)})")
    gate = net.node(f"Conv({hidden}, {net.weight(x.channels, 2, 1, 1)})")
    return _Tensor(net.node(f"Mul({x.name}, {net.node(f'Sigmoid({gate})')})"), x.channels, x.even)


def _split(draw, net: Network, x: _Tensor) -> _Tensor:
    if x.channels < 4:
        return x
    first = draw(st.integers(1, x.channels - 1))
    a, b = net.name(), net.name()
    sizes = net.constant(np.array([first, x.channels - first]))
    net.lines.append(f"{a}, {b} = Split<axis=1>({x.name}, {sizes})")
    if draw(st.booleans()):
        b = _conv(draw, net, _Tensor(b, x.channels - first, x.even), outputs=x.channels - first).name
    return _Tensor(net.node(f"Concat<axis=1>({b}, {a})"), x.channels, x.even)


def _shuffle(draw, net: Network, x: _Tensor) -> _Tensor:
    if x.channels % 2:
        return x
    order = np.arange(x.channels).reshape(2, -1).T.ravel()
    return _Tensor(net.node(f"Gather<axis=1>({x.name}, {net.constant(order)})"), x.channels, x.even)


def _grid_shuffle(draw, net: Network, x: _Tensor) -> _Tensor:
    if x.channels % 2 or x.channels < 4:
        return x
    split = net.node(f"Reshape({x.name}, {net.constant(np.array([-1, 2, x.channels // 2, 8, 8]))})")
    turned = net.node(f"Transpose<perm=[0,2,1,3,4]>({split})")
    return _Tensor(net.node(f"Reshape({turned}, {net.constant(np.array([-1, x.channels, 8, 8]))})"), x.channels, x.even)


def _shared(draw, net: Network, x: _Tensor) -> _Tensor:
    w = net.weight(x.channels, x.channels, 1, 1)
    y = net.node(f"Conv({x.name}, {w})")
    return _Tensor(net.node(f"Conv({net.node(f'Relu({y})')}, {w})"), x.channels, x.even)


BLOCKS = (
    _conv, _transposed, _norm, _activation, _residual, _dense, _gate, _split, _shuffle, _grid_shuffle, _shared
)  # fmt: skip


@st.composite
def networks(draw) -> Network:
    """A chain of two to five random blocks between a first convolution and a linear head."""
    net = Network()
    x = _conv(draw, net, _Tensor("x", 3, True), outputs=draw(st.sampled_from(WIDTHS)))
    for block in draw(st.lists(st.sampled_from(BLOCKS), min_size=2, max_size=5)):
        x = block(draw, net, x)
    head = draw(st.sampled_from(("flatten", "pool", "conv")))
    if head == "conv":
        net.lines.append(f"y = Conv({x.name}, {net.weight(3, x.channels, 1, 1)})")
        return net
    pooled = x.name if head == "flatten" else net.node(f"GlobalAveragePool({x.name})")
    flat = net.node(f"Flatten({pooled})")
    inputs = x.channels * (64 if head == "flatten" else 1)
    rows = net.node(f"Gemm({flat}, {net.weight(inputs, 3)})")
    net.lines.append(f"y = Reshape({rows}, {net.constant(np.array([-1, 3, 1, 1]))})")
    return net
