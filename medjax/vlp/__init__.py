"""Radiographs and reports: pre-training, fine-tuning, probes, rendering.

README.md beside this file has ten lines of use and a line on every system.
"""

from typing import TYPE_CHECKING

from medjax.lazy import exported

if TYPE_CHECKING:
    from medjax.vlp import convirt as convirt
    from medjax.vlp import gloria as gloria
    from medjax.vlp import imitate as imitate
    from medjax.vlp import mflag as mflag
    from medjax.vlp import mgca as mgca
    from medjax.vlp.augment import AUGMENTATIONS as AUGMENTATIONS
    from medjax.vlp.augment import AugmentConfig as AugmentConfig
    from medjax.vlp.classifier import ClassifierConfig as ClassifierConfig
    from medjax.vlp.contrastive import ContrastConfig as ContrastConfig
    from medjax.vlp.contrastive import contrast as contrast
    from medjax.vlp.contrastive import normalise as normalise
    from medjax.vlp.convirt import ConvirtConfig as ConvirtConfig
    from medjax.vlp.corpus import Corpus as Corpus
    from medjax.vlp.corpus import CorpusConfig as CorpusConfig
    from medjax.vlp.corpus import open_corpus as open_corpus
    from medjax.vlp.datasets import READERS as READERS
    from medjax.vlp.datasets import PrepareConfig as PrepareConfig
    from medjax.vlp.datasets import Study as Study
    from medjax.vlp.datasets import Table as Table
    from medjax.vlp.datasets import open_prepared as open_prepared
    from medjax.vlp.datasets import prepare as prepare
    from medjax.vlp.export import export_pair as export_pair
    from medjax.vlp.films import Film as Film
    from medjax.vlp.films import find_films as find_films
    from medjax.vlp.films import read_film as read_film
    from medjax.vlp.finetuned import Finetuned as Finetuned
    from medjax.vlp.finetuned import open_classifier as open_classifier
    from medjax.vlp.finetuning import Finetuning as Finetuning
    from medjax.vlp.gloria import GloriaConfig as GloriaConfig
    from medjax.vlp.heads import MlpHead as MlpHead
    from medjax.vlp.heads import ProjectionHead as ProjectionHead
    from medjax.vlp.imitate import ImitateConfig as ImitateConfig
    from medjax.vlp.labelled import LabelledConfig as LabelledConfig
    from medjax.vlp.mflag import MFlagConfig as MFlagConfig
    from medjax.vlp.mgca import MgcaConfig as MgcaConfig
    from medjax.vlp.pretrained import Pretrained as Pretrained
    from medjax.vlp.pretrained import open_pair as open_pair
    from medjax.vlp.pretraining import Pretraining as Pretraining
    from medjax.vlp.probes import linear_probe as linear_probe
    from medjax.vlp.probes import zero_shot as zero_shot
    from medjax.vlp.system import PretrainingSystem as PretrainingSystem
    from medjax.vlp.system import TwoTower as TwoTower
    from medjax.vlp.system import two_tower_system as two_tower_system
    from medjax.vlp.tokens import Tokenizer as Tokenizer
    from medjax.vlp.tokens import load_tokenizer as load_tokenizer
    from medjax.vlp.tokens import train_tokenizer as train_tokenizer
    from medjax.vlp.towers import ImageTower as ImageTower
    from medjax.vlp.towers import ImageTowerConfig as ImageTowerConfig
    from medjax.vlp.towers import TextTower as TextTower
    from medjax.vlp.towers import TextTowerConfig as TextTowerConfig
    from medjax.vlp.towers import load_towers as load_towers
    from medjax.vlp.towers import save_towers as save_towers

__getattr__, __dir__ = exported(
    __name__,
    {
        "augment": ("AUGMENTATIONS", "AugmentConfig"),
        "classifier": ("ClassifierConfig",),
        "contrastive": ("ContrastConfig", "contrast", "normalise"),
        "convirt": ("ConvirtConfig",),
        "corpus": ("Corpus", "CorpusConfig", "open_corpus"),
        "datasets": (
            "READERS",
            "PrepareConfig",
            "Study",
            "Table",
            "open_prepared",
            "prepare",
        ),
        "export": ("export_pair",),
        "films": ("Film", "find_films", "read_film"),
        "finetuned": ("Finetuned", "open_classifier"),
        "finetuning": ("Finetuning",),
        "gloria": ("GloriaConfig",),
        "heads": ("MlpHead", "ProjectionHead"),
        "imitate": ("ImitateConfig",),
        "labelled": ("LabelledConfig",),
        "mflag": ("MFlagConfig",),
        "mgca": ("MgcaConfig",),
        "pretrained": ("Pretrained", "open_pair"),
        "pretraining": ("Pretraining",),
        "probes": ("linear_probe", "zero_shot"),
        "system": ("PretrainingSystem", "TwoTower", "two_tower_system"),
        "tokens": ("Tokenizer", "load_tokenizer", "train_tokenizer"),
        "towers": (
            "ImageTower",
            "ImageTowerConfig",
            "TextTower",
            "TextTowerConfig",
            "load_towers",
            "save_towers",
        ),
    },
    modules=("convirt", "gloria", "imitate", "mflag", "mgca"),
)
