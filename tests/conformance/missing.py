"""What we don't take in full yet, {case: why}. Strict expected failures: a line goes when its case passes."""

FOLD = "known constants don't fold into their readers yet"
MERGE = "constants under zero padding don't merge yet"
FORWARD = "what is known isn't followed through this operator yet"
BACKWARD = "what nobody reads isn't followed through this operator yet"
BRANCH = "dead producers of a live axis stay"

_REASONS = {
    FOLD: [
        "a bias that saves", "sigmoid", "hard sigmoid", "exponential", "cosine", "softplus", "clip above 0",
        "a border of 1 around ones", "zero to the power of 0", "where, by a comparison", "float16 zeros",
        "a bias without a filter", "a reader without a bias", "three readers", "a padless 3x3 reader",
        "a strided and dilated reader", "a gemm reader", "a transposed gemm with alpha and beta",
        "behind global average pooling", "matmul and add", "batch norm shift", "zero before batch norm",
        "instance norm of a constant", "a constant through a padless depthwise", "a depthwise bias behind a zero",
        "constants on both sides of a product", "constants through a sum of squares",
        "a constant through average pooling", "a constant through max pooling", "a constant through resize",
        "auto_pad valid", "reflected borders", "repeated borders", "residual, constants", "concat",
        "a constant summed over positions", "normalised by hand", "3d", "a transposed convolution's output",
        "dynamic height and width", "sizes without a name", "a dead channel behind an LSTM",
        "a dead channel beside a branch", "opset 9, a bound above 0", "opset 13", "opset 17", "opset 26", "opset 28",
        "a kernel behind a transpose", "weights listed as inputs",
    ],
    MERGE: [
        "two constants under zero padding", "a constant and zeros under zero padding",
        "a negative constant under zero padding", "asymmetric pads, two constants", "auto_pad same, two constants",
        "two constants, one reader pads", "1d",
    ],
    FORWARD: [
        "split", "an embedding's columns", "a sum over channels", "a mean over channels", "root mean square norm",
        "a query and key dimension", "a value dimension", "a query dimension of each head", "depth to space",
        "channels in another order", "resized", "opset 7",
    ],
    BACKWARD: ["a value dimension nobody reads", "a head nobody reads", "a value dimension of each head"],
    BRANCH: ["a dead branch", "a dead block", "a dead first producer"],
    "duplicates stay": ["duplicate filters"],
    "subnormals aren't taken for 0 yet": ["float32 subnormals"],
}  # fmt: skip

MISSING = {name: reason for reason, names in _REASONS.items() for name in names}
