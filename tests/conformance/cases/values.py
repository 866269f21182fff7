"""What a channel holds: zero, a known constant, or something alive. Invariants 1, 2, 5, 14 and 15."""

from tests.conformance.case import Case

PLAIN = "w0[8,3,1,1] b0[8] w9[5,8,1,1] b9[5]"
ONE = {"w0": 3, "b0": 1, "w9": 5}
TWO = {"w0": 6, "b0": 2, "w9": 10}
ZERO = "w0[2] = 0; b0[2] = 0"

DEEP = "a = Conv(x, w0, b0) r = Relu(a) c = Conv(r, w1, b1) d = Relu(c) y = Conv(d, w9, b9)"
DEEPER = "w0[8,3,1,1] b0[8] w1[6,8,1,1] b1[6] w9[5,6,1,1] b9[5]"
INNER = {"w1": 8, "b1": 1, "w9": 5}


def through(operator: str) -> str:
    """A 1x1 convolution, an operator, and a 1x1 convolution that reads it."""
    return f"a = Conv(x, w0, b0) b = {operator} y = Conv(b, w9, b9)"


CASES = (
    # zero is elementwise
    Case("zero filters", "1", through("Relu(a)"), PLAIN, "w0[2] = 0; b0[2] = 0; w0[5] = 0; b0[5] = 0", TWO,
         "two rows of w0 and b0 are 0, Relu keeps 0: both rows and the columns of w9 that read them", "leaves them"),
    Case("a filter that cancels", "1", through("Relu(a)"), PLAIN, "w0[2,0] = 1; w0[2,1] = -1; w0[2,2] = 0; b0[2] = 0", {},
         "1, -1, 0 sums to 0 and is not 0", "takes a sum of 0 for dead"),
    Case("a filter with one tap", "1", "a = Conv<pads=[1,1,1,1]>(x, w0, b0) b = Relu(a) y = Conv(b, w9, b9)",
         "w0[8,3,3,3] b0[8] w9[5,8,1,1] b9[5]", "w0[2] = 0; w0[2,0,1,1] = 0.001; b0[2] = 0", {},
         "one of 27 weights is not 0, so the channel lives", "judges by a norm with a threshold"),
    Case("a bias that saves", "1", through("Sin(a)"), PLAIN, "w0[2] = 0; b0[2] = 0.5; w0[5] = 0; b0[5] = 0", TWO,
         "channel 2 is sin(0.5), which goes into b9; channel 5 is 0", "looks at the kernel alone and loses sin(0.5)"),
    # f(0) is not always 0
    Case("sigmoid", "2", through("Sigmoid(a)"), PLAIN, ZERO, ONE,
         "Sigmoid(0) is 0.5: half the column of w9 goes into b9", "drops 0.5 w9[:,2]"),
    Case("hard sigmoid", "2", through("HardSigmoid(a)"), PLAIN, ZERO, ONE,
         "HardSigmoid(0) is 0.5 and folds into b9", "drops 0.5 w9[:,2]"),
    Case("exponential", "2", through("Exp(a)"), PLAIN, ZERO, ONE, "exp(0) is 1 and folds into b9", "drops w9[:,2]"),
    Case("cosine", "2", through("Cos(a)"), PLAIN, ZERO, ONE, "cos(0) is 1 and folds into b9", "drops w9[:,2]"),
    Case("softplus", "2", through("Softplus(a)"), PLAIN, ZERO, ONE, "ln 2 folds into b9", "drops ln 2 w9[:,2]"),
    Case("clip above 0", "2", through("Clip(a, low)"), PLAIN, ZERO, ONE,
         "Clip(0) is the lower bound 0.5, which folds into b9", "takes Clip for Relu", constants="float low = {0.5}"),
    Case("clip around 0", "2", through("Clip(a, low)"), PLAIN, ZERO, ONE,
         "Clip(0) is 0 as the bound is below", "keeps it", constants="float low = {-0.5}"),
    Case("a border of 1 around zeros", "2", through("Pad(a, p, one)"), PLAIN, ZERO, {},
         "0 inside and 1 at the border is no constant, and no other channel is like it", "takes Pad for harmless",
         constants="int64[8] p = {0,0,1,1,0,0,1,1}, float one = {1}"),
    Case("a border of 1 around ones", "2", through("Pad(a, p, one)"), PLAIN, "w0[2] = 0; b0[2] = 1", ONE,
         "1 everywhere: folds into b9", "refuses every Pad", constants="int64[8] p = {0,0,1,1,0,0,1,1}, float one = {1}"),
    Case("zero to the power of 0", "2", "a = Conv(x, w0, b0) q = Abs(a) b = Pow(q, e) y = Conv(b, w9, b9)", PLAIN, ZERO, ONE | {"e": 1},
         "0^0 is 1 (IEEE), which folds into b9; the exponents of the others are 2", "takes a power of 0 for 0",
         constants="float[8,1,1] e = {2,2,0,2,2,2,2,2}"),
    Case("tanh and friends", "2", "a = Conv(x, w0, b0) c = Tanh(a) d = LeakyRelu(c) e = Erf(d) b = HardSwish(e) y = Conv(b, w9, b9)",
         PLAIN, ZERO, ONE, "each of the four keeps 0", "stops at an operator it doesn't know"),
    Case("prelu", "2", through("PRelu(a, slope)"), PLAIN + " slope[8,1,1]", ZERO, ONE | {"slope": 1},
         "slope times 0 is 0: the slope's own place goes too", "leaves the slope 8 long: an invalid graph"),
    Case("divided", "2", through("Div(a, d_scale)"), PLAIN + " d_scale[8,1,1]", ZERO, ONE | {"d_scale": 1},
         "0 / d is 0", "leaves the divisor 8 long"),
    # who reads it
    Case("nobody reads it", "5", through("Sigmoid(a)"), PLAIN, "w9[:,2] = 0", ONE,
         "the only reader weighs a live channel with 0", "looks at producers only"),
    Case("neither of two reads it", "5", "a = Conv(x, w0, b0) r = Sigmoid(a) c = Conv(r, w1, b1) d = Conv(r, w9, b9) y = Add(c, d)",
         PLAIN + " w1[5,8,1,1] b1[5]", "w9[:,2] = 0; w1[:,2] = 0", ONE | {"w1": 5}, "both columns are 0", "keeps it"),
    Case("one of two reads it", "5", "a = Conv(x, w0, b0) r = Sigmoid(a) c = Conv(r, w1, b1) d = Conv(r, w9, b9) y = Add(c, d)",
         PLAIN + " w1[5,8,1,1] b1[5]", "w9[:,2] = 0", {}, "the other reader weighs it", "asks only one reader"),
    Case("read by the dead only", "5", "a = Conv(x, w0, b0) r = Sigmoid(a) c = Conv(r, w1, b1) s = Relu(c) y = Conv(s, w9, b9)",
         "w0[8,3,1,1] b0[8] w1[6,8,1,1] b1[6] w9[5,6,1,1] b9[5]",
         "w1[1:,2] = 0; w9[:,0] = 0", {"w0": 3, "b0": 1, "w1": 8 + 6 - 1, "b1": 1, "w9": 5},
         "channel 2 of a is read by row 0 of w1 alone, which nobody reads: a row and a column of w1 that cross", "goes one step only"),
    Case("a constant that only one of two can fold", "5 6", "a = Conv(x, w0, b0) r = Relu(a) c = Conv(r, w1, b1) d = Conv<pads=[1,1,1,1]>(r, w9, b9) y = Add(c, d)",
         "w0[8,3,1,1] b0[8] w1[5,8,1,1] b1[5] w9[5,8,3,3] b9[5]", "w0[2] = 0; b0[2] = 1", {},
         "the 3x3 reader sees a border of 0: it can't fold, so the channel stays for both", "folds where it must not"),
    # unknown is not a number
    Case("where, by a comparison", "14", "a = Conv(x, w0, b0) g = Greater(a, nought) b = Where(g, a, half) y = Conv(b, w9, b9)", PLAIN, ZERO, ONE,
         "0 > 0 is false: 0.5, which folds; of the other channels nothing is known", "lets NaN stand for unknown: NaN > 0 is false for all",
         constants="float nought = {0}, float half = {0.5}"),
    Case("through an integer", "14", "a = Conv(x, w0, b0) i = Cast<to=6>(a) b = Cast<to=1>(i) y = Conv(b, w9, b9)", PLAIN, ZERO, ONE,
         "0 stays 0 as an integer", "casts NaN to an integer and knows -2147483648"),
    Case("live through an integer", "14", "a = Conv(x, w0, b0) k = Mul(a, ten) i = Cast<to=6>(k) j = Mul(i, none) b = Cast<to=1>(j) c = Add(a, b) y = Conv(c, w9, b9)", PLAIN, "b9[0] = 0", {},
         "b is 0 everywhere, a is not: nothing but the sum may go, and no parameter with it", "takes c for known",
         constants="float ten = {10}, int32 none = {0}"),
    Case("a step that rounding decides", "2 14", "a = Conv(x, w0, b0) t = Tanh(a) b = Floor(t) y = Conv(b, w9, b9)", PLAIN, "w0[2] = 0; b0[2] = 9; w0[5] = 0; b0[5] = 0", ONE,
         "tanh(9) is 1 or a little less, and its floor 1 or 0, as the runtime has it: it stays; channel 5 is 0", "folds a floor of 0 where ONNX Runtime has 1"),
    # bounds
    Case("never above 0", "2", DEEP, DEEPER, "w1[2] = -0.3; b1[2] = -0.1", INNER, "a sum of nothing above 0 is nothing above 0, and 0 behind Relu", "looks for filters of 0 only"),
    Case("never above 0, beside a border", "2 7", DEEP.replace("Conv(r", "Conv<pads=[1,1,1,1]>(r"), DEEPER.replace("w1[6,8,1,1]", "w1[6,8,3,3]"), "w1[2] = -0.3; b1[2] = -0.1", INNER | {"w1": 72}, "the border adds zeros, which aren't above 0 either", "gives up beside a border"),
    Case("sometimes above 0", "2", DEEP, DEEPER, "w1[2] = -0.3; w1[2,4] = 0.001; b1[2] = -0.1", {}, "r[4] may be as large as it likes", "drops what is small beside the rest"),
    Case("above 0 where all inputs are 0", "2", DEEP, DEEPER, "w1[2] = -0.3; b1[2] = 0.1", {}, "0.1 is left where all inputs are 0", "forgets the bias"),
    Case("never above 0 behind a leak", "2", DEEP.replace("r = Relu", "r = LeakyRelu"), DEEPER, "w1[2] = -0.3; b1[2] = -0.1", {}, "a leak of -1 times -0.3 is above 0", "takes LeakyRelu for Relu"),
    Case("never above 0, bounded inputs", "2", DEEP.replace("r = Relu(a)", "r = Clip(a, nought, six)"), DEEPER, "w1[2] = 0.1; b1[2] = -5", INNER, "eight inputs of 6 at most give 4.8, less 5", "knows no bound", constants="float nought = {0}, float six = {6}"),
    Case("at times above 0, bounded inputs", "2", DEEP.replace("r = Relu(a)", "r = Clip(a, nought, six)"), DEEPER, "w1[2] = 0.1; b1[2] = -4.7", {}, "4.8 less 4.7 is above 0", "takes means for bounds", constants="float nought = {0}, float six = {6}"),
    Case("bounded by a sigmoid and a product", "2", DEEP.replace("r = Relu(a)", "q = Sigmoid(a) p = Tanh(a) r = Mul(q, p)"), DEEPER, "w1[2] = 0.2; b1[2] = -1.7", INNER, "eight numbers between -1 and 1 times 0.2 are 1.6 at most", "knows no bound"),
    Case("zero by zero", "14", "a = Conv(x, w0, b0) c = Div(a, a) n = IsNaN(c) b = Cast<to=1>(n) d = Add(a, b) y = Conv(d, w9, b9)", PLAIN, ZERO, {},
         "0 by 0 is no number, and whether it is one is asked", "takes 0 by anything for 0"),
    # subnormals
    Case("float32 subnormals", "15", through("Relu(a)"), PLAIN, "w0[2] = 1e-39; b0[2] = 0", ONE,
         "below 2^-126 counts as 0: the channel is at most 1e-38", "keeps a filter that makes convolutions 100 times slower"),
    Case("float32 subnormals that are no weights", "15", "a = Conv(x, w0, b0) r = Reshape(m, k) s = Sign(r) b = Mul(a, s) y = Conv(b, w9, b9)", PLAIN + " m[8]", ZERO + "; m = 1e-40", ONE | {"m": 1},
         "the sign of 1e-40 is 1: only the dead channel goes", "flushes m, and everything behind it is 0", constants="int64[4] k = {1,8,1,1}"),
    Case("float16 subnormals", "15", through("Relu(a)"), "float16 w0[8,3,1,1] float16 b0[8] float16 w9[5,8,1,1] float16 b9[5]",
         "w0[2] = 3e-5; b0[2] = 0; w9[:,2] = 30000", {}, "3e-5 times 30000 is 0.9: a subnormal of float16 is a number like any other",
         "flushes below 6e-5", inputs="float16[N,3,8,8] x", outputs="float16[N,P,Q,R] y"),
    Case("float16 zeros", "15 fp16", through("Sigmoid(a)"), "float16 w0[8,3,1,1] float16 b0[8] float16 w9[5,8,1,1] float16 b9[5]",
         ZERO, {}, "b9 + 0.5 w9[:,2] rounded to float16 is off by 5e-5 of the range: the proof, which widens halves, allows 1e-5", "rounds the sum, or has no float16",
         inputs="float16[N,3,8,8] x", outputs="float16[N,P,Q,R] y"),
    Case("float16 zeros, a sum that a half holds", "15 fp16", through("Sigmoid(a)"), "float16 w0[8,3,1,1] float16 b0[8] float16 w9[5,8,1,1] float16 b9[5]",
         ZERO + "; w9[:,2] = 0.5; b9 = 1.75", ONE, "1.75 + 0.5 * 0.5 is 2, in float16 too", "has no float16",
         inputs="float16[N,3,8,8] x", outputs="float16[N,P,Q,R] y"),
    Case("float16 zero through relu", "fp16", through("Relu(a)"), "float16 w0[8,3,1,1] float16 b0[8] float16 w9[5,8,1,1] float16 b9[5]",
         ZERO, ONE, "0 is 0 in any type", "has no float16", inputs="float16[N,3,8,8] x", outputs="float16[N,P,Q,R] y"),
    Case("bfloat16 zeros", "bf16", through("Relu(a)"), "bfloat16 w0[8,3,1,1] bfloat16 b0[8] bfloat16 w9[5,8,1,1] bfloat16 b9[5]",
         ZERO, ONE, "0 is 0 in any type", "has no bfloat16", inputs="bfloat16[N,3,8,8] x", outputs="bfloat16[N,P,Q,R] y", opset=22, ir_version=10),
    Case("bfloat16 weights behind casts", "bf16", "k = Cast<to=1>(w0) v = Cast<to=1>(w9) a = Conv(x, k, b0) b = Relu(a) y = Conv(b, v, b9)",
         "bfloat16 w0[8,3,1,1] b0[8] bfloat16 w9[5,8,1,1] b9[5]", ZERO, ONE, "stored as bfloat16, computed as float32",
         "looks for weights among the operands only"),
)  # fmt: skip
