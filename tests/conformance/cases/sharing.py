"""Axes with several producers and readers, and initializers with several uses. Invariants 4 and 9."""

from tests.conformance.case import Case
from tests.conformance.cases.values import ONE, PLAIN, through

STREAM = PLAIN + " w1[8,3,1,1] b1[8]"
SUM = "a = Conv(x, w0, b0) c = Conv(x, w1, b1) d = Add(a, c) b = Relu(d) y = Conv(b, w9, b9)"
BOTH = ONE | {"w1": 3, "b1": 1}
EXCITED = "a = Conv(x, w0, b0) g = GlobalAveragePool(a) h = Conv(g, w1, b1) i = Relu(h) j = Conv(i, w2, b2) k = Sigmoid(j) b = Mul(a, k) y = Conv(b, w9, b9)"

CASES = (
    Case("residual, both producers dead", "4", SUM, STREAM, "w0[2] = 0; b0[2] = 0; w1[2] = 0; b1[2] = 0", BOTH, "0 + 0 on the shared axis", "leaves it, or breaks the Add"),
    Case("residual, one producer dead", "4", SUM, STREAM, "w0[2] = 0; b0[2] = 0", {}, "the other producer keeps the place alive", "slices one operand of the Add: invalid"),
    Case("residual, constants that cancel", "4", SUM, STREAM, "w0[2] = 0; b0[2] = 1; w1[2] = 0; b1[2] = -1", BOTH, "1 - 1 is 0", "judges each producer by itself"),
    Case("residual, constants", "4 6", SUM, STREAM, "w0[2] = 0; b0[2] = 1; w1[2] = 0; b1[2] = 1", BOTH, "1 + 1 is 2 and folds", "keeps it"),
    Case("three producers", "4", "a = Conv(x, w0, b0) c = Conv(x, w1, b1) d = Add(a, c) e = Conv(d, w2, b2) f = Relu(e) g = Add(d, f) y = Conv(g, w9, b9)",
         STREAM + " w2[8,8,1,1] b2[8]", "w0[2] = 0; b0[2] = 0; w1[2] = 0; b1[2] = 0; w2[2] = 0; b2[2] = 0", BOTH | {"w2": 8 + 8 - 1, "b2": 1},
         "all three write 0 into channel 2: of w2 a row and the column that reads it", "slices w2 once"),
    Case("a dead branch", "4", SUM, STREAM, "w1 = 0; b1 = 0", {"w1": 24, "b1": 8}, "the whole producer is 0: it and the Add go, the axis stays 8", "needs a channel to be dead in both"),
    Case("a dead block", "4", "a = Conv(x, w0, b0) c = Conv<pads=[1,1,1,1]>(a, w1, b1) d = Relu(c) e = Conv(d, w2, b2) f = Add(a, e) y = Conv(f, w9, b9)",
         PLAIN + " w1[4,8,3,3] b1[4] w2[8,4,1,1] b2[8]", "w2 = 0; b2 = 0", {"w1": 288, "b1": 4, "w2": 32, "b2": 8}, "a block that adds 0 goes with all that only feeds it", "leaves one channel of it"),
    Case("a dead first producer", "4", SUM, STREAM, "w0 = 0; b0 = 0", {"w0": 24, "b0": 8}, "0 + c is c", "looks at the second operand only"),
    Case("product, one factor dead", "4", SUM.replace("Add", "Mul"), STREAM, "w0[2] = 0; b0[2] = 0", BOTH, "0 times anything is 0: the live factor's row goes too", "asks for zeros in both"),
    Case("squeeze and excitation", "4", EXCITED, PLAIN + " w1[4,8,1,1] b1[4] w2[8,4,1,1] b2[8]", "w0[2] = 0; b0[2] = 0", ONE | {"w1": 4, "w2": 4, "b2": 1},
         "the gate of a dead channel multiplies 0", "slices the gate's operand only: invalid"),
    Case("squeeze and excitation, a gate of a half", "4 2", EXCITED, PLAIN + " w1[4,8,1,1] b1[4] w2[8,4,1,1] b2[8]", "w2[2] = 0; b2[2] = 0", {}, "Sigmoid(0) is 0.5: the channel lives, halved", "takes a zero gate row for a closed gate"),
    Case("squeeze and excitation, a gate that never opens", "4 2", "a = Conv(x, w0, b0) r = Relu(a) p = GlobalAveragePool(r) h0 = Conv(p, w1, b1) h = Relu(h0) e = Conv(h, w2, b2) s = Sigmoid(e) m = Mul(r, s) y = Conv(m, w9, b9)",
         PLAIN + " w1[4,8,1,1] b1[4] w2[8,4,1,1] b2[8]", "w1 = -0.3; b1 = -0.1", {"w1": 32, "b1": 4, "w2": 32, "b2": 8, "s": -8}, "means of what is never below 0, times -0.3: nothing comes out of h, and the gate is Sigmoid(b2), a scale", "computes the gate each time"),
    Case("concat", "4", "a = Conv(x, w0, b0) c = Conv(x, w1, b1) d = Concat<axis=1>(a, c) b = Relu(d) y = Conv(b, w9, b9)", "w0[8,3,1,1] b0[8] w1[4,3,1,1] b1[4] w9[5,12,1,1] b9[5]",
         "w0[7] = 0; b0[7] = 0; w1[1] = 0; b1[1] = 0.5", {"w0": 3, "b0": 1, "w1": 3, "b1": 1, "w9": 10}, "places 7 and 9 of the concatenation; the second folds 0.5", "forgets the offset of the second piece"),
    Case("dense connections", "4", "a = Conv(x, w0, b0) c = Concat<axis=1>(x, a) d = Conv(c, w1, b1) e = Concat<axis=1>(c, d) y = Conv(e, w9, b9)",
         "w0[8,3,1,1] b0[8] w1[4,11,1,1] b1[4] w9[5,15,1,1] b9[5]", "w0[2] = 0; b0[2] = 0", {"w0": 3, "b0": 1, "w1": 4, "w9": 5}, "place 5 of both concatenations", "follows one reader"),
    Case("split", "4", "a = Conv(x, w0, b0) c, d = Split<axis=1>(a, parts) e = Relu(c) f = Sigmoid(d) b = Mul(e, f) y = Conv(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,4,1,1] b9[5]",
         "w0[2] = 0; b0[2] = 0", {"w0": 6, "b0": 2, "w9": 5}, "a gated unit: row 2 is 0, so its gate, row 6, is not needed", "slices 1 of 2 rows", constants="int64[2] parts = {4,4}"),
    # initializers used twice
    Case("a kernel used twice", "9", "a = Conv(x, w0, b0) r = Relu(a) c = Conv(r, w1, b1) s = Relu(c) d = Conv(s, w1, b1) t = Relu(d) y = Conv(t, w9, b9)",
         PLAIN + " w1[8,8,1,1] b1[8]", "w1[2] = 0; b1[2] = 0", {}, "column 2 of w1 reads a live channel at its first use: row and column go together or not", "slices w1 for one use and breaks the other"),
    Case("a kernel used twice, dead at both", "9", "a = Conv(x, w0, b0) r = Relu(a) c = Conv(r, w1, b1) s = Relu(c) d = Conv(s, w1, b1) t = Relu(d) y = Conv(t, w9, b9)",
         PLAIN + " w1[8,8,1,1] b1[8]", "w1[2] = 0; b1[2] = 0; w0[2] = 0; b0[2] = 0", ONE | {"w1": 15, "b1": 1}, "dead at every use: w1 loses a row and a column", "slices w1 twice"),
    Case("a scale shared by accident", "9", "a = Conv(x, w0, b0) c = Mul(a, s) d = Conv(c, w1, b1) e = Mul(d, s) y = Conv(e, w9, b9)", PLAIN + " w1[8,8,1,1] b1[8] s[8,1,1]",
         "s = 1; w0[2] = 0; b0[2] = 0", {"w0": 3, "b0": 1, "w1": 8, "copy of s": -7}, "the first layer's scale becomes 7 long, the second stays 8", "slices the shared scale for both"),
    Case("all dead", "9", through("Relu(a)"), PLAIN, "w0 = 0; b0 = 0", {"w0": 21, "b0": 7, "w9": 35}, "never an axis without elements: one of eight stays, or the whole is replaced", "leaves an empty axis", more=True),
    Case("an embedding's rows", "9", "e = Gather(table, ids) a = MatMul(e, w0) y = Add(a, b0)", "table[10,8] w0[8,5] b0[5]", "table[3] = 0", {}, "rows are picked by what comes in: none can go", "takes row 3 for a dead channel",
         inputs="int64[N,T] ids", outputs="float[N,T,P] y"),
    Case("an embedding's columns", "9", "e = Gather(table, ids) a = MatMul(e, w0) y = Add(a, b0)", "table[10,8] w0[8,5] b0[5]", "table[:,3] = 0", {"table": 10, "w0": 5}, "a feature that is 0 for every row", "leaves tables alone",
         inputs="int64[N,T] ids", outputs="float[N,T,P] y"),
)  # fmt: skip
