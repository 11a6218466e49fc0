"""Deep ensembles trained as one program: several copies of any system, side by side.

Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty
Estimation using Deep Ensembles", NeurIPS 2017, arXiv 1612.01474.

Every variable gets a leading axis of members, ``init`` and ``loss`` are mapped over it,
and the loss is the *sum* over members, so that the gradient of each is what it would be
alone and the learning rate keeps its meaning. Over the mesh axis ``model`` members lie
on devices of their own::

    system = ensemble(alone, members=4)
    fit(
        system.init,
        system.loss,
        data,
        optimizer=members_apart(optimizer),
        mesh=MeshConfig(model=4),
        rules=system.rules,
        workdir=workdir,
    )

Members see the same batches; they differ in initialisation and in all that their losses
draw. Member ``i`` is ``member(alone, i)`` trained alone with the same seed, and between
members nothing travels but the numbers of the log and the guard against NaN, which
stops all if one fails. Several members of one device are computed together, or, where
the batch is split over devices, one after the other.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from medjax.train.mesh import batch_axes
from medjax.train.optimizer import OptimizerConfig
from medjax.train.sharding import Rules
from medjax.train.state import Init
from medjax.train.step import Loss
from medjax.train.system import Apply, System
from medjax.typing import Batch, Key, Metrics, Variables

AXIS = "model"
"""The mesh axis that members are split over."""
RULES: Rules = ((".*", PartitionSpec(AXIS)),)


@dataclasses.dataclass(frozen=True)
class DerivedSystem:
    """A system made of another one; fields as in `System`.

    Attributes:
        init: ``(key, batch) -> variables``.
        loss: ``(variables, batch, key) -> scalar, (metrics, updated collections)``.
        frozen: expressions of parameters that are not trained.
        apply: what a trained one can do.
        rules: where its parameters lie.
    """

    init: Init
    loss: Loss
    frozen: tuple[str, ...]
    apply: Mapping[str, Apply]
    rules: Rules = ()


def ensemble(system: System, members: int) -> DerivedSystem:
    """Several copies of a system as one.

    Args:
      system: Any; it is not changed and does not know.
      members: How many; a multiple of the devices along ``model``.

    Returns:
      A system whose variables have a leading axis of members. Its metrics are means
      over members, ``loss`` among them; ``apply`` gives outputs with a leading axis of
      members, for whoever wants their mean or spread.

    Raises:
      ValueError: For less than two members.
    """
    if members < 2:
        raise ValueError(f"members={members}: an ensemble has two at least")
    numbers = jnp.arange(members)

    def init(key: Key, batch: Batch) -> Variables:
        keys = _each(_key_of, None, 0)(key, numbers)
        return _each(system.init, 0, None)(keys, batch)

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[jax.Array, tuple[Metrics, Variables]]:
        keys = _each(_key_of, None, 0)(key, numbers)
        values, (metrics, updated) = _each(system.loss, 0, None, 0)(
            variables, batch, keys
        )
        means = jax.tree.map(jnp.mean, {**metrics, "loss": values})
        return jnp.sum(values), (means, updated)

    def of_all(apply: Apply) -> Apply:
        return lambda variables, given: _each(apply, 0, None)(variables, given)

    apply = {name: of_all(function) for name, function in system.apply.items()}
    return DerivedSystem(init, loss, tuple(system.frozen), apply, RULES)


def member(system: System, number: int) -> DerivedSystem:
    """One member of an ensemble, to be trained alone with the ensemble's seed.

    Args:
      system: What the ensemble is made of.
      number: Which member, from 0.
    """

    def init(key: Key, batch: Batch) -> Variables:
        return system.init(_key_of(key, number), batch)

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[jax.Array, tuple[Metrics, Variables]]:
        return system.loss(variables, batch, _key_of(key, number))

    return DerivedSystem(init, loss, tuple(system.frozen), system.apply)


def members_apart(optimizer: OptimizerConfig) -> OptimizerConfig:
    """The same update rule without anything that ties members together.

    The global norm that gradients are clipped to is the one thing: each member has its
    own.
    """
    clips = optimizer.clip_norm is not None
    return dataclasses.replace(optimizer, clip_per_member=clips)


def member_of(variables: Variables, number: int) -> Variables:
    """The variables of one member, for the system that the ensemble is made of."""
    return jax.tree.map(lambda leaf: leaf[number], variables)


def for_all(pretrained: Variables, members: int) -> Variables:
    """Weights that every member starts from, as ``fit(pretrained=...)`` takes them."""
    return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * members), pretrained)


def _each(function: Any, *axes: int | None) -> Any:
    """A function of every member: one that lies on a device is computed there alone.

    ``vmap`` makes of a convolution one of as many groups as there are members, which
    the partitioner does not split: every device fetches the whole batch, or the weights
    of members that are not its own. So devices along ``model`` see their own members,
    and where a batch is split those of one device take turns.

    Args:
      function: Of one member.
      axes: Of every argument, 0 for the members' or None for all of it.
    """
    together = jax.vmap(function, axes)

    def run(*arguments: Any) -> Any:
        devices = jax.sharding.get_abstract_mesh().shape.get(AXIS, 1)
        if devices == 1:
            return turns(*arguments)
        specs = tuple(PartitionSpec(AXIS) if a == 0 else PartitionSpec() for a in axes)
        return jax.shard_map(
            turns,
            in_specs=specs,
            out_specs=PartitionSpec(AXIS),
            axis_names={AXIS},
            check_vma=False,
        )(*arguments)

    def turns(*arguments: Any) -> Any:
        own = [x for axis, x in zip(axes, arguments, strict=True) if axis == 0]

        def turn(mine: Any) -> Any:
            given = iter(mine)
            of_all = zip(axes, arguments, strict=True)
            return function(*(next(given) if axis == 0 else x for axis, x in of_all))

        if len(jax.tree.leaves(own)[0]) == 1:
            alone = turn(jax.tree.map(lambda x: x[0], own))
            return jax.tree.map(lambda x: x[None], alone)
        return jax.lax.map(turn, own) if batch_axes() else together(*arguments)

    return run


def _key_of(key: Key, number: jax.Array | int) -> Key:
    """A member's key: its number, behind one more fold that no system does itself."""
    return jax.random.fold_in(jax.random.fold_in(key, 0x656E), number)
