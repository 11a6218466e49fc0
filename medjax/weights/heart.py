"""Name tables of networks that follow and generate hearts: DeepMesh and CHeart.

Names are those of ``qmeng99/DeepMesh`` (``network_motion.py`` and
``network_reconstruction.py``, each with its ``Mesh_2d``, which reads long-axis images
and is saved as a file of its own) and ``MengyunQ/CHeart`` (``GenCVAE_Seq`` of
``networks.py``). A displacement is along columns, rows and slices there, in this order;
here along slices, rows and columns: the last layer is turned on the way.
"""

from collections.abc import Mapping

import numpy as np

from medjax.weights.names import Layout, Rule, Table, batch_norm, dense

LEVELS = 4
"""Of CHeart's encoder and decoder."""
_COUNTED = ((r"(.*)\.running_mean", r"\1.num_batches_tracked"),)
_SILENT = r".*\.num_batches_tracked"


def deepmesh_motion(*, halvings: int = 3) -> Table:
    """``MotionMesh_25d`` and its ``Mesh_2d``, for the stage ``motion`` of DeepMesh.

    Args:
        halvings: Of the network over the volume.
    """
    rules = [
        *_views("motion"),
        *_block("conv_list_2D.{i}", "motion/Block_{i}"),
        *_block("conv6", "motion/join_0"),
        *_block("conv7", "motion/join_1"),
        *_block("conv3d9", "motion/in", "conv_3d"),
    ]
    for i in range(halvings):
        down, up = f"conv3d{10 + i}", f"conv3d{10 + halvings + i}"
        rules += _block(down, f"motion/down_{i}", "conv_3d")
        rules += _block(f"{down}_1", f"motion/conv_{i}", "conv_3d")
        rules += _block(up, f"motion/up_{i}", "double_3d")
        rules += _block(f"{up}_1", f"motion/up_conv_{i}", "conv_3d")
    return Table(
        rules=(*rules, *_field(f"conv3d{10 + 2 * halvings}", "motion")),
        silent=(_SILENT,),
        # The first version had heads that drew edges.
        optional=(r"conv2d\d+(_1)?\..*", r"conv3d1[78]\..*"),
        counters=_COUNTED,
        name="DeepMesh's MotionMesh_25d with Mesh_2d",
    )


def deepmesh_first(*, doublings: int = 4) -> Table:
    """``deformnet`` and its ``Mesh_2d``, for the stage ``ed`` of DeepMesh.

    Args:
        doublings: On the way up to the field.
    """
    rules = [*_views("ed"), *_block("conv2d9", "deform/neck")]
    for i in range(doublings):
        rules += _block(f"conv2d{10 + i}", f"deform/up_{i}", "double")
        rules += _block(f"conv2d{10 + i}_1", f"deform/conv_{i}")
    rules += _block("conv3d17", "deform/volume", "conv_3d")
    return Table(
        rules=(*rules, *_field("conv3d18", "deform")),
        silent=(_SILENT,),
        counters=_COUNTED,
        name="DeepMesh's deformnet with Mesh_2d",
    )


def _block(torch: str, flax: str, layout: Layout = "conv") -> tuple[Rule, ...]:
    """A convolution without bias and its batch norm."""
    return (
        Rule(f"{torch}.0.weight", f"params/{flax}/conv/kernel", layout),
        *batch_norm(f"{torch}.1", f"{flax}/norm"),
    )


def _views(stage: str) -> tuple[Rule, ...]:
    """What reads images: those of the long axis first, and the encoder of all."""
    return (
        *_block("conv1", f"{stage}_stem_0"),
        *_block("conv2", f"{stage}_stem_1"),
        *_block("conv_blocks_2D.{i}.{j}", f"{stage}_encoder/level_{{i}}_{{j}}"),
    )


def _field(torch: str, flax: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{torch}.weight", f"params/{flax}/field/kernel", "field"),
        Rule(f"{torch}.bias", f"params/{flax}/field/bias", "backwards"),
    )


