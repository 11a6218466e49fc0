"""Reconstruct and map a series: from undersampled k-space to T1 in ms and its error.

A simulated heart, so that the truth is known; ``read_kspace`` opens a scan of yours in
its place (fastMRI, ISMRMRD, BART, MATLAB, NumPy).

::

    python experiments/examples/reconstruct_and_map.py        # seconds on a laptop
"""

# %% A scan: nine inversion times, four coils, phase encoding along the rows
import sys

import jax
import numpy as np

from medjax import mri
from medjax.data import nifti

size = int(sys.argv[1]) if len(sys.argv) > 1 else 96
heart = mri.cardiac_phantom(
    mri.PhantomConfig(height=size, width=size, noise=0.003), key=jax.random.key(0)
)
print(f"k-space {heart.kspace.shape} (frames, coils, lines, samples)")

# %% Every fourth line and the centre: what that really measures
mask = mri.masks.cmrxrecon(size, acceleration=4, acs=size // 6)
kspace = mri.sense.sample(heart.kspace, mask)
print(mri.describe(mask))

# %% Coil maps from the fully sampled centre, then SENSE frame by frame
low = mri.low_resolution(kspace[0], acs=size // 6)
maps = mri.inati_maps(low)
images = {
    "zero-filled": mri.zero_filled(kspace),
    "CG-SENSE": abs(mri.cg_sense(kspace, maps, mask, lam=0.003)),
    "wavelet": abs(mri.wavelet(kspace, maps, mask, lam=0.001)),
}

# %% T1 with its standard error; pixels whose fit no tissue can have are masked
truth = mri.fit_t1(abs(heart.image), heart.times).t1
heart_muscle = np.asarray(heart.label) == 2
for name, series in images.items():
    fit = mri.fit_t1(series, heart.times)
    good = heart_muscle & (mri.implausible(fit, np.asarray(series)) == 0)
    error = np.asarray(fit.t1 - truth)[good]
    print(
        f"{name:12} myocardium {np.asarray(fit.t1)[good].mean():.0f} ms, "
        f"off by {np.sqrt((error**2).mean()):.0f} ms; its own standard error "
        f"{np.median(np.asarray(fit.t1_sd)[good]):.0f} ms"
    )

# %% The same with what a run has learned (`python -m experiments.varnet` leaves one)
#   learned = medjax.load("runs/varnet-tiny")
#   images["VarNet"] = learned.reconstruct("scan.h5")[:, 0]

# %% A map as NIfTI; `python -m experiments.map` does all of this for a DICOM folder
best = mri.fit_t1(images["CG-SENSE"], heart.times)
volume = np.asarray(best.t1, np.float32).T[..., None]
nifti.write("t1.nii.gz", volume, affine=np.diag([2.0, 2.0, 8.0, 1.0]))
print("t1.nii.gz written")
