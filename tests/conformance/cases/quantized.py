"""Quantised weights and activations. Invariant 10."""

from tests.conformance.case import Case

LATER = "rules for quantised pairs are still to come"
WEIGHTS = "k = DequantizeLinear<axis=0>(w0, k_scale, kz) a = Conv(x, k, b0) b = Relu(a) y = Conv(b, w9, b9)"
ROUNDED = "a = Conv(x, w0, b0) q = QuantizeLinear(a, step, nought) d = DequantizeLinear(q, step, nought) b = Relu(d) y = Conv(b, w9, b9)"

CASES = (
    Case("quantised weights, a scale for each row", "10 QDQ", WEIGHTS, "int8 w0[8,3,1,1] k_scale[8] int8 kz[8] b0[8] w9[5,8,1,1] b9[5]", "kz = 0; w0[2] = 0; b0[2] = 0",
         {"w0": 3, "k_scale": 1, "kz": 1, "b0": 1, "w9": 5}, "scale and zero point shrink with the axis", "leaves eight scales for seven rows: invalid", may_keep=LATER),
    Case("the zero point is zero", "10 QDQ", WEIGHTS, "uint8 w0[8,3,1,1] k_scale[8] uint8 kz[8] b0[8] w9[5,8,1,1] b9[5]", "kz = 128; w0[2] = 128; b0[2] = 0",
         {"w0": 3, "k_scale": 1, "kz": 1, "b0": 1, "w9": 5}, "128 - 128 is 0", "looks for stored zeros", may_keep=LATER),
    Case("a stored zero is not zero", "10 QDQ", WEIGHTS, "uint8 w0[8,3,1,1] k_scale[8] uint8 kz[8] b0[8] w9[5,8,1,1] b9[5]", "kz = 128; w0[2] = 0; b0[2] = 0", {},
         "0 - 128 is -128 steps", "takes stored zeros for dead"),
    Case("a column of the zero point", "10 QDQ 5", "k = DequantizeLinear<axis=0>(w9, k_scale, kz) a = Conv(x, w0, b0) b = Sigmoid(a) y = Conv(b, k, b9)",
         "w0[8,3,1,1] b0[8] uint8 w9[5,8,1,1] k_scale[5] uint8 kz[5] b9[5]", "kz = 128; w9[:,2] = 128", {"w0": 3, "b0": 1, "w9": 5}, "the reader weighs channel 2 with 0; its scales belong to rows and stay", "keeps it", may_keep=LATER),
    Case("quantised activations", "10 QDQ", ROUNDED, "w0[8,3,1,1] b0[8] w9[5,8,1,1] b9[5]", "w0[2] = 0; b0[2] = 0", {"w0": 3, "b0": 1, "w9": 5}, "0 is the zero point 128, and comes back as 0", "takes 128 for the value",
         constants="float step = {0.05}, uint8 nought = {128}", may_keep=LATER),
    Case("a quantised constant", "10 QDQ 6", ROUNDED, "w0[8,3,1,1] b0[8] w9[5,8,1,1] b9[5]", "w0[2] = 0; b0[2] = 1.4", {"w0": 3, "b0": 1, "w9": 5}, "in steps of 1, 1.4 is 1: that folds", "folds 1.4",
         constants="float step = {1}, uint8 nought = {128}", may_keep=LATER),
    Case("a constant outside the quantised range", "10 QDQ 6", ROUNDED, "w0[8,3,1,1] b0[8] w9[5,8,1,1] b9[5]", "w0[2] = 0; b0[2] = 9", {"w0": 3, "b0": 1, "w9": 5}, "127 steps of 0.05 are the largest: 6.35 folds", "folds 9",
         constants="float step = {0.05}, uint8 nought = {128}", may_keep=LATER),
)  # fmt: skip
