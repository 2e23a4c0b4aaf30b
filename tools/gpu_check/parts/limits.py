"""Figures against their limits."""

from collections.abc import Mapping

from tools.gpu_check.table import Figures


def within(figures: Mapping[str, float], limits: Mapping[str, float]) -> Figures:
    """The figures, each with its limit beside it in a figure of its own.

    Raises:
        AssertionError: one is above its limit or no number; all figures are in the message.
    """
    wrong = [name for name, limit in limits.items() if not figures[name] <= limit]
    shown: Figures = {
        name: f"{value:.3g} (at most {limits[name]:g})" if name in limits else value
        for name, value in figures.items()
    }
    assert not wrong, f"beyond the limit: {', '.join(wrong)}. All figures: {shown}"
    return shown
