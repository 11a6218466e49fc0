"""Masks one can trust: networks, patches, whole volumes, data sets, scores.

README.md beside this file has ten lines of use and a line on every part.
"""

from typing import TYPE_CHECKING

from medjax.lazy import exported

if TYPE_CHECKING:
    from medjax.segmentation.augment import AugmentConfig as AugmentConfig
    from medjax.segmentation.datasets import READERS as READERS
    from medjax.segmentation.datasets import Case as Case
    from medjax.segmentation.datasets import DataSet as DataSet
    from medjax.segmentation.datasets.embedded import lesion_phantoms as lesion_phantoms
    from medjax.segmentation.evaluate import ScoringConfig as ScoringConfig
    from medjax.segmentation.fingerprint import PlanConfig as PlanConfig
    from medjax.segmentation.hierarchical import (
        HierarchicalConfig as HierarchicalConfig,
    )
    from medjax.segmentation.hierarchical import Hierarchy as Hierarchy
    from medjax.segmentation.hierarchical import (
        hierarchical_system as hierarchical_system,
    )
    from medjax.segmentation.inference import WindowConfig as WindowConfig
    from medjax.segmentation.inference import sliding_window as sliding_window
    from medjax.segmentation.labels import Labels as Labels
    from medjax.segmentation.labels import classes as classes
    from medjax.segmentation.losses import LossConfig as LossConfig
    from medjax.segmentation.losses import (
        dice_and_cross_entropy as dice_and_cross_entropy,
    )
    from medjax.segmentation.losses import soft_dice as soft_dice
    from medjax.segmentation.losses import supervised as supervised
    from medjax.segmentation.plans import BUDGETS as BUDGETS
    from medjax.segmentation.plans import NetworkPlan as NetworkPlan
    from medjax.segmentation.plans import plan_network as plan_network
    from medjax.segmentation.preparation import Channel as Channel
    from medjax.segmentation.preparation import Preparation as Preparation
    from medjax.segmentation.preparation import Prepared as Prepared
    from medjax.segmentation.prepared import SegmentationData as SegmentationData
    from medjax.segmentation.prepared import in_memory as in_memory
    from medjax.segmentation.prepared import open_prepared as open_prepared
    from medjax.segmentation.prepared import write_prepared as write_prepared
    from medjax.segmentation.pretrained import Segmenter as Segmenter
    from medjax.segmentation.pretrained import open_run as open_run
    from medjax.segmentation.sampled import SampledConfig as SampledConfig
    from medjax.segmentation.sampling import PatchConfig as PatchConfig
    from medjax.segmentation.sampling import Patches as Patches
    from medjax.segmentation.segmented import Segmented as Segmented
    from medjax.segmentation.system import SegmentationConfig as SegmentationConfig
    from medjax.segmentation.system import SegmentationSystem as SegmentationSystem
    from medjax.segmentation.system import segmentation_system as segmentation_system
    from medjax.segmentation.training import Segmentation as Segmentation
    from medjax.segmentation.uncertain import Uncertainty as Uncertainty

__getattr__, __dir__ = exported(
    __name__,
    {
        "augment": ("AugmentConfig",),
        "datasets": (
            "READERS",
            "Case",
            "DataSet",
        ),
        "datasets.embedded": ("lesion_phantoms",),
        "evaluate": ("ScoringConfig",),
        "fingerprint": ("PlanConfig",),
        "hierarchical": (
            "HierarchicalConfig",
            "Hierarchy",
            "hierarchical_system",
        ),
        "inference": (
            "WindowConfig",
            "sliding_window",
        ),
        "labels": (
            "Labels",
            "classes",
        ),
        "losses": (
            "LossConfig",
            "dice_and_cross_entropy",
            "soft_dice",
            "supervised",
        ),
        "plans": (
            "BUDGETS",
            "NetworkPlan",
            "plan_network",
        ),
        "preparation": (
            "Channel",
            "Preparation",
            "Prepared",
        ),
        "prepared": (
            "SegmentationData",
            "in_memory",
            "open_prepared",
            "write_prepared",
        ),
        "pretrained": (
            "Segmenter",
            "open_run",
        ),
        "sampled": ("SampledConfig",),
        "sampling": (
            "PatchConfig",
            "Patches",
        ),
        "segmented": ("Segmented",),
        "system": (
            "SegmentationConfig",
            "SegmentationSystem",
            "segmentation_system",
        ),
        "training": ("Segmentation",),
        "uncertain": ("Uncertainty",),
    },
)
