"""What we don't take in full yet, {case: why}. Strict expected failures: a line goes when its case passes."""

_REASONS = {
    "a half can't hold the folded bias as closely as the proof asks": ["float16 zeros"],
    "the rounding of a constant's mean, times 1/sqrt(epsilon), may be more than the proof allows": [
        "instance norm of a constant"
    ],
}

MISSING = {name: reason for reason, names in _REASONS.items() for name in names}
