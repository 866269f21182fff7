"""Operators without a rule, and why whatever they read stays. `*` stands for all of a domain."""

from onnxprune.graph.rules.registry import pins

pins("", "GRU", "LSTM", "RNN", why="keeps a state: recurrent operators aren't followed yet")
pins("", "If", "Loop", "Scan", "SequenceMap", why="runs subgraphs, which aren't followed yet")
pins(
    "",
    *("ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"),
    *("QLinearConv", "QLinearMatMul", "QuantizeLinear"),
    why="works on quantised numbers, which aren't followed yet",
)
pins(
    "",
    *("Attention", "CausalConvWithState", "LinearAttention", "RotaryEmbedding", "TensorScatter"),
    why="is fused from several operators, which isn't followed yet",
)
pins("ai.onnx.preview", "*", why="is fused from several operators, which isn't followed yet")
pins(
    "",
    *("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
    *("SequenceLength", "SplitToSequence"),
    why="keeps tensors in a sequence, where they aren't followed",
)
pins("", "Optional", "OptionalGetElement", "OptionalHasElement", why="holds a tensor that may not be there")
pins("", "NonMaxSuppression", why="picks boxes by their scores")
pins("", "NonZero", why="lists the places of whatever isn't 0")
pins("", "Unique", why="sorts what the tensor holds")
pins("", "MaxUnpool", why="reads positions in the whole tensor")
pins("", "AffineGrid", why="makes coordinates of what it reads")
pins("", "BitCast", why="reads the bits of numbers")
pins(
    "",
    *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    why="draws random numbers place by place",
)
pins("", "DFT", "MelWeightMatrix", "STFT", why="transforms a signal as a whole")
pins("", "BlackmanWindow", "HammingWindow", "HannWindow", why="makes a window of a given length")
pins("", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", why="is a loss over all classes")
pins("", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", why="reads text")
pins("", "ImageDecoder", why="decodes an image file")
pins("", "Constant", why="is read as an initializer, and labelled like one")
pins("ai.onnx.ml", "*", why="looks at a row of features as a whole")
pins("ai.onnx.preview.training", "*", why="trains")
