"""medjax: medical imaging in JAX, made for accelerator throughput.

Rooms are named after what the software does for a doctor's data (``vlp``, ``mri``,
``heart``, ``segmentation``); what two or more of them share stands beside them
(``nn``, ``metrics``, ``data``, ``weights``, ``train``, ``report``). ``medjax.load``
opens any trained run.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def load(run: Any) -> Any:
    """Opens the folder of a trained run; see :func:`medjax.runs.load`."""
    # Here, so that `import medjax` does not wait for JAX.
    from medjax.runs import load as open_any

    return open_any(run)
