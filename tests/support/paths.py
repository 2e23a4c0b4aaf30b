"""Paths of the files that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
RELEASED_DATA = ROOT.parent / "shared" / "data"
"""The authors' released pairs and the benchmark files. Tests that need them are skipped without it."""
