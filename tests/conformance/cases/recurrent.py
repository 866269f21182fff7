"""Hidden units of recurrent operators, and bodies of control flow. Invariant 11."""

from tests.conformance.case import Case

LATER = "rules for recurrent operators are still to come"
FLOW = "what a branch or a loop captures is pinned as a whole"
#: Three features, four hidden units; the state at every step goes through a product.
LSTM = "h = LSTM<hidden_size=4>(x, wi, wr, bi) s = Squeeze(h, one) m = MatMul(s, w9) y = Add(m, b9)"
GRU = (
    "h = GRU<hidden_size=4, linear_before_reset=1>(x, wi, wr, bi) s = Squeeze(h, one) m = MatMul(s, w9) y = Add(m, b9)"
)
SEQUENCE = {"inputs": "float[6,N,3] x", "outputs": "float[6,N,P] y", "constants": "int64[1] one = {1}"}
LSTM_WEIGHTS = "wi[1,16,3] wr[1,16,4] bi[1,32] w9[4,5] b9[5]"
GRU_WEIGHTS = "wi[1,12,3] wr[1,12,4] bi[1,24] w9[4,5] b9[5]"
#: Of 16 x 4 weights 12 x 3 are left; of 12 x 4, 9 x 3.
LSTM_UNIT = {"wi": 12, "wr": 64 - 36, "bi": 8, "w9": 5}
GRU_UNIT = {"wi": 9, "wr": 48 - 27, "bi": 6, "w9": 5}


def rows(unit: int, gates: int) -> str:
    """Every gate's row of a unit, in all three tensors."""
    places = [gate * 4 + unit for gate in range(gates)]
    weights = [f"{name}[0,{place}] = 0" for place in places for name in ("wi", "wr")]
    return "; ".join(weights + [f"bi[0,{place}] = 0; bi[0,{place + 4 * gates}] = 0" for place in places])


def unread(unit: int) -> str:
    """The column by which gates read a unit, and its row of the product."""
    return f"wr[0,:,{unit}] = 0; w9[{unit}] = 0"


