"""Showing a device's samples to all others: each array once, as narrow as is asked.

Several losses of a step compare several x with one y, and have targets of one prior. An
`Exchange` remembers what it has gathered, so that an array travels once however many
losses ask for it: forward, since it is kept for the backward pass, and backward, since
the gradients of all losses are added before they are scattered, if they travel at all.

**The error of a narrow wire.** With ``wire="bfloat16"`` float32 features and records
are rounded before they travel, once, and on the device that owns them too: the losses
are those of what travelled, exactly, and gradients are added in float32. Rounding is by
2^-8 of a number at most, so for rows of unit norm a logit is off by 2^-8 scale at most
(Cauchy-Schwarz), and the softmax loss of one direction, with identity targets, by twice
that; by twice as much where x travels as well. Rounding errors of a row's numbers are
independent, so that a row of 512 is off by about a fiftieth of it. Records of rows are
rounded like those of columns, and both are multiplied as narrow as they are: exactly,
and at the rate of narrow factors.
"""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from medjax_kernels.contrastive.targets import Records, Target, transposable
from medjax_kernels.precision import accumulator
from medjax_kernels.varying import axes_of, vary

Distributed = Literal["all_gather", "all_gather_both", "ring"]


class Columns(NamedTuple):
    """What a block of columns needs wherever it goes."""

    y: jax.Array
    records: Records
    alive: jax.Array


class Exchange:
    """What the losses inside one ``jax.shard_map`` show each other's devices.

    Arrays are known by identity: hand the same array to two losses, not an equal one.
    Targets of one prior may differ in what is static (strength, smoothing).

    Attributes:
      axes: Mesh axes over which the batch is split; () for one device.
      distributed: "all_gather" (y travels, its gradient back), "all_gather_both" (x and
        y travel, no gradient) or "ring". Around a ring, blocks travel once per loss.
      wire: "float32" or "bfloat16": of float32 arrays on their way; others keep their
        dtype.

    Raises:
      ValueError: For another name of either, or a narrow wire around a ring.
    """

    def __init__(
        self,
        axes: tuple[str, ...] = (),
        distributed: str = "all_gather",
        wire: str = "float32",
    ) -> None:
        if distributed not in get_args(Distributed):
            raise ValueError(
                f"distributed is {distributed!r}, expected one of "
                f"{get_args(Distributed)}"
            )
        if wire not in ("float32", "bfloat16"):
            raise ValueError(f"wire is {wire!r}, expected 'float32' or 'bfloat16'")
        if wire != "float32" and distributed == "ring":
            raise ValueError(
                f"wire is {wire!r}, expected 'float32' around a ring: sums over many "
                "devices travel beside the features"
            )
        self.axes, self.distributed, self.wire = axes, distributed, wire
        self._made: dict[Hashable, tuple[Any, Any]] = {}

    @property
    def gathers(self) -> bool:
        """Whether a device sees all columns at once."""
        return bool(self.axes) and self.distributed != "ring"

    @property
    def gathers_both(self) -> bool:
        """Whether it sees all rows as well, and no gradient travels."""
        return bool(self.axes) and self.distributed == "all_gather_both"

    def once(self, what: Hashable, of: Any, make: Callable[[], Any]) -> Any:
        """What was made of these arrays under this name, or ``make()``.

        Args:
          what: Names what is made.
          of: Arrays, or a tree of them.
          make: Makes it of them.
        """
        leaves, structure = jax.tree.flatten(of)
        key = (what, structure, *map(id, leaves))
        if key not in self._made:
            # Arrays are kept, so that no other takes an identity that is known.
            self._made[key] = (leaves, make())
        return self._made[key][1]

    def travelling(self, array: jax.Array) -> jax.Array:
        """This device's rows of an array as others will see them: rounded."""
        return self.once("travelling", array, lambda: self._rounded(array))

    def records(self, targets: Target, index: jax.Array) -> tuple[Records, Records]:
        """Records of this device's rows and columns; see `Target.records`.

        As narrow as they travel, rows too, so that the two are multiplied as such. A
        rule that is not symmetric in the two gets them as they are.
        """

        def narrow(array: jax.Array) -> jax.Array:
            array = jax.lax.stop_gradient(array)
            return array.astype(self._on_wire(array.dtype)) if self.axes else array

        def make() -> tuple[Records, Records]:
            both = targets.records(index)
            if not transposable(targets.rule()):
                return jax.lax.stop_gradient(both)
            # Once, so that what rows and columns have in common stays one array.
            return jax.tree.map(
                lambda a: self.once("record", a, lambda: narrow(a)), both
            )

        arrays = jax.tree.leaves(targets)
        return self.once(("records", type(targets)), arrays, make)

    def gathered(self, array: jax.Array) -> jax.Array:
        """The features of all devices, float32 where they are narrower.

        Wide, so that gradients are added wide: what travels is as narrow as it was.
        """

        def make() -> jax.Array:
            wide = self._varying(array).astype(accumulator(array.dtype))
            return gather(wide, self.axes, self._on_wire(array.dtype))

        return self.once("gathered", array, make)

    def shown(self, array: jax.Array) -> jax.Array:
        """The rows of all devices of what has no gradient, as they are."""

        def make() -> jax.Array:
            return jax.lax.all_gather(self._varying(array), self.axes, tiled=True)

        return self.once("shown", array, make)

    def _varying(self, array: jax.Array) -> jax.Array:
        return vary(array, axes_of(array) | frozenset(self.axes))

    def _on_wire(self, dtype: Any) -> Any:
        return jnp.dtype(self.wire) if dtype == jnp.float32 else dtype

    def _rounded(self, array: jax.Array) -> jax.Array:
        wire = self._on_wire(array.dtype) if self.axes else array.dtype
        return array if wire == array.dtype else rounded(array, wire)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def rounded(array: jax.Array, dtype: Any) -> jax.Array:
    """The numbers that a narrower type holds, in the type that they had.

    The gradient passes as it is: it would be rounded too.
    """
    info = jnp.finfo(dtype)
    # Not two conversions, which a compiler may take for none.
    return jax.lax.reduce_precision(array, info.nexp, info.nmant)


@rounded.defjvp
def _rounded_jvp(dtype: Any, primals: Any, tangents: Any) -> tuple[Any, Any]:
    return rounded(*primals, dtype), tangents[0]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gather(array: jax.Array, axes: tuple[str, ...], wire: Any) -> jax.Array:
    """Every device's rows, one after another; gradients are added as they come."""
    narrow = array.astype(wire)
    return jax.lax.all_gather(narrow, axes, tiled=True).astype(array.dtype)


def _gather_forward(
    array: jax.Array, axes: tuple[str, ...], wire: Any
) -> tuple[jax.Array, None]:
    return gather(array, axes, wire), None


def _gather_backward(
    axes: tuple[str, ...], wire: Any, _: None, cotangent: jax.Array
) -> tuple[jax.Array]:
    return (scatter_sum(cotangent, axes),)


gather.defvjp(_gather_forward, _gather_backward)


def scatter_sum(array: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Sum over devices of arrays over the global batch; each keeps its own block."""
    return jax.lax.psum_scatter(array, axes, scatter_dimension=0, tiled=True)
