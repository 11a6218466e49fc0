"""medjax: medical imaging in JAX, made for accelerator throughput.

Rooms are named after what the software does for a doctor's data (``vlp``, ``mri``,
``heart``, ``segmentation``); what two or more of them share stands beside them
(``nn``, ``metrics``, ``data``, ``weights``, ``train``, ``report``). ``medjax.load``
opens any trained run.
"""

from typing import TYPE_CHECKING

from medjax.lazy import exported

if TYPE_CHECKING:
    from medjax import heart as heart
    from medjax import mri as mri
    from medjax import segmentation as segmentation
    from medjax import vlp as vlp
    from medjax.runs import load as load

__version__ = "0.1.0"
__getattr__, __dir__ = exported(
    __name__, {"runs": ("load",)}, modules=("heart", "mri", "segmentation", "vlp")
)
