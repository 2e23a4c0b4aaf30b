"""Figures of micro-batches whose values are still on the device: reading one would make the host wait."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from megatron_coreward.utils.metrics import Figures


@dataclass
class TokenFigures:
    """Scalars by name, as tensors without a gradient."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    means: dict[str, tuple[torch.Tensor, int]] = field(default_factory=dict)
    """Total and count."""
    maxima: dict[str, torch.Tensor] = field(default_factory=dict)

    def add_sum(self, name: str, value: torch.Tensor) -> None:
        self.sums[name] = value.detach()

    def add_mean(self, name: str, total: torch.Tensor, count: int) -> None:
        self.means[name] = total.detach(), count

    def add_max(self, name: str, value: torch.Tensor) -> None:
        self.maxima[name] = value.detach()


def settled(shares: Iterable[TokenFigures]) -> Figures:
    """The figures of all micro-batches together, by one copy from the device."""
    shares = list(shares)
    tensors = [
        value
        for share in shares
        for value in (
            *share.sums.values(),
            *(total for total, _ in share.means.values()),
            *share.maxima.values(),
        )
    ]
    values = iter(torch.stack([value.double() for value in tensors]).tolist() if tensors else [])
    figures = Figures()
    for share in shares:
        for name in share.sums:
            figures.add_sum(name, next(values))
        for name, (_, count) in share.means.items():
            figures.add_mean(name, next(values), count)
        for name in share.maxima:
            figures.add_max(name, next(values))
    return figures
