"""Operators that mix the places of an axis, and attention. Invariants 3 and 12."""

from tests.conformance.case import Case
from tests.conformance.cases.values import ONE, PLAIN, ZERO, through

SEQUENCE = {"inputs": "float[N,6,8] x", "outputs": "float[N,6,P] y"}
ONE_HEAD = (
    "q0 = MatMul(x, wq) q = Add(q0, bq) k0 = MatMul(x, wk) k = Add(k0, bk) v0 = MatMul(x, wv) v = Add(v0, bv)"
    " t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) z = Mul(s, half) p = Softmax<axis=-1>(z) o = MatMul(p, v) u = MatMul(o, wo) y = Add(u, bo)"
)
ONE_HEAD_WEIGHTS = "wq[8,4] bq[4] wk[8,4] bk[4] wv[8,4] bv[4] wo[4,8] bo[8]"
TWO_HEADS = (
    "q0 = MatMul(x, wq) q1 = Add(q0, bq) q2 = Reshape(q1, rows) q = Transpose<perm=[0,2,1,3]>(q2)"
    " k0 = MatMul(x, wk) k1 = Add(k0, bk) k2 = Reshape(k1, rows) k = Transpose<perm=[0,2,3,1]>(k2)"
    " v0 = MatMul(x, wv) v1 = Add(v0, bv) v2 = Reshape(v1, rows) v = Transpose<perm=[0,2,1,3]>(v2)"
    " s = MatMul(q, k) z = Mul(s, half) p = Softmax<axis=-1>(z) o = MatMul(p, v) o1 = Transpose<perm=[0,2,1,3]>(o) o2 = Reshape(o1, flat)"
    " u = MatMul(o2, wo) y = Add(u, bo)"
)
TWO_HEADS_WEIGHTS = "wq[8,8] bq[8] wk[8,8] bk[8] wv[8,8] bv[8] wo[8,8] bo[8]"
HEADS = SEQUENCE | {"constants": "int64[4] rows = {0,0,2,4}, int64[3] flat = {0,0,8}, float half = {0.5}"}

