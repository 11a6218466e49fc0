"""k-space to images to maps: MRI reconstruction and relaxometry.

README.md beside this file has ten lines of use and a line on every system.
"""

from typing import TYPE_CHECKING

from medjax.lazy import exported

if TYPE_CHECKING:
    from medjax.mri import classical as classical
    from medjax.mri import cmrxrecon as cmrxrecon
    from medjax.mri import masks as masks
    from medjax.mri import relaxometry as relaxometry
    from medjax.mri import sense as sense
    from medjax.mri.acquisition_config import FileData as FileData
    from medjax.mri.acquisition_config import MaskConfig as MaskConfig
    from medjax.mri.acquisition_config import PhantomData as PhantomData
    from medjax.mri.acquisition_config import TreeData as TreeData
    from medjax.mri.acquisitions import Acquisition as Acquisition
    from medjax.mri.acquisitions import open_data as open_data
    from medjax.mri.classical import cg_sense as cg_sense
    from medjax.mri.classical import espirit_sense as espirit_sense
    from medjax.mri.classical import grappa as grappa
    from medjax.mri.classical import low_rank_plus_sparse as low_rank_plus_sparse
    from medjax.mri.classical import soft_sense as soft_sense
    from medjax.mri.classical import total_variation as total_variation
    from medjax.mri.classical import wavelet as wavelet
    from medjax.mri.classical import zero_filled as zero_filled
    from medjax.mri.coils import compress as compress
    from medjax.mri.coils import compression_matrix as compression_matrix
    from medjax.mri.coils import geometric_compression as geometric_compression
    from medjax.mri.coils import inati_maps as inati_maps
    from medjax.mri.coils import low_resolution as low_resolution
    from medjax.mri.coils import noise_covariance as noise_covariance
    from medjax.mri.coils import walsh_maps as walsh_maps
    from medjax.mri.coils import whiten as whiten
    from medjax.mri.comparison import Comparison as Comparison
    from medjax.mri.espirit import espirit_maps as espirit_maps
    from medjax.mri.fourier import fft2c as fft2c
    from medjax.mri.fourier import ifft2c as ifft2c
    from medjax.mri.image_series import ImageSeries as ImageSeries
    from medjax.mri.image_series import read_images as read_images
    from medjax.mri.image_unet import ImageUNetConfig as ImageUNetConfig
    from medjax.mri.image_unet import image_unet_system as image_unet_system
    from medjax.mri.kspace_files import KspaceFile as KspaceFile
    from medjax.mri.kspace_files import read_kspace as read_kspace
    from medjax.mri.kspace_files import read_maps as read_maps
    from medjax.mri.kspace_files import read_mask as read_mask
    from medjax.mri.latent_transformer import SingleCoilConfig as SingleCoilConfig
    from medjax.mri.latent_transformer import (
        latent_transformer_system as latent_transformer_system,
    )
    from medjax.mri.learned import Learned as Learned
    from medjax.mri.learned import open_run as open_run
    from medjax.mri.map_evaluation import aha_segments as aha_segments
    from medjax.mri.map_evaluation import map_errors as map_errors
    from medjax.mri.mapping import MapConfig as MapConfig
    from medjax.mri.mapping import Mapped as Mapped
    from medjax.mri.mapping import fit_series as fit_series
    from medjax.mri.mapping import write_maps as write_maps
    from medjax.mri.masks import describe as describe
    from medjax.mri.phantom import PhantomConfig as PhantomConfig
    from medjax.mri.phantom import cardiac_phantom as cardiac_phantom
    from medjax.mri.promptmr import PromptMRConfig as PromptMRConfig
    from medjax.mri.promptmr import promptmr_system as promptmr_system
    from medjax.mri.published import open_checkpoints as open_checkpoints
    from medjax.mri.published import read_published as read_published
    from medjax.mri.reconstruction import Reconstruction as Reconstruction
    from medjax.mri.relaxometry import T1Map as T1Map
    from medjax.mri.relaxometry import T2Map as T2Map
    from medjax.mri.relaxometry import estimate_sigma as estimate_sigma
    from medjax.mri.relaxometry import fit_t1 as fit_t1
    from medjax.mri.relaxometry import fit_t2 as fit_t2
    from medjax.mri.relaxometry import implausible as implausible
    from medjax.mri.relaxometry import phase_sensitive as phase_sensitive
    from medjax.mri.sense import normalise_maps as normalise_maps
    from medjax.mri.sense import rss as rss
    from medjax.mri.series import ReconstructionSystem as ReconstructionSystem
    from medjax.mri.series import reconstruction_system as reconstruction_system
    from medjax.mri.unrolled import UnrolledConfig as UnrolledConfig
    from medjax.mri.unrolled import unrolled_system as unrolled_system
    from medjax.mri.varnet import VarNetConfig as VarNetConfig
    from medjax.mri.varnet import varnet_system as varnet_system

__getattr__, __dir__ = exported(
    __name__,
    {
        "acquisition_config": (
            "FileData",
            "MaskConfig",
            "PhantomData",
            "TreeData",
        ),
        "acquisitions": (
            "Acquisition",
            "open_data",
        ),
        "classical": (
            "cg_sense",
            "espirit_sense",
            "grappa",
            "low_rank_plus_sparse",
            "soft_sense",
            "total_variation",
            "wavelet",
            "zero_filled",
        ),
        "coils": (
            "compress",
            "compression_matrix",
            "geometric_compression",
            "inati_maps",
            "low_resolution",
            "noise_covariance",
            "walsh_maps",
            "whiten",
        ),
        "comparison": ("Comparison",),
        "espirit": ("espirit_maps",),
        "fourier": (
            "fft2c",
            "ifft2c",
        ),
        "image_series": (
            "ImageSeries",
            "read_images",
        ),
        "image_unet": (
            "ImageUNetConfig",
            "image_unet_system",
        ),
        "kspace_files": (
            "KspaceFile",
            "read_kspace",
            "read_maps",
            "read_mask",
        ),
        "latent_transformer": (
            "SingleCoilConfig",
            "latent_transformer_system",
        ),
        "learned": (
            "Learned",
            "open_run",
        ),
        "map_evaluation": (
            "aha_segments",
            "map_errors",
        ),
        "mapping": (
            "MapConfig",
            "Mapped",
            "fit_series",
            "write_maps",
        ),
        "masks": ("describe",),
        "phantom": (
            "PhantomConfig",
            "cardiac_phantom",
        ),
        "promptmr": (
            "PromptMRConfig",
            "promptmr_system",
        ),
        "published": (
            "open_checkpoints",
            "read_published",
        ),
        "reconstruction": ("Reconstruction",),
        "relaxometry": (
            "T1Map",
            "T2Map",
            "estimate_sigma",
            "fit_t1",
            "fit_t2",
            "implausible",
            "phase_sensitive",
        ),
        "sense": (
            "normalise_maps",
            "rss",
        ),
        "series": (
            "ReconstructionSystem",
            "reconstruction_system",
        ),
        "unrolled": (
            "UnrolledConfig",
            "unrolled_system",
        ),
        "varnet": (
            "VarNetConfig",
            "varnet_system",
        ),
    },
    modules=("classical", "cmrxrecon", "masks", "relaxometry", "sense"),
)
