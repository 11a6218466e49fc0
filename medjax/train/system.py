"""What a trainable system is, of any domain: two pure functions, and what it can do.

Domains have classes of their own with more in them (which token fields a loss reads,
what a batch must bring); whatever serves all of them asks for no more than this.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from medjax.train.state import Init
from medjax.train.step import Loss
from medjax.typing import Variables

Apply = Callable[[Variables, Any], Any]
"""``apply(variables, input) -> output``: pure, without randomness or training."""


@runtime_checkable
class System(Protocol):
    """The contract between a system and the rest of the house."""

    @property
    def init(self) -> Init:
        """``init(key, batch) -> variables``."""
        ...

    @property
    def loss(self) -> Loss:
        """``loss(variables, batch, key) -> scalar, (metrics, updated collections)``."""
        ...

    @property
    def frozen(self) -> tuple[str, ...]:
        """Regular expressions of parameters that are never trained."""
        ...

    @property
    def apply(self) -> Mapping[str, Apply]:
        """What a trained one can do, by name: ``image_embedding``, ``reconstruct``."""
        ...