CASES = (
    Case("softmax over channels", "3", through("Softmax<axis=1>(a)"), PLAIN, ZERO, {}, "a 0 has its share: exp(0)", "drops it and raises the other shares"),
    Case("layer norm over channels", "3", "a = Conv(x, w0, b0) t = Transpose<perm=[0,2,3,1]>(a) n = LayerNormalization(t, s, h) m = MatMul(n, w9) y = Add(m, b9)",
         "w0[8,3,1,1] b0[8] s[8] h[8] w9[8,5] b9[5]", ZERO, {}, "a 0 counts in mean and variance", "normalises over 7", outputs="float[N,P,Q,R] y"),
    Case("group norm", "3", "a = Conv(x, w0, b0) b = GroupNormalization<num_groups=2>(a, s, h) y = Conv(b, w9, b9)", PLAIN + " s[8] h[8]", ZERO + "; w0[5] = 0; b0[5] = 0", {},
         "zeros count in each group's statistics", "normalises over 3", opset=21, ir_version=10),
    Case("a sum over channels", "3", "a = Conv(x, w0, b0) b = ReduceSum(a, ax) y = Conv(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,1,1,1] b9[5]", ZERO, {"w0": 3, "b0": 1}, "0 adds nothing", "pins every reduction",
         constants="int64[1] ax = {1}"),
    Case("a mean over channels", "3", "a = Conv(x, w0, b0) b = ReduceMean<axes=[1]>(a) y = Conv(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,1,1,1] b9[5]", ZERO, {"w0": 3, "b0": 1}, "the mean over 7, times 7/8", "forgets the 7/8"),
    Case("a mean over no axes", "3", "a = Conv(x, w0, b0) b = ReduceMean<noop_with_empty_axes=1>(a, ax) y = Conv(b, w9, b9)", PLAIN, ZERO, ONE, "without axes it gives back what it gets", "scales what is left by 7/8",
         constants="int64[0] ax = {}", opset=18),
    Case("a largest over channels", "3", "a = Conv(x, w0, b0) b = ReduceMax<axes=[1]>(a) y = Conv(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,1,1,1] b9[5]", ZERO, {}, "0 is the largest where all others are negative", "takes 0 for harmless"),
    Case("a position on the axis", "3 14", "a = Conv(x, w0, b0) i = ArgMax<axis=1>(a) y = Cast<to=1>(i)", "w0[8,3,1,1] b0[8]", ZERO, {}, "positions behind it would shift", "renumbers classes"),
    Case("root mean square norm", "3", "a0 = MatMul(x, w0) a = Add(a0, b0) n = RMSNormalization(a, s) m = MatMul(n, w9) y = Add(m, b9)", "w0[8,12] b0[12] s[12] w9[12,5] b9[5]",
         "w0[:,2] = 0; b0[2] = 0", {"w0": 8, "b0": 1, "s": 1, "w9": 5}, "0 adds nothing to the squares: the mean over 11 and epsilon rescaled by 12/11", "normalises over 11", opset=23, ir_version=11, **SEQUENCE),
    Case("a sum over positions", "3", "a = Conv(x, w0, b0) b = ReduceSum(a, ax) y = Conv(b, w9, b9)", PLAIN, ZERO, ONE, "each channel by itself: 0", "pins every reduction", constants="int64[2] ax = {2,3}"),
    Case("a constant summed over positions", "3 6", "a = Conv(x, w0, b0) b = ReduceSum(a, ax) y = Conv(b, w9, b9)", PLAIN, "w0[2] = 0; b0[2] = 0.5", ONE, "64 times 0.5 is 32 and folds", "folds 0.5", constants="int64[2] ax = {2,3}"),
    Case("a constant summed over positions of unknown number", "3 6", "a = Conv(x, w0, b0) b = ReduceSum(a, ax) y = Conv(b, w9, b9)", PLAIN, "w0[2] = 0; b0[2] = 0.5", {}, "height times width times 0.5 is not known", "takes one size for all",
         constants="int64[2] ax = {2,3}", inputs="float[N,3,H,W] x"),
    Case("local response", "3", through("LRN<size=3>(a)"), PLAIN, ZERO, {}, "its neighbours would become neighbours", "closes the gap"),
    Case("top k over channels", "3", "a = Conv(x, w0, b0) b, i = TopK<axis=1>(a, k) y = Conv(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,3,1,1] b9[5]", ZERO, {}, "a 0 may be among the three largest", "drops it", constants="int64[1] k = {3}"),
    # attention
    Case("a query and key dimension", "12", ONE_HEAD, ONE_HEAD_WEIGHTS, "wq[:,2] = 0; bq[2] = 0", {"wq": 8, "bq": 1, "wk": 8, "bk": 1}, "0 times k adds nothing to the scores; the scale 1/sqrt(4) stays",
         "rescales by 1/sqrt(3)", constants="float half = {0.5}", **SEQUENCE),
    Case("a value dimension", "12", ONE_HEAD, ONE_HEAD_WEIGHTS, "wv[:,1] = 0; bv[1] = 0", {"wv": 8, "bv": 1, "wo": 8}, "a mean of zeros is 0", "has no MatMul of two activations", constants="float half = {0.5}", **SEQUENCE),
    Case("a value dimension nobody reads", "12 5", ONE_HEAD, ONE_HEAD_WEIGHTS, "wo[1] = 0", {"wv": 8, "bv": 1, "wo": 8}, "row 1 of wo is 0", "has no MatMul of two activations", constants="float half = {0.5}", **SEQUENCE),
    Case("a head nobody reads", "12 5", TWO_HEADS, TWO_HEADS_WEIGHTS, "wo[4:8] = 0", {"wq": 32, "bq": 4, "wk": 32, "bk": 4, "wv": 32, "bv": 4, "wo": 32}, "the second head's rows of wo are 0: its queries, keys and values go with it",
         "sees 8 unread columns of v and leaves q and k, or breaks the Reshape", **HEADS),
    Case("a value dimension of each head", "12", TWO_HEADS, TWO_HEADS_WEIGHTS, "wo[1] = 0; wo[6] = 0", {"wv": 16, "bv": 2, "wo": 16}, "one unread place in each row of the grid: 2 heads of 3", "needs the same place in both heads", **HEADS),
    Case("a value dimension of one head", "12", TWO_HEADS, TWO_HEADS_WEIGHTS, "wo[1] = 0", {}, "the grid of heads and dimensions must stay rectangular", "leaves heads of 3 and 4", **HEADS),
    Case("a query dimension of each head", "12", TWO_HEADS, TWO_HEADS_WEIGHTS, "wq[:,1] = 0; bq[1] = 0; wk[:,6] = 0; bk[6] = 0", {"wq": 16, "bq": 2, "wk": 16, "bk": 2},
         "in the first head the query is 0, in the second the key: each product is 0", "asks both for the same side", **HEADS),
)  # fmt: skip
