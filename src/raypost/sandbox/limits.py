"""How much memory, time and output one job in the sandbox may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Bounds of one job on untrusted bytes.

    Attributes:
        memory_max_bytes: Address space above what the worker has when it starts.
        cpu_max_s: Processor time, whole seconds.
        wall_max_s: Time on the clock until the answer is complete.
        output_max_bytes: Size of the file a job may write.
    """

    memory_max_bytes: int = 1 << 30
    cpu_max_s: int = 60
    wall_max_s: float = 120.0
    output_max_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        if min(self.memory_max_bytes, self.cpu_max_s, self.output_max_bytes) < 1 or self.wall_max_s <= 0:
            raise ValueError("limits of the sandbox must be positive")
