"""Their side of every comparison of training steps, as one would write it by hand.

Fused Adam, TF32 on a GPU (as XLA does by default). Imported only where PyTorch is
installed.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.bench.measure import growth
from medjax.train.optimizer import OptimizerConfig


class Training:
    """A network with its optimiser; derive, and say what the loss is.

    Args:
      network: To be trained; moved to the GPU if there is one.
      optimizer: adam or adamw at a constant rate.
      host: The batch, the same in every step.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerConfig,
        host: Mapping[str, np.ndarray],
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        self.network = network.to(self.device).train()
        self.trained = [p for p in network.parameters() if p.requires_grad]
        # Copies, since arrays of JAX are read-only.
        self.host = {k: torch.from_numpy(np.array(v)) for k, v in host.items()}
        self.batch = {k: v.to(self.device) for k, v in self.host.items()}
        rule = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer.name]
        self.optimizer = rule(
            self.trained,
            lr=optimizer.lr,
            betas=(optimizer.b1, optimizer.b2),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self.clip_norm = optimizer.clip_norm or math.inf
        self.compile_s = 0.0

    def loss(self, view: Any) -> torch.Tensor:
        """Loss of the batch; ``view`` takes the place of what would be drawn."""
        raise NotImplementedError

    def step(self, view: Any = None) -> dict[str, torch.Tensor]:
        """Starts a step; does not wait for it."""
        loss = self.loss(view)
        loss.backward()
        return {"loss": loss.detach(), "grad_norm": self.update()}

    def update(self) -> torch.Tensor:
        """Clips, updates, forgets the gradient; returns its norm."""
        norm = nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def first(self, view: Any = None) -> dict[str, float]:
        """The first step, which compiles; timed."""
        began = time.perf_counter()
        values = {k: float(v) for k, v in self.step(view).items()}
        self.compile_s = time.perf_counter() - began
        return values

    def wait(self) -> None:
        """Returns when all steps are done."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def waiting(self, work: Callable[[], Any]) -> Callable[[], None]:
        """The same work, and the wait for its end."""

        def run() -> None:
            work()
            self.wait()

        return run

    def peak_memory(self) -> int | None:
        """Most bytes in use during a step: of tensors, or on a CPU as seen."""
        work = self.waiting(self.step)
        grown = growth(work) if self.device == "cpu" else _tensor_growth(work)
        return None if grown is None else self._at_rest() + grown

    def _at_rest(self) -> int:
        """Bytes of weights, moments, statistics and batch."""
        moments = [v for state in self.optimizer.state.values() for v in state.values()]
        kept = [*self.network.state_dict().values(), *moments, *self.batch.values()]
        return sum(t.numel() * t.element_size() for t in kept)


def _tensor_growth(work: Callable[[], Any]) -> int:
    """Bytes by which tensors on the GPU grew at their most while ``work`` ran."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before
