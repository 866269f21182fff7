"""Opsets from 7 to the newest, and how files in the wild keep their weights. Invariant 13."""

from tests.conformance.case import Case
from tests.conformance.cases.values import ONE, PLAIN, ZERO, through

OLD = 'a = Conv(x, w0, b0) c = Clip<min=-1.0, max=1.0>(a) d = Pad<pads=[0,0,1,1,0,0,1,1], mode="constant">(c) e = Sigmoid(a) b = Relu(d) y = Conv(b, w9, b9)'
NEW = "a = Conv(x, w0, b0) b = Gelu(a) y = Conv(b, w9, b9)"

CASES = (
    Case("opset 7", "13 opset 7", "a = Conv(x, w0, b0) b = Relu(a) s = Upsample<scales=[1.0,1.0,2.0,2.0]>(b) y = Conv(s, w9, b9)", PLAIN, ZERO, ONE, "sizes as attributes", "knows recent files only", opset=7, ir_version=3, weights_as_inputs=True),
    Case("opset 9", "13 opset 9", "a = Conv(x, w0, b0) c = Clip<min=-1.0, max=1.0>(a) b = Pad<pads=[0,0,1,1,0,0,1,1]>(c) y = Conv(b, w9, b9)", PLAIN, ZERO, ONE, "bounds and pads as attributes: 0 stays 0", "looks for them among the inputs", opset=9, ir_version=4),
    Case("opset 9, a bound above 0", "13 2 opset 9", "a = Conv(x, w0, b0) b = Clip<min=0.25, max=1.0>(a) y = Conv(b, w9, b9)", PLAIN, ZERO, ONE, "Clip(0) is 0.25 and folds", "reads no attribute: takes Clip for Relu", opset=9, ir_version=4),
    Case("opset 11, a softmax that flattens", "13 3 opset 9", "a = Conv(x, w0, b0) b = Softmax<axis=2>(a) c = Softmax(b) y = Conv(c, w9, b9)", PLAIN, ZERO, {}, "before opset 13 Softmax() runs over all axes from 1 on, channels included", "takes the default axis for the last", opset=11, ir_version=6),
    Case("opset 13", "13 opset 13", "a = Conv(x, w0, b0) g = GlobalAveragePool(a) s = Squeeze(g, ax) y = Gemm(s, w9, b9)", "w0[8,3,1,1] b0[8] w9[8,5] b9[5]", "w0[2] = 0; b0[2] = 1", ONE, "axes as an input", "looks for an attribute",
         opset=13, ir_version=7, constants="int64[2] ax = {2,3}", outputs="float[N,P] y"),
    Case("opset 17", "13 opset 17", "a0 = MatMul(x, w0) a = Add(a0, b0) r = Relu(a) m = MatMul(r, w9) d = Add(m, b9) e = Add(d, x) y = LayerNormalization(e, s, h)", "w0[6,8] b0[8] w9[8,6] b9[6] s[6] h[6]", "w0[:,2] = 0; b0[2] = 1", {"w0": 6, "b0": 1, "w9": 6},
         "hidden features of a block: the normalised axis is another", "pins everything before a LayerNorm", inputs="float[N,T,6] x", outputs="float[N,T,P] y"),
    Case("opset 26", "13 newest", NEW, PLAIN, "w0[2] = 0; b0[2] = 1", ONE, "Gelu(1) folds; the newest that ONNX Runtime 1.31 runs", "refuses the file", opset=26, ir_version=13),
    Case("opset 28", "13 newer", NEW, PLAIN, "w0[2] = 0; b0[2] = 1", ONE, "newer than the runtime: onnx's own evaluation judges", "refuses the file", opset=28, ir_version=13),
    Case("weights in Constant nodes", "13", through("Relu(a)"), PLAIN, ZERO, ONE, "Paddle keeps them there", "finds no initializers", weights_as_nodes=True),
    Case("weights listed as inputs", "13", through("Sigmoid(a)"), PLAIN, ZERO, ONE, "IR version 3 lists every initializer", "takes them for data", opset=8, ir_version=3, weights_as_inputs=True),
    Case("a function", "13", "a = Conv(x, w0, b0) b = local.Gate(a) y = Conv(b, w9, b9)", PLAIN, ZERO, ONE, "u Sigmoid(u) is 0 at 0", "doesn't look inside",
         functions='<domain: "local", opset_import: ["" : 17]> Gate (u) => (v) { s = Sigmoid(u) v = Mul(u, s) }'),
    Case("metadata", "13", through("Relu(a)"), PLAIN, ZERO, ONE, "what the file says of itself stays", "drops metadata_props", metadata={"author": "somebody", "names": "{0: 'cat', 1: 'dog'}"}),
    Case("a kernel behind a transpose", "13", "k = Transpose<perm=[1,0]>(w0) a0 = MatMul(x, k) a = Add(a0, b0) r = Relu(a) m = MatMul(r, w9) y = Add(m, b9)", "w0[8,6] b0[8] w9[8,5] b9[5]", "w0[2] = 0; b0[2] = 1", {"w0": 6, "b0": 1, "w9": 5},
         "a row of w0 is a column of its transpose", "looks for weights among the operands only", inputs="float[N,T,6] x", outputs="float[N,T,P] y"),
)  # fmt: skip