CASES = (
    Case("a dead unit of an LSTM", "11", LSTM, LSTM_WEIGHTS, rows(2, 4), LSTM_UNIT, "its cell adds sigmoid(0) tanh(0) = 0 to 0: it stays at 0", "takes one gate of four", may_keep=LATER, **SEQUENCE),
    Case("an unread unit of an LSTM", "11 5", LSTM, LSTM_WEIGHTS, unread(1), LSTM_UNIT, "no gate and no output reads it", "never prunes an LSTM", may_keep=LATER, **SEQUENCE),
    Case("a unit of an LSTM that remembers", "11", "h = LSTM<hidden_size=4>(x, wi, wr, bi, , h0, c0) s = Squeeze(h, one) m = MatMul(s, w9) y = Add(m, b9)", LSTM_WEIGHTS, rows(2, 4), {},
         "it starts at 0.7 and 0.9 and decays: alive", "looks at weights only", inputs="float[6,1,3] x", outputs="float[6,N,P] y",
         constants="int64[1] one = {1}, float[1,1,4] h0 = {0,0,0.7,0}, float[1,1,4] c0 = {0,0,0.9,0}"),
    Case("a unit of an LSTM with a bias", "11", LSTM, LSTM_WEIGHTS, rows(2, 4) + "; bi[0,14] = 1", {}, "the cell gate adds tanh(1) at every step", "takes its weights for all", **SEQUENCE),
    Case("a dead unit of a GRU", "11", GRU, GRU_WEIGHTS, rows(2, 3), GRU_UNIT, "half of its old state, 0, and half of tanh(0): it stays at 0", "takes one gate of three", may_keep=LATER, **SEQUENCE),
    Case("an unread unit of a GRU", "11 5", GRU, GRU_WEIGHTS, unread(1), GRU_UNIT, "no gate and no output reads it", "never prunes a GRU", may_keep=LATER, **SEQUENCE),
    Case("a dead feature before an LSTM", "11", "f0 = MatMul(x, w0) f = Add(f0, b0) h = LSTM<hidden_size=4>(f, wi, wr, bi) s = Squeeze(h, one) m = MatMul(s, w9) y = Add(m, b9)",
         "w0[3,6] b0[6] wi[1,16,6] wr[1,16,4] bi[1,32] w9[4,5] b9[5]", "w0[:,2] = 0; b0[2] = 0", {"w0": 3, "b0": 1, "wi": 16}, "column 2 of the input weights reads 0", "stops at the LSTM", may_keep=LATER, **SEQUENCE),
    Case("a dead channel behind an LSTM", "11", "h = LSTM<hidden_size=4>(x, wi, wr, bi) s = Squeeze(h, one) a0 = MatMul(s, w0) a = Add(a0, b0) r = Relu(a) m = MatMul(r, w9) y = Add(m, b9)",
         "wi[1,16,3] wr[1,16,4] bi[1,32] w0[4,8] b0[8] w9[8,5] b9[5]", "w0[:,2] = 0; b0[2] = 1", {"w0": 4, "b0": 1, "w9": 5}, "what follows is a plain perceptron: 1 folds", "gives up on the file", **SEQUENCE),
    Case("a unit read in both directions", "11", "h = LSTM<hidden_size=4, direction=\"bidirectional\">(x, wi, wr, bi) t = Transpose<perm=[0,2,1,3]>(h) s = Reshape(t, row) m = MatMul(s, w9) y = Add(m, b9)",
         "wi[2,16,3] wr[2,16,4] bi[2,32] w9[8,5] b9[5]", rows(2, 4), {}, "the forward unit is dead, the backward one lives: both directions have one hidden size", "cuts the hidden size of both",
         inputs="float[6,N,3] x", outputs="float[6,N,P] y", constants="int64[3] row = {0,0,8}"),
    # control flow
    Case("captured by a branch", "If 13", "a = Conv(x, w0, b0) b = If(flag) <then_branch = yes () => (float[N,8,8,8] t) { t = Relu(a) }, else_branch = no () => (float[N,8,8,8] e) { e = Tanh(a) }> y = Conv(b, w9, b9)",
         "w0[8,3,1,1] b0[8] w9[5,8,1,1] b9[5]", "w0[2] = 0; b0[2] = 0", {"w0": 3, "b0": 1, "w9": 5}, "both branches keep 0", "ignores captures and breaks a branch", inputs="float[N,3,8,8] x, bool flag", may_keep=FLOW),
    Case("captured by a branch that lives", "If", "a = Conv(x, w0, b0) b = If(flag) <then_branch = yes () => (float[N,8,8,8] t) { t = Relu(a) }, else_branch = no () => (float[N,8,8,8] e) { e = Cos(a) }> y = Conv(b, w9, b9)",
         "w0[8,3,1,1] b0[8] w9[5,8,1,1] b9[5]", "w0[2] = 0; b0[2] = 0", {}, "0 in one branch, 1 in the other", "asks the first branch", inputs="float[N,3,8,8] x, bool flag"),
    Case("a dead channel beside a branch", "If", "c = If(flag) <then_branch = yes () => (float[N,3,8,8] t) { t = Relu(x) }, else_branch = no () => (float[N,3,8,8] e) { e = Neg(x) }> a = Conv(c, w0, b0) b = Relu(a) y = Conv(b, w9, b9)",
         "w0[8,3,1,1] b0[8] w9[5,8,1,1] b9[5]", "w0[2] = 0; b0[2] = 1", {"w0": 3, "b0": 1, "w9": 5}, "what follows the branch is plain", "gives up on the file", inputs="float[N,3,8,8] x, bool flag"),
    Case("captured by a loop", "Loop", "a = Conv(x, w0, b0) i = Identity(a) b = Loop(times, go, i) <body = step (int64 n, bool c, float[N,8,8,8] s) => (bool d, float[N,8,8,8] o) { d = Identity(c) o = Add(s, a) }> y = Conv(b, w9, b9)",
         "w0[8,3,1,1] b0[8] w9[5,8,1,1] b9[5]", "w0[2] = 0; b0[2] = 0", {"w0": 3, "b0": 1, "w9": 5}, "0 plus 0, three times", "slices the state and not what the body adds", constants="int64 times = {3}, bool go = {1}", may_keep=FLOW),
    Case("a constant carried by a loop", "Loop", "a = Conv(x, w0, b0) i = Identity(a) b = Loop(times, go, i) <body = step (int64 n, bool c, float[N,8,8,8] s) => (bool d, float[N,8,8,8] o) { d = Identity(c) o = Add(s, a) }> y = Conv(b, w9, b9)",
         "w0[8,3,1,1] b0[8] w9[5,8,1,1] b9[5]", "w0[2] = 0; b0[2] = 1", {"w0": 3, "b0": 1, "w9": 5}, "1 + 1 + 1 + 1 is 4 and folds", "folds 1", constants="int64 times = {3}, bool go = {1}", may_keep=FLOW),
)  # fmt: skip
