"""Constants at borders: read through zero padding they don't fold; k of them are worth one. Invariant 7."""

from tests.conformance.case import Case

WIDE = "w0[8,3,1,1] b0[8] w9[5,8,3,3] b9[5]"
CHANNEL = {"w0": 3, "b0": 1, "w9": 45}
CONSTANT = "w0[2] = 0; b0[2] = 1.5"
TWO_CONSTANTS = "w0[2] = 0; b0[2] = 1.5; w0[5] = 0; b0[5] = 0.5"
PAD = "int64[8] p = {0,0,1,1,0,0,1,1}"


def read(attributes: str) -> str:
    """A 3x3 convolution with these attributes reads the channels."""
    return f"a = Conv(x, w0, b0) b = Relu(a) y = Conv<{attributes}>(b, w9, b9)"


CASES = (
    Case("a constant under zero padding", "7", read("pads=[1,1,1,1]"), WIDE, CONSTANT, {},
         "a window at the border sees 1.5 fewer times: one constant channel must stay", "folds it into the bias: wrong at the border"),
    Case("two constants under zero padding", "7", read("pads=[1,1,1,1]"), WIDE, TWO_CONSTANTS, CHANNEL,
         "0.5 is a third of 1.5: a third of its kernel goes to the other, borders included", "folds both, or keeps both"),
    Case("a constant and zeros under zero padding", "7", read("pads=[1,1,1,1]"), WIDE, "w0[2] = 0; b0[2] = 1; w0[5] = 0; b0[5] = -1; w0[6] = 0; b0[6] = 3",
         {"w0": 6, "b0": 2, "w9": 90}, "Relu(-1) is 0 and goes; 1 merges into 3, or 3 into 1", "divides by the one that is 0"),
    Case("a negative constant under zero padding", "7", "a = Conv(x, w0, b0) b = LeakyRelu<alpha=0.5>(a) y = Conv<pads=[1,1,1,1]>(b, w9, b9)", WIDE,
         "w0[2] = 0; b0[2] = 2; w0[5] = 0; b0[5] = -2; w0[6] = 0; b0[6] = 1", {"w0": 6, "b0": 2, "w9": 90}, "2, -1 and 1: two of three go", "adds magnitudes"),
    Case("asymmetric pads", "7 asymmetric", read("pads=[0,0,1,1]"), WIDE, CONSTANT, {}, "the lower right border differs", "takes pads[0] for all four"),
    Case("asymmetric pads, two constants", "7 asymmetric", read("pads=[0,2,1,0]"), WIDE, TWO_CONSTANTS, CHANNEL, "merging is exact for any padding", "keeps both"),
    Case("auto_pad same", "7 auto_pad", read('auto_pad="SAME_UPPER", strides=[2,2]'), WIDE, CONSTANT, {}, "SAME pads with 0 at one side", "reads no auto_pad, finds no pads, folds"),
    Case("auto_pad same, two constants", "7 auto_pad", read('auto_pad="SAME_LOWER"'), WIDE, TWO_CONSTANTS, CHANNEL, "merging is exact for any padding", "keeps both"),
    Case("auto_pad valid", "7 auto_pad", read('auto_pad="VALID"'), WIDE, CONSTANT, CHANNEL, "VALID pads nothing: folds", "takes any auto_pad for padding"),
    Case("reflected borders", "7 padding modes", 'a = Conv(x, w0, b0) b = Relu(a) q = Pad<mode="reflect">(b, p) y = Conv(q, w9, b9)', WIDE, CONSTANT, CHANNEL,
         "1.5 mirrored is 1.5: uniform, folds", "takes any Pad for zeros", constants=PAD),
    Case("repeated borders", "7 padding modes", 'a = Conv(x, w0, b0) b = Relu(a) q = Pad<mode="edge">(b, p) y = Conv(q, w9, b9)', WIDE, CONSTANT, CHANNEL,
         "1.5 repeated is 1.5", "takes any Pad for zeros", constants=PAD),
    Case("a Pad of zeros before the reader", "7 padding modes", "a = Conv(x, w0, b0) b = Relu(a) q = Pad(b, p) y = Conv(q, w9, b9)", WIDE, CONSTANT, {},
         "1.5 with a border of 0 is no constant", "sees a padless convolution and folds", constants=PAD),
    Case("zeros inside a Pad of zeros", "7 padding modes", "a = Conv(x, w0, b0) b = Relu(a) q = Pad(b, p) y = Conv(q, w9, b9)", WIDE, "w0[2] = 0; b0[2] = 0", CHANNEL,
         "0 with a border of 0 is 0", "keeps it", constants=PAD),
    Case("a constant through a padded depthwise", "7", "a = Conv(x, w0, b0) c = Conv<group=8, pads=[1,1,1,1]>(a, wd, bd) b = Relu(c) y = Conv(b, w9, b9)",
         "w0[8,3,1,1] b0[8] wd[8,1,3,3] bd[8] w9[5,8,1,1] b9[5]", "w0[2] = 0; b0[2] = 1.5; wd[2] = 1; bd[2] = 0", {}, "9, 6 or 4 times 1.5, by position", "folds 9 times 1.5"),
    Case("average pooling that counts its padding", "7", "a = Conv(x, w0, b0) b = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a) y = Conv(b, w9, b9)",
         "w0[8,3,1,1] b0[8] w9[5,8,1,1] b9[5]", CONSTANT, {}, "a corner holds 4/9 of 1.5", "takes the mean of a constant for the constant"),
    Case("zeros through average pooling that counts its padding", "7 ceil_mode", "a = Conv(x, w0, b0) b = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1, ceil_mode=1>(a) y = Conv(b, w9, b9)",
         "w0[8,3,1,1] b0[8] w9[5,8,1,1] b9[5]", "w0[2] = 0; b0[2] = 0", {"w0": 3, "b0": 1, "w9": 5}, "the mean of zeros is 0, whatever is counted", "keeps it"),
    Case("two constants, one reader pads", "7", "a = Conv(x, w0, b0) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w9, b9) d = Conv(r, w1, b1) y = Add(c, d)",
         WIDE + " w1[5,8,1,1] b1[5]", TWO_CONSTANTS, CHANNEL | {"w1": 5}, "both readers merge by the same ratio, so one of the two goes", "folds in one reader and merges in the other by another ratio"),
)  # fmt: skip
