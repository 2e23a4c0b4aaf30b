"""Devices and their stated numbers, and the cluster a run is planned for.

The numbers are the makers' data sheets: dense bfloat16 without sparsity, bandwidths in one direction. Memory
is what programs see of it, rounded down. None of them was measured by this project, except the CPU's, which
are those of the two-core machine that it is developed on. Each can be overridden.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One device, and how fast it talks to others.

    `memory_gib` in GiB, `tflops` in 1e12 floating-point operations per second, bandwidths in 1e9 bytes per
    second: `hbm_gbs` to its own memory, `intra_gbs` to devices of the same node, `inter_gbs` to those of
    other nodes, `host_gbs` to main memory. On a CPU "device" means one rank's share of the machine.
    """

    name: str
    memory_gib: float
    tflops: float
    hbm_gbs: float
    intra_gbs: float
    inter_gbs: float
    host_gbs: float

    @property
    def is_gpu(self) -> bool:
        return self.name != "CPU"


DEVICES = {
    device.name: device
    for device in (
        Device("A100", 79, 312, 2000, 300, 25, 25),
        Device("H100", 79, 989, 3350, 450, 50, 50),
        Device("H200", 139, 989, 4800, 450, 50, 50),
        Device("B200", 178, 2250, 7700, 900, 50, 50),
        Device("CPU", 8, 0.08, 10, 1, 0.1, 10),
    )
}
"""80 GB A100 and H100, 141 GB H200, 192 GB B200, all with NVLink; 200 or 400 Gbit/s a GPU between nodes."""


@dataclass(frozen=True)
class Assumptions:
    """Shares of the stated numbers that a run is expected to reach, and what libraries take.

    Not measurements: values that reports on comparable systems make plausible, for one to correct by what a
    first run shows.
    """

    training: float = 0.35
    """Share of `tflops` in forward and backward passes."""
    prefill: float = 0.5
    """Share of `tflops` when vLLM reads prompts."""
    bandwidth: float = 0.6
    """Share of memory and link bandwidths."""
    decode_overhead_s: float = 0.01
    """Seconds of a decoding step that no device number explains: scheduling, sampling, kernel launches."""
    reserve: float = 0.06
    """Share of a device's memory that nothing may plan with: CUDA context, NCCL, fragmentation."""
    engine_gib: float = 2.0
    """vLLM's own buffers on a GPU beside weights and KV cache, in GiB."""


@dataclass(frozen=True)
class Cluster:
    """`gpus` devices (or CPU ranks) in nodes of `per_node`."""

    device: Device
    gpus: int
    per_node: int = 8
    assumptions: Assumptions = Assumptions()

    @property
    def usable_bytes(self) -> int:
        """Bytes of one device's memory that can be planned with."""
        return int(self.device.memory_gib * 2**30 * (1 - self.assumptions.reserve))

    def link(self, span: int) -> float:
        """Bytes per second and rank within a group that spans so many consecutive ranks."""
        rate = self.device.intra_gbs if span <= self.per_node else self.device.inter_gbs
        return rate * 1e9 * self.assumptions.bandwidth
