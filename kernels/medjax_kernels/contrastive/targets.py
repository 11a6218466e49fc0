"""Which pairs belong together: the target matrix Y, never formed as a whole.

A target is a small pytree given to the loss. It splits into one record per row, one
record per column and a *rule* that makes any tile of Y from the records of its rows and
columns. That is all a tiled or distributed loss needs: N numbers or N vectors travel,
the N x N matrix does not.

=============== =========================================== ======================
target          Y_ij                                        cost of a tile
=============== =========================================== ======================
``Identity``    1 if i = j                                  none (never formed)
``Groups``      1 if ids_i = ids_j                          one comparison
``Dense``       values_ij                                   one read
``Similarity``  [i = j] + strength * f(correlation of       one matrix product of
                features_i and features_j)                  width p
=============== =========================================== ======================

``Similarity`` is IMITATE's clinical-informed target (Liu et al., arXiv 2310.07355):
reports that say similar things are not each other's negatives. In the released code the
correlation is Pearson's, clipped at zero and with its diagonal zeroed *before* the
smoothing f, so with the Gaussian, Laplace and sigmoid smoothings (f(0) > 0) the
diagonal becomes 1 + strength * f(0); ``fill_diagonal=False`` keeps it at 1. Rows of Y
may sum to more than one and are not renormalised.

Targets are constants: no gradient flows into ids, values or features.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax_kernels.precision import accumulator, product

Smoothing = Literal["exp", "gaussian", "laplace", "sigmoid", "linear"]
SMOOTHINGS: tuple[str, ...] = ("exp", "gaussian", "laplace", "sigmoid", "linear")

Records = Mapping[str, jax.Array]
"""Named arrays whose leading axis is the sample."""


@runtime_checkable
class Rule(Protocol):
    """A hashable function from the records of rows and columns to a tile of Y."""

    def __call__(self, rows: Records, columns: Records) -> Float[Array, "r m"]: ...


@runtime_checkable
class Target(Protocol):
    """What the losses ask of a target."""

    @property
    def normalise(self) -> bool:
        """Whether every row of Y is divided by its sum."""
        ...

    def validate(self, n: int, total: int) -> None:
        """Raises ValueError unless it describes n local rows of a batch of total."""
        ...

    def rule(self) -> Rule | None:
        """The rule of a tile; None where Y is the identity."""
        ...

    def records(self, index: Int[Array, " n"]) -> tuple[Records, Records]:
        """Records of the rows and of the columns; index: place in the global batch."""
        ...


def transposable(rule: Rule | None) -> bool:
    """Whether the rule makes Y^T of records whose rows and columns changed places."""
    return rule is None or isinstance(rule, GroupsRule | SimilarityRule)


def expect_shape(name: str, array: Any, shape: tuple[int | None, ...]) -> None:
    """Raises ValueError unless the array has this shape (None: any length)."""
    got = jnp.shape(array)
    if len(got) != len(shape) or any(
        want is not None and want != have for have, want in zip(got, shape, strict=True)
    ):
        wanted = ", ".join("any" if s is None else str(s) for s in shape)
        raise ValueError(f"{name} has shape {got}, expected ({wanted})")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Identity:
    """Row i of x belongs to row i of y and to no other."""

    @property
    def normalise(self) -> bool:
        """Rows of the identity are distributions already."""
        return False

    def validate(self, n: int, total: int) -> None:
        """Every batch has an identity."""

    def rule(self) -> Rule | None:
        return None

    def records(self, index: Int[Array, " n"]) -> tuple[Records, Records]:
        return {}, {}


@dataclasses.dataclass(frozen=True)
class DenseRule:
    """Columns of a stored matrix; a block of columns is contiguous in the batch."""

    def __call__(self, rows: Records, columns: Records) -> Float[Array, "r m"]:
        values, index = rows["values"], columns["index"]
        if values.shape[1] == index.shape[0]:
            return values
        return jax.lax.dynamic_slice_in_dim(values, index[0], index.shape[0], axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense:
    """A target matrix given as such.

    Attributes:
      values: floating, [n, n]; inside ``shard_map`` the local rows of the global
        matrix, [n local, n global].
      normalise: divide each row (and for the other direction each column) by its sum.
    """

    values: Any
    normalise: bool = dataclasses.field(default=False, metadata={"static": True})

    def validate(self, n: int, total: int) -> None:
        expect_shape("targets.values", self.values, (n, total))

    def rule(self) -> Rule | None:
        return DenseRule()

    def records(self, index: Int[Array, " n"]) -> tuple[Records, Records]:
        return {"values": jnp.asarray(self.values)}, {"index": index}


@dataclasses.dataclass(frozen=True)
class GroupsRule:
    """Same id, same group."""

    def __call__(self, rows: Records, columns: Records) -> Float[Array, "r m"]:
        same = rows["ids"][:, None] == columns["ids"][None, :]
        return same.astype(jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Groups:
    """Several positives: every pair of samples with the same id belongs together.

    Attributes:
      ids: integers, [n]; for example a hash of the report text, or the study number.
      normalise: share a row's unit mass between its positives, so that the row is a
        distribution. False counts every positive fully. The sigmoid loss, whose labels
        are independent, ignores it.
    """

    ids: Any
    normalise: bool = dataclasses.field(default=True, metadata={"static": True})

    def validate(self, n: int, total: int) -> None:
        expect_shape("targets.ids", self.ids, (n,))

    def rule(self) -> Rule | None:
        return GroupsRule()

    def records(self, index: Int[Array, " n"]) -> tuple[Records, Records]:
        ids = jnp.asarray(self.ids)
        return {"ids": ids}, {"ids": ids}


def smooth(
    rho: Float[Array, "r m"], smoothing: str, ratio: float
) -> Float[Array, "r m"]:
    """The smoothing f of IMITATE, on correlations in [0, 1].

    ``linear`` is the first order of ``exp`` and the only one that its code lacks.
    """
    match smoothing:
        case "exp":
            # Not expm1, which kernels lack: targets want absolute accuracy.
            return 1 - jnp.exp(-ratio * rho)
        case "gaussian":
            return jnp.exp(-0.5 * jnp.square(rho)) * 0.3989422804014327
        case "laplace":
            return 0.5 * jnp.exp(-rho)
        case "sigmoid":
            return jax.nn.sigmoid(rho)
        case _:
            return ratio * rho


@dataclasses.dataclass(frozen=True)
class SimilarityRule:
    """[i = j] + strength * f(max(z_i . z_j, 0)), z being centred unit rows."""

    smoothing: str
    ratio: float
    strength: float
    fill_diagonal: bool

    def __call__(self, rows: Records, columns: Records) -> Float[Array, "r m"]:
        rho = product("ip,jp->ij", rows["unit"], columns["unit"])
        return self.of_correlation(
            rho, rows["index"][:, None] == columns["index"][None]
        )

    def of_correlation(
        self, rho: Float[Array, "r m"], self_pair: Bool[Array, "r m"]
    ) -> Float[Array, "r m"]:
        """A tile of Y from raw correlations, and where a sample meets itself."""
        rho = jnp.where(self_pair, 0.0, jnp.maximum(rho, 0.0))
        soft = self.strength * smooth(rho, self.smoothing, self.ratio)
        return jnp.where(self_pair, soft + 1.0 if self.fill_diagonal else 1.0, soft)


def standardise(features: Float[Array, "n p"]) -> Float[Array, "n p"]:
    """Centred rows of unit norm, whose dot products are Pearson correlations.

    A row without variance has no correlation; it becomes zero, not NaN. Subtracting the
    first entry before the mean makes a constant row exactly zero, and dividing by the
    largest entry keeps squares in range; neither changes the correlation.
    """
    z = features.astype(accumulator(features.dtype))
    z = z - z[:, :1]
    largest = jnp.max(jnp.abs(z), axis=1, keepdims=True)
    z = z / jnp.where(largest > 0, largest, 1)
    z = z - jnp.mean(z, axis=1, keepdims=True)
    norm = jnp.sqrt(jnp.sum(jnp.square(z), axis=1, keepdims=True))
    return z / jnp.where(norm > 0, norm, 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Similarity:
    """Soft targets from how alike the samples are (IMITATE's clinical prior).

    Attributes:
      features_x: floating, [n, p]; IMITATE: the frozen report embedding [CLS].
      features_y: floating, [n, p], for the columns; None: features_x.
      smoothing: f, one of "exp", "gaussian", "laplace", "sigmoid", "linear".
      ratio: the 0.2 in f(rho) = 1 - exp(-0.2 rho); of "exp" and "linear" only.
      strength: factor on f; the released code multiplies by its temperature.
      fill_diagonal: True follows the released code (the diagonal is 1 + strength f(0)),
        False keeps the diagonal at 1.
      normalise: divide each row (and for the other direction each column) by its sum.
    """

    features_x: Any
    features_y: Any = None
    smoothing: Smoothing = dataclasses.field(default="exp", metadata={"static": True})
    ratio: float = dataclasses.field(default=0.2, metadata={"static": True})
    strength: float = dataclasses.field(default=1.0, metadata={"static": True})
    fill_diagonal: bool = dataclasses.field(default=True, metadata={"static": True})
    normalise: bool = dataclasses.field(default=False, metadata={"static": True})

    def validate(self, n: int, total: int) -> None:
        expect_shape("targets.features_x", self.features_x, (n, None))
        if self.features_y is not None:
            expect_shape("targets.features_y", self.features_y, self.features_x.shape)
        if self.smoothing not in SMOOTHINGS:
            raise ValueError(
                f"targets.smoothing is {self.smoothing!r}, expected one of {SMOOTHINGS}"
            )

    def rule(self) -> Rule | None:
        return SimilarityRule(
            self.smoothing, self.ratio, self.strength, self.fill_diagonal
        )

    def records(self, index: Int[Array, " n"]) -> tuple[Records, Records]:
        x = standardise(jnp.asarray(self.features_x))
        y = x if self.features_y is None else standardise(jnp.asarray(self.features_y))
        return {"unit": x, "index": index}, {"unit": y, "index": index}
