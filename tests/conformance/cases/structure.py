"""Groups, layouts, dimensions, and the public interface. Invariant 8."""

from tests.conformance.case import Case
from tests.conformance.cases.values import ONE, PLAIN, ZERO, through

GROUPED = "a = Conv(x, w0, b0) c = Conv<group=2, pads=[1,1,1,1]>(a, w1, b1) b = Relu(c) y = Conv(b, w9, b9)"
GROUPED_WEIGHTS = "w0[8,3,1,1] b0[8] w1[6,4,3,3] b1[6] w9[5,6,1,1] b9[5]"
DEPTHWISE = "a = Conv(x, w0, b0) c = Conv<group=8, pads=[1,1,1,1]>(a, wd) b = Relu(c) y = Conv(b, w9, b9)"
SHUFFLED = "a = Conv(x, w0, b0) r = Reshape(a, apart) t = Transpose<perm=[0,2,1,3,4]>(r) b = Reshape(t, joined) y = Conv(b, w9, b9)"
SHUFFLE = "int64[5] apart = {0,2,4,8,8}, int64[4] joined = {0,8,8,8}"

CASES = (
    Case("depthwise", "groups", DEPTHWISE, PLAIN + " wd[8,1,3,3]", ZERO, ONE | {"wd": 9}, "0 times a kernel is 0: its kernel and the group go", "leaves group=8: invalid"),
    Case("a depthwise kernel", "groups", DEPTHWISE, PLAIN + " wd[8,1,3,3]", "wd[2] = 0", ONE | {"wd": 9}, "nobody reads channel 2, and it comes out as 0", "keeps the producer"),
    Case("depthwise, two for each", "groups", "a = Conv(x, w0, b0) c = Conv<group=8>(a, wd) b = Relu(c) y = Conv(b, w9, b9)", "w0[8,3,1,1] b0[8] wd[16,1,3,3] w9[5,16,1,1] b9[5]", ZERO,
         {"w0": 3, "b0": 1, "wd": 18, "w9": 10}, "one input channel makes two outputs", "takes one of two"),
    Case("one input of each group", "groups", GROUPED, GROUPED_WEIGHTS, "w0[2] = 0; b0[2] = 0; w0[5] = 0; b0[5] = 0", {"w0": 6, "b0": 2, "w1": 6 * 9}, "each group loses one of four inputs, its own choice", "needs the same place in both groups"),
    Case("one input in all", "groups", GROUPED, GROUPED_WEIGHTS, ZERO, {}, "groups of 3 and 4 inputs don't exist", "makes a graph that is invalid"),
    Case("one output of each group", "groups", GROUPED, GROUPED_WEIGHTS, "w1[1] = 0; b1[1] = 0; w1[5] = 0; b1[5] = 0", {"w1": 72, "b1": 2, "w9": 10}, "each group loses one of three outputs", "needs the same place in both groups"),
    Case("a whole group", "groups 5", GROUPED, GROUPED_WEIGHTS, "w9[:,0:3] = 0", {"w0": 12, "b0": 4, "w1": 3 * 36, "b1": 3, "w9": 15}, "no output of the first group is read: its four inputs go too, one group stays", "leaves group=2"),
    Case("a channel shuffle", "groups", SHUFFLED, PLAIN, "w0[1] = 0; b0[1] = 0; w0[5] = 0; b0[5] = 0", {"w0": 6, "b0": 2, "w9": 10}, "(2,4) becomes (4,2): channels 1 and 5 are row 1 of it, places 2 and 3 of w9", "slices columns 1 and 5", constants=SHUFFLE),
    Case("a channel shuffle, ragged", "groups", SHUFFLED, PLAIN, "w0[1] = 0; b0[1] = 0; w0[6] = 0; b0[6] = 0", {}, "regular in (2,4), but rows of 2, 1, 1 and 2 in (4,2)", "breaks the second Reshape", constants=SHUFFLE),
    Case("depth to space", "groups", "a = Conv(x, w0, b0) b = DepthToSpace<blocksize=2>(a) y = Conv(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,2,1,1] b9[5]", "w0[0] = 0; b0[0] = 0; w0[2] = 0; b0[2] = 0; w0[4] = 0; b0[4] = 0; w0[6] = 0; b0[6] = 0",
         {"w0": 12, "b0": 4, "w9": 5}, "channel 0 is made of rows 0, 2, 4 and 6, all 0", "takes rows 0 to 3"),
    Case("depth to space, a part", "groups", "a = Conv(x, w0, b0) b = DepthToSpace<blocksize=2>(a) y = Conv(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,2,1,1] b9[5]", "w0[0] = 0; b0[0] = 0", {}, "three of the four places of the block live", "slices one row of a block"),
    Case("flattened", "layout", "a = Conv(x, w0, b0) b = Relu(a) f = Flatten(b) y = Gemm<transB=1>(f, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,512] b9[5]", ZERO, {"w0": 3, "b0": 1, "w9": 320}, "64 columns of w9 belong to channel 2", "has no Gemm", outputs="float[N,P] y"),
    Case("tokens", "layout", "a = Conv<strides=[4,4]>(x, w0, b0) r = Reshape(a, rows) t = Transpose<perm=[0,2,1]>(r) m = MatMul(t, w9) y = Add(m, b9)", "w0[8,3,4,4] b0[8] w9[8,5] b9[5]", ZERO, {"w0": 48, "b0": 1, "w9": 5},
         "a patch embedding's channel is a feature of every token", "breaks the Reshape", constants="int64[3] rows = {0,8,-1}", outputs="float[N,Q,P] y"),
    Case("a slice of channels", "layout", "a = Conv(x, w0, b0) b = Slice(a, start, end, ax) y = Conv(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[5,4,1,1] b9[5]", "w0[3] = 0; b0[3] = 0", {"w0": 3 + 12, "b0": 1 + 4, "w9": 5},
         "channels 2 to 5 are read; of them 3 is 0, and 0, 1, 6 and 7 nobody reads", "moves the slice by one", constants="int64[1] start = {2}, int64[1] end = {6}, int64[1] ax = {1}"),
    Case("channels in another order", "layout", "a = Conv(x, w0, b0) b = Gather<axis=1>(a, order) y = Conv(b, w9, b9)", PLAIN, ZERO, ONE, "channel 2 is the sixth that is read, and the indices are renumbered", "keeps indices up to 7", constants="int64[8] order = {7,6,5,4,3,2,1,0}"),
    Case("resized", "layout", "a = Conv(x, w0, b0) b = Resize<mode=\"nearest\">(a, , , sizes) y = Conv(b, w9, b9)", PLAIN, ZERO, ONE, "sizes name 8 channels: 7 afterwards", "leaves 8 in the sizes", constants="int64[4] sizes = {1,8,16,16}", inputs="float[1,3,8,8] x"),
    Case("normalised by hand", "layout 6", "a = Conv(x, w0, b0) c = Sub(a, m) d = Div(c, s_scale) e = Mul(d, g) f = Add(e, h) b = Relu(f) y = Conv(b, w9, b9)", PLAIN + " m[1,8,1,1] s_scale[1,8,1,1] g[1,8,1,1] h[1,8,1,1]",
         "g[0,2] = 0; h[0,2] = 2", ONE | {"m": 1, "s_scale": 1, "g": 1, "h": 1}, "gain 0 leaves the shift 2, which folds", "drops the shift"),
    # dimensions
    Case("1d", "1d 7", "a = Conv(x, w0, b0) b = Relu(a) y = Conv<pads=[1,1]>(b, w9, b9)", "w0[8,3,1] b0[8] w9[5,8,3] b9[5]", "w0[2] = 0; b0[2] = -1; w0[5] = 0; b0[5] = 1; w0[6] = 0; b0[6] = 2", {"w0": 6, "b0": 2, "w9": 30}, "0 goes, and 1 merges into 2", "knows images only",
         inputs="float[N,3,16] x", outputs="float[N,P,Q] y"),
    Case("3d", "3d", "a = Conv(x, w0, b0) b = Sigmoid(a) y = Conv(b, w9, b9)", "w0[8,2,1,1,1] b0[8] w9[5,8,2,2,2] b9[5]", ZERO, {"w0": 2, "b0": 1, "w9": 40}, "0.5 times eight taps folds", "knows images only", inputs="float[N,2,4,4,4] x", outputs="float[N,P,Q,R,S] y"),
    Case("transposed convolution", "groups", "a = Conv(x, w0, b0) b = Relu(a) y = ConvTranspose<strides=[2,2]>(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[8,5,3,3] b9[5]", ZERO, {"w0": 3, "b0": 1, "w9": 45}, "rows of the kernel are its inputs", "slices axis 1"),
    Case("a constant into a transposed convolution", "7", "a = Conv(x, w0, b0) b = Relu(a) y = ConvTranspose<strides=[2,2]>(b, w9, b9)", "w0[8,3,1,1] b0[8] w9[8,5,3,3] b9[5]", "w0[2] = 0; b0[2] = 1", {}, "how many taps meet depends on the position", "folds the kernel's sum"),
    Case("a transposed convolution's output", "groups", "a = ConvTranspose<strides=[2,2]>(x, w0, b0) b = Relu(a) y = Conv(b, w9, b9)", "w0[3,8,2,2] b0[8] w9[5,8,1,1] b9[5]", "w0[:,2] = 0; b0[2] = 0.5", {"w0": 12, "b0": 1, "w9": 5}, "columns of the kernel are its outputs; the bias folds", "slices axis 0"),
    Case("a group, and half of a pair that shares an output with it", "4 groups", "a = Conv(x, w1, b1) b = Conv<group=2>(a, w8) c = Concat<axis=1>(a, b) d = Conv(c, w11) e = Concat<axis=1>(c, d) f = Conv<group=2>(e, w15) y = Conv(f, w9, b9)",
         "w1[4,3,1,1] b1[4] w8[4,2,1,1] w11[4,8,1,1] w15[4,6,1,1] w9[5,4,1,1] b9[5]", "w1[2:4] = 0; b1[2:4] = 0; w8[0] = 0", {"w1": 6, "b1": 2, "w8": 4, "w11": 16, "w15": 8},
         "each group of w15 loses two inputs with a group of w8; b[0] is dead too, but only one of the groups reads it", "leaves groups of unequal width"),
    Case("a dead group that a shuffle spreads", "4 groups", "a = Conv(x, w1) b = Conv<group=2, pads=[1,1,1,1]>(a, w3) s, t = Split<axis=1>(b, parts) u = Concat<axis=1>(t, s) g = Reshape(u, grid) h = Transpose<perm=[0,2,1,3,4]>(g) v = Reshape(h, row) y = Conv(v, w9, b9)",
         "w1[2,3,1,1] w3[8,1,3,3] w9[5,8,1,1] b9[5]", "w1[1] = 0", {}, "of the grid of 2 rows one loses its last two places and the other its first two: turned, those that stay would be in another order", "takes two of each row and reads them in the wrong order",
         constants="int64[2] parts = {2,6}, int64[5] grid = {-1,2,4,8,8}, int64[4] row = {-1,8,8,8}"),
    # the public interface
    Case("an output of the graph", "8", "y = Conv(x, w0, b0)", "w0[8,3,1,1] b0[8]", ZERO, {}, "callers see eight channels", "hands back seven"),
    Case("two outputs, one dead channel in both", "8 two outputs", through("Relu(a)"), PLAIN, ZERO, {}, "b is an output itself: eight channels", "shrinks b", outputs="float[N,P,Q,R] y, float[N,S,T,U] b"),
    Case("two outputs, behind the second", "8 two outputs", "a = Conv(x, w0, b0) b = Relu(a) y = Conv(b, w9, b9) z = Sigmoid(y)", PLAIN, ZERO, ONE, "the dead channel lies before both", "pins everything", outputs="float[N,P,Q,R] y, float[N,S,T,U] z"),
    Case("an input of the graph", "8 5", "y = Conv(x, w9, b9)", "w9[5,3,1,1] b9[5]", "w9[:,1] = 0", {}, "callers give three channels, read or not", "takes two"),
    Case("an output through a residual", "8 4", "a = Conv(x, w0, b0) c = Conv(a, w1, b1) y = Add(a, c)", "w0[8,3,1,1] b0[8] w1[8,8,1,1] b1[8]", "w0[2] = 0; b0[2] = 0; w1[2] = 0; b1[2] = 0", {}, "the shared axis is the output's", "hands back seven"),
    Case("recorded shapes", "8", through("Relu(a)"), PLAIN, ZERO, ONE, "what the file says of a and b is stale afterwards", "leaves value_info of eight channels: invalid", recorded_shapes=True),
    Case("dynamic height and width", "8", "a = Conv(x, w0, b0) b = Sigmoid(a) y = Conv(b, w9, b9)", PLAIN, ZERO, ONE, "exact at any size", "freezes the size", inputs="float[N,3,H,W] x"),
    Case("sizes without a name", "8 13", through("Sigmoid(a)"), PLAIN, ZERO, ONE, "'?' is a size like any other", "takes it for 0", inputs="float[?,3,?,?] x"),
)  # fmt: skip
