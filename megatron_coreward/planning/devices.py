"""The memory of devices, and the cluster a run is planned for.

Memory is what programs see of a maker's stated size, rounded down; this project has measured none of it. The
CPU's is a rank's share of the two-core machine that the project is developed on.
"""

from dataclasses import dataclass

CPU = "CPU"
DEVICES = {"A100": 79.0, "H100": 79.0, "H200": 139.0, "B200": 178.0, CPU: 8.0}
"""Name -> GiB: 80 GB A100 and H100, 141 GB H200, 192 GB B200."""


@dataclass(frozen=True)
class Cluster:
    """`gpus` devices (or CPU ranks) in nodes of `per_node`. The last two numbers are assumed."""

    device: str
    memory_gib: float
    gpus: int
    per_node: int = 8
    reserve: float = 0.06
    """Share of a device's memory that nothing may plan with: CUDA context, NCCL, fragmentation."""
    engine_gib: float = 2.0
    """vLLM's own buffers on a GPU beside weights and KV cache, in GiB."""

    @property
    def on_gpu(self) -> bool:
        return self.device != CPU

    @property
    def usable_bytes(self) -> int:
        """Bytes of one device's memory that can be planned with."""
        return int(self.memory_gib * 2**30 * (1 - self.reserve))
