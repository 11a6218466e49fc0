"""medjax: medical imaging in JAX, made for accelerator throughput.

Rooms are named after what the software does for a doctor's data (``vlp``, ``mri``,
``heart``, ``segmentation``); what two or more of them share stands beside them
(``nn``, ``metrics``, ``data``, ``weights``, ``train``).
"""

__version__ = "0.1.0"
