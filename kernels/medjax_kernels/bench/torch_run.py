"""A peer of PyTorch, made ready; the only file of the benchmark's own that imports it.

On a CPU both sides keep as many threads as they take by themselves. Eager PyTorch
reports no plan of its memory; on a GPU its allocator's high-water mark is taken.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch


class TorchRun:
    """A function of tensors, with its input sets on the device.

    Args:
        function: tensors to named tensors.
        sets: input sets.
        platform: ``"gpu"`` runs it on CUDA, everything else on the CPU.
    """

    def __init__(
        self,
        function: Callable[..., Mapping[str, Any]],
        sets: Sequence[Sequence[np.ndarray]],
        platform: str,
    ) -> None:
        self.device = torch.device("cuda" if platform == "gpu" else "cpu")
        self.function = function
        self.sets = [[self._tensor(a) for a in s] for s in sets]
        self.temporary_bytes = self._high_water() if platform == "gpu" else None

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        """The same numbers; NumPy knows bfloat16 by a package that torch does not."""
        if array.dtype.name == "bfloat16":
            tensor = torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
        else:
            tensor = torch.from_numpy(np.asarray(array))
        return tensor.to(self.device)

    def _high_water(self) -> int:
        self.wait(self.start(0))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.wait(self.start(0))
        return torch.cuda.max_memory_allocated() - before

    def start(self, turn: int) -> Any:
        """Queue one call; do not wait."""
        return self.function(*self.sets[turn % len(self.sets)])

    def wait(self, handle: Any) -> None:
        """Return when the queued call, and all before it, are done."""
        del handle
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def outputs(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The result for these inputs, on the host."""
        result = self.function(*(self._tensor(a) for a in arrays))
        host = {name: t.detach().resolve_conj().cpu() for name, t in result.items()}
        return {
            name: (t.float() if t.dtype == torch.bfloat16 else t).numpy()
            for name, t in host.items()
        }