def _voxels(torch: str, flax: str, layout: Layout) -> tuple[Rule, ...]:
    """A convolution over volumes, with bias."""
    return (
        Rule(f"{torch}.weight", f"params/{flax}/kernel", layout),
        Rule(f"{torch}.bias", f"params/{flax}/bias"),
    )


def _cheart() -> Table:
    rules, tied = [], []
    for i in range(LEVELS):
        down, up = f"encoder.{3 * i}", f"decoder.{3 * i + 1}"
        rules += _voxels(down, f"encoder/Halve_{i}", "conv_3d")
        rules += batch_norm(f"encoder.{3 * i + 1}", f"encoder/_Norm_{i}/BatchNorm_0")
        rules += _voxels(up, f"decoder/Double_{i}", "double_3d")
        rules += batch_norm(f"decoder.{3 * i + 2}", f"decoder/_Norm_{i}/BatchNorm_0")
        for what in ("weight", "bias"):
            tied.append((f"conv{i + 1}.{what}", f"{down}.{what}"))
            tied.append((f"deconv{i + 1}.{what}", f"{up}.{what}"))
    rules += dense("linear_means", "encoder/mean")
    rules += dense("linear_log_var", "encoder/log_variance")
    rules += dense("fc2", "decoder/Dense_0")
    for theirs, ours in (("ih", "input"), ("hh", "hidden")):
        path = f"params/time/{ours}"
        rules.append(Rule(f"lstm_cell.weight_{theirs}", f"{path}/kernel", "dense"))
        rules.append(Rule(f"lstm_cell.bias_{theirs}", f"{path}/bias"))
    return Table(
        rules=tuple(rules),
        silent=(_SILENT, r"(de)?conv\d\..*"),
        # A layer that is never called.
        optional=(r"fc_disp\..*",),
        counters=_COUNTED,
        tied=tuple(tied),
        name="CHeart's GenCVAE_Seq",
    )


CHEART = _cheart()
"""``GenCVAE_Seq``, for CHeart with frames normalised each by itself and an LSTM.

Its flattened features have channels first: :func:`channels_last` goes before,
:func:`channels_first` behind."""
_FLAT = {"linear_means.weight": 1, "linear_log_var.weight": 1}
_FLAT |= {"fc2.weight": 0, "fc2.bias": 0}


def channels_last(
    tensors: Mapping[str, np.ndarray], shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """CHeart's tensors with features flattened as they are here.

    Args:
        tensors: By PyTorch's names.
        shape: Voxels of the smallest volume, a sixteenth of the label map's.

    Raises:
        ValueError: Features that are not of such volumes.
    """
    return _turned(tensors, shape, first=True)


def channels_first(
    tensors: Mapping[str, np.ndarray], shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """The inverse.

    Args:
        tensors: By PyTorch's names, features flattened as they are here.
        shape: Voxels of the smallest volume.

    Raises:
        ValueError: Features that are not of such volumes.
    """
    return _turned(tensors, shape, first=False)


def _turned(
    tensors: Mapping[str, np.ndarray], shape: tuple[int, int, int], *, first: bool
) -> dict[str, np.ndarray]:
    found = dict(tensors)
    for name, axis in _FLAT.items():
        if name not in found or found[name].ndim <= axis:
            continue
        tensor = found[name]
        before, length, after = np.split(tensor.shape, [axis, axis + 1])
        if int(length[0]) % int(np.prod(shape)):
            raise ValueError(
                f"{name}: {int(length[0])} features are not of volumes of {shape}, a "
                "sixteenth of the label maps'"
            )
        inner = (-1, *shape) if first else (*shape, -1)
        wide = tensor.reshape(*before, *inner, *after)
        ends = (axis, axis + 3) if first else (axis + 3, axis)
        found[name] = np.moveaxis(wide, *ends).reshape(tensor.shape)
    return found
