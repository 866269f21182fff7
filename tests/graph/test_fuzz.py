"""A sample of the damaged files that scripts/benchmarks/fuzz_load.py makes by the ten thousand."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"))

import fuzz_load


def test_a_sample_of_damaged_files_ends_in_a_result_or_a_sentence():
    results = fuzz_load.run(seed=7, count=300)
    assert {n: found for n, found in results.items() if found[0] not in fuzz_load.GOOD} == {}
    outcomes = [outcome for outcome, _ in results.values()]
    assert min(outcomes.count(outcome) for outcome in fuzz_load.GOOD) > 30, "a sample of one kind shows nothing"


def test_a_file_of_a_seed_is_always_the_same():
    assert fuzz_load.damaged(7, 5) == fuzz_load.damaged(7, 5) != fuzz_load.damaged(8, 5)
