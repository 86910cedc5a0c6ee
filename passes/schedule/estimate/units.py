"""Cycles that the shared units of a machine take, read off its architecture (docs/isa.md, Time)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.passes.schedule.copies.stage_costs import exact


@dataclass(frozen=True)
class Units:
    """The units of a machine. Sizes in bytes, results in whole cycles."""

    arch: Any

    @cached_property
    def _widths(self) -> dict[str, tuple[int, int]]:
        """Bytes a cycle as fractions, read once: numbers of an architecture file are decimals."""
        chip, net, link = self.arch.chip, self.arch.network, self.arch.chip.host_link
        wide = chip.global_buffer_bytes_per_cycle
        widths = {
            "port": self.arch.core.local_buffer_bytes_per_cycle,
            "buffer": wide,
            "link": wide if net.kind == "bus" else net.link_bytes_per_cycle,
            "host": link.bytes_per_cycle if link is not None else wide,
        }
        return {unit: exact(width).as_integer_ratio() for unit, width in widths.items()}

    @cached_property
    def _functions(self) -> dict[tuple[str, bool], tuple[int, int, int]]:
        return {}

    def buffers(self, sizes_bytes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """:meth:`buffer` of many sizes."""
        size, cycles = self._widths["buffer"]
        return np.maximum(1, -(-sizes_bytes * cycles // size))

    def _cycles(self, size_bytes: int, unit: str) -> int:
        size, cycles = self._widths[unit]
        return max(1, -(-size_bytes * cycles // size))

    @property
    def crossbars(self) -> int:
        """Of the chip."""
        return int(self.arch.chip.cores * self.arch.core.crossbars)

    def port(self, size_bytes: int) -> int:
        """A core's memory."""
        return self._cycles(size_bytes, "port")

    def buffer(self, size_bytes: int) -> int:
        """The global buffer's port; its latency is apart."""
        return self._cycles(size_bytes, "buffer")

    @property
    def buffer_latency(self) -> int:
        """Cycles behind each use of the global buffer's port."""
        return int(self.arch.chip.global_buffer_latency_cycles)

    def link(self, size_bytes: int) -> int:
        """A link of the mesh, or the bus."""
        return self._cycles(size_bytes, "link")

    def hops(self, distance: int) -> int:
        """The head of a row over ``distance`` links."""
        return int(self.arch.network.hop_cycles) * (1 if self.arch.network.kind == "bus" else distance)

    def host(self, size_bytes: int) -> int:
        """The host link; its latency is apart."""
        return self._cycles(size_bytes, "host")

    @property
    def host_latency(self) -> int:
        """Cycles behind each use of the host link."""
        link = self.arch.chip.host_link
        return 0 if link is None else int(link.latency_cycles)

    def vector(self, function: str, elements: int, *, chip: bool = False) -> int:
        """A function of a core's digital unit, or of the chip's."""
        if (function, chip) not in self._functions:
            unit = self.arch.chip.digital_unit if chip else self.arch.core.digital_unit
            if unit is None:
                return 0
            table = unit.cycles_per_element
            rate = exact(table.get(function, table["default"])) / unit.lanes
            self._functions[function, chip] = int(unit.startup_cycles), *rate.as_integer_ratio()
        startup, cycles, lanes = self._functions[function, chip]
        return max(1, startup + -(-elements * cycles // lanes))
