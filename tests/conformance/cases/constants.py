"""Channels that hold a constant, and readers into whose bias it folds. Invariant 6."""

from tests.conformance.case import Case
from tests.conformance.cases.values import ONE, PLAIN, through

CONSTANT = "w0[2] = 0; b0[2] = 1.5"
NORMED = "a = Conv(x, w0, b0) n = BatchNormalization(a, s, t, m, v_var) b = Relu(n) y = Conv(b, w9, b9)"
NORM = " s[8] t[8] m[8] v_var[8]"
NORM_GONE = {"s": 1, "t": 1, "m": 1, "v_var": 1}

CASES = (
    Case("a bias without a filter", "6", through("Relu(a)"), PLAIN, CONSTANT, ONE,
         "0 x + 1.5 is 1.5: 1.5 w9[:,2] goes into b9", "refuses every channel with a bias, or drops 1.5 w9[:,2]"),
    Case("a bias below relu", "6", through("Relu(a)"), PLAIN, "w0[2] = 0; b0[2] = -1", ONE,
         "Relu(-1) is 0: nothing to fold", "refuses every channel with a bias"),
    Case("a reader without a bias", "6", "a = Conv(x, w0, b0) b = Relu(a) y = Conv(b, w9)", "w0[8,3,1,1] b0[8] w9[50,8,1,1]", CONSTANT,
         {"w0": 3, "b0": 1, "w9": 50, "bias of y": -50}, "the reader gets a bias of 50 for the column of 50", "drops the constant"),
    Case("three readers", "6", "a = Conv(x, w0, b0) b = Relu(a) c = Conv(b, w1, b1) d = Conv(b, w2, b2) e = Conv(b, w9, b9) f = Add(c, d) y = Add(e, f)",
         PLAIN + " w1[5,8,1,1] b1[5] w2[5,8,1,1] b2[5]", CONSTANT, ONE | {"w1": 5, "w2": 5}, "folds into three biases", "folds into the first"),
    Case("a padless 3x3 reader", "6", "a = Conv(x, w0, b0) b = Relu(a) y = Conv(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,8,3,3] b9[5]", CONSTANT,
         {"w0": 3, "b0": 1, "w9": 45}, "without padding every window sees 1.5 nine times", "folds 1.5 once, or not at all"),
    Case("a strided and dilated reader", "6 dilations", "a = Conv(x, w0, b0) b = Relu(a) y = Conv<dilations=[2,2], strides=[2,1]>(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,8,3,3] b9[5]", CONSTANT,
         {"w0": 3, "b0": 1, "w9": 45}, "the same nine taps, wherever they lie", "keeps it"),
    Case("a gemm reader", "6", "a = Conv(x, w0, b0) b = Relu(a) f = Flatten(b) y = Gemm(f, w9, b9)", "w0[8,3,1,1] b0[8] w9[512,5] b9[5]", CONSTANT,
         {"w0": 3, "b0": 1, "w9": 64 * 5}, "64 places of the row hold 1.5: their 64 rows of w9 sum into b9", "has no Gemm, or takes one row of 64", outputs="float[N,P] y"),
    Case("a transposed gemm with alpha and beta", "6", "a = Conv(x, w0, b0) b = Relu(a) f = Flatten(b) y = Gemm<transB=1, alpha=0.5, beta=2.0>(f, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,512] b9[5]", CONSTANT,
         {"w0": 3, "b0": 1, "w9": 64 * 5}, "the bias counts twice and the product half: a quarter of 1.5 w9 goes into b9", "forgets alpha and beta", outputs="float[N,P] y"),
    Case("behind global average pooling", "6", "a = Conv<pads=[1,1,1,1]>(x, w0, b0) b = Relu(a) g = GlobalAveragePool(b) f = Flatten(g) y = Gemm(f, w9, b9)", "w0[8,3,3,3] b0[8] w9[8,5] b9[5]", CONSTANT,
         {"w0": 27, "b0": 1, "w9": 5}, "the mean of 1.5 is 1.5", "keeps it", outputs="float[N,P] y"),
    Case("matmul and add", "6", "h = MatMul(x, w0) a = Add(h, b0) b = Gelu(a) o = MatMul(b, w9) y = Add(o, b9)", "w0[6,8] b0[8] w9[8,6] b9[6]", "w0[:,2] = 0; b0[2] = 0.7",
         {"w0": 6, "b0": 1, "w9": 6}, "Gelu(0.7) folds into the Add behind the product", "has no MatMul", inputs="float[N,T,6] x", outputs="float[N,T,P] y", opset=20),
    Case("batch norm shift", "6", NORMED, PLAIN + NORM, "s[2] = 0; t[2] = 1", ONE | NORM_GONE,
         "scale 0 leaves the shift 1, which folds", "drops the shift (NNI 2130)"),
    Case("batch norm, scale and shift 0", "6", NORMED, PLAIN + NORM, "s[2] = 0; t[2] = 0", ONE | NORM_GONE, "0 behind the normalisation", "looks at filters only"),
    Case("zero before batch norm", "6", NORMED, PLAIN + NORM, "w0[2] = 0; b0[2] = 0; m[2] = -2; s[2] = 1; t[2] = 1; v_var[2] = 1", ONE | NORM_GONE,
         "(0 + 2) / sqrt(1 + 1e-5) + 1 is about 3 and folds", "takes a zero filter for a zero channel"),
    Case("instance norm of a constant", "6", "a = Conv(x, w0, b0) b = InstanceNormalization(a, s, t) y = Conv(b, w9, b9)", PLAIN + " s[8] t[8]", "w0[2] = 0; b0[2] = 1.7", {},
         "float32 rounds the mean of 1.7, and 1/sqrt(epsilon) = 316 magnifies what is left: 2e-3 over 56 x 56 places on ONNX Runtime, not 0", "takes the shift for all there is",
         inputs="float[N,3,H,W] x"),
    Case("instance norm of zeros", "6", "a = Conv(x, w0, b0) b = InstanceNormalization(a, s, t) y = Conv(b, w9, b9)", PLAIN + " s[8] t[8]", "w0[2] = 0; b0[2] = 0", ONE | {"s": 1, "t": 1},
         "0 minus its mean is 0: the shift t[2] is left, and folds", "drops the shift"),
    Case("a constant through a padless depthwise", "6", "a = Conv(x, w0, b0) c = Conv<group=8>(a, wd, bd) b = Relu(c) y = Conv(b, w9, b9)",
         PLAIN + " wd[8,1,3,3] bd[8]", CONSTANT, ONE | {"wd": 9, "bd": 1}, "1.5 times the kernel's sum plus bd[2] everywhere", "breaks the groups"),
    Case("a depthwise bias behind a zero", "6", "a = Conv(x, w0, b0) c = Conv<group=8, pads=[1,1,1,1]>(a, wd, bd) b = Relu(c) y = Conv(b, w9, b9)",
         PLAIN + " wd[8,1,3,3] bd[8]", "w0[2] = 0; b0[2] = 0; bd[2] = 1", ONE | {"wd": 9, "bd": 1}, "padded zeros are zeros: bd[2] everywhere", "drops bd[2]"),
    Case("constants on both sides of a product", "6", "a = Conv(x, w0, b0) c = Conv(x, w1, b1) b = Mul(a, c) y = Conv(b, w9, b9)", PLAIN + " w1[8,3,1,1] b1[8]",
         "w0[2] = 0; b0[2] = 1.5; w1[2] = 0; b1[2] = 2", ONE | {"w1": 3, "b1": 1}, "1.5 times 2 is 3 and folds", "keeps it"),
    Case("a constant beside a live factor", "6", "a = Conv(x, w0, b0) c = Conv(x, w1, b1) b = Mul(a, c) y = Conv(b, w9, b9)", PLAIN + " w1[8,3,1,1] b1[8]",
         CONSTANT, {}, "1.5 times something alive is alive", "folds 1.5"),
    Case("constants through a sum of squares", "6", "a = Conv(x, w0, b0) q = Mul(a, a) b = Sqrt(q) y = Conv(b, w9, b9)", PLAIN, "w0[2] = 0; b0[2] = -2", ONE,
         "|-2| is 2 and folds", "keeps it"),
    Case("a constant through average pooling", "6 ceil_mode", "a = Conv(x, w0, b0) b = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1>(a) y = Conv(b, w9, b9)", PLAIN, CONSTANT, ONE,
         "the mean over what is inside is 1.5 at borders too", "keeps it, or averages the border in"),
    Case("a constant through max pooling", "6 ceil_mode", "a = Conv(x, w0, b0) b = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1>(a) y = Conv(b, w9, b9)", PLAIN, "w0[2] = 0; b0[2] = -1.5", ONE,
         "the largest of -1.5 is -1.5: padding never wins", "takes padding for 0: max(0, -1.5)"),
    Case("a constant through resize", "6", "a = Conv(x, w0, b0) b = Resize<mode=\"linear\">(a, , scales) y = Conv(b, w9, b9)", PLAIN, CONSTANT, ONE,
         "between 1.5 and 1.5 lies 1.5", "keeps it", constants="float[4] scales = {1,1,2,2}"),
    Case("duplicate filters", "6 duplicates", "a = Conv<pads=[1,1,1,1]>(x, w0, b0) b = Sigmoid(a) y = Conv<pads=[1,1,1,1]>(b, w9, b9)", "w0[8,3,3,3] b0[8] w9[5,8,3,3] b9[5]", "w0[5] = w0[2]; b0[5] = b0[2]",
         {"w0": 27, "b0": 1, "w9": 45}, "equal in every weight: the reader's two columns are summed, padding or not", "compares norms, or keeps both"),
    Case("filters equal up to a sign", "6 duplicates", "a = Conv(x, w0, b0) b = Relu(a) y = Conv(b, w9, b9)", PLAIN, "w0[2] = 1; w0[5] = -1; b0[2] = 0; b0[5] = 0", {},
         "Relu(z) and Relu(-z) are two functions", "compares magnitudes"),
)  # fmt: skip
