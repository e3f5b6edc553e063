"""How far a training has come: what its saved state says beside the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import FiniteFloat, NonNegativeInt
from torch import Tensor

from getam.system.distributed import mean_over_processes


@dataclass
class Position:
    """How far a training has come: the part of its state that is stored as JSON beside the tensors."""

    epoch: NonNegativeInt = 0
    """Number of complete epochs."""
    batch: NonNegativeInt = 0
    """Number of batches of the next epoch that are done."""
    sums: dict[str, FiniteFloat] = field(default_factory=dict)
    """Sums of the losses of those batches: of a saved state as floats, of a running training as tensors."""
    history: list[dict[str, FiniteFloat]] = field(default_factory=list)
    """Mean losses of each complete epoch, and its mIoU on val where it was validated."""
    best: FiniteFloat = -1.0
    """Highest mIoU on val so far."""

    def is_within(self, epochs: int, batches: int) -> bool:
        """Whether a training of so many epochs, of so many batches each, comes to this position."""
        return self.epoch == len(self.history) <= epochs and self.batch <= (batches if self.epoch < epochs else 0)

    def add(self, losses: Mapping[str, Tensor], *, batch: int) -> None:
        self.batch = batch
        for name, value in losses.items():
            # The sums stay on the device: reading one would wait for the GPU.
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double()  # type: ignore[assignment]

    def means(self, batches: int) -> dict[str, float]:
        return {name: value / batches for name, value in self._sums_over_processes().items()}

    def end_epoch(self, entry: dict[str, float]) -> None:
        self.history.append(entry)
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}

    def described(self) -> dict[str, Any]:
        return {**vars(self), "sums": self._sums_over_processes()}

    def _sums_over_processes(self) -> dict[str, float]:
        # A float was read from a saved state and is already the mean over the processes.
        return {
            name: value if isinstance(value, float) else float(mean_over_processes(value))
            for name, value in self.sums.items()
        }
