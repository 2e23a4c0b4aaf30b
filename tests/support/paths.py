"""Where things are that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
RELEASED_DATA = ROOT.parent / "shared" / "data"
"""The released pairs and benchmarks, beside the repository where somebody put them there."""
