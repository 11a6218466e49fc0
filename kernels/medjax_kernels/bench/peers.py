"""Peers by the name that ``--vs`` takes, and which of them are installed.

Adapters to packages are written against the version named here; what they compute is
checked by the error column. Those marked *GPU* have no code for other chips.
"""

import dataclasses
import importlib.util


@dataclasses.dataclass(frozen=True)
class Peer:
    """A peer.

    Attributes:
        modules: that it takes.
        about: what it is.
        platforms: it runs on.
    """

    modules: tuple[str, ...]
    about: str
    platforms: tuple[str, ...] = ("cpu", "gpu", "tpu")


CUDA = ("gpu",)
PEERS = {
    "xla": Peer((), "the definition as one writes it in jax.numpy, left to XLA"),
    "torch_fft": Peer(
        ("torch",),
        "fastMRI's blocks on torch.fft",
        ("cpu", "gpu"),
    ),
    "open_clip": Peer(
        ("torch",), "OpenCLIP's and SigLIP's losses, whole logits", ("cpu", "gpu")
    ),
    "gloria": Peer(
        ("torch",), "GLoRIA's loop over reports, word attention", ("cpu", "gpu")
    ),
    "inf_cl": Peer(("torch", "triton", "inf_cl"), "Inf-CL 1.2, Triton tiles", CUDA),
    "siglip_kernel": Peer(
        ("torch", "triton", "siglip_kernel"), "siglip-kernel 0.1.2, routed", CUDA
    ),
    "liger": Peer(
        ("torch", "triton", "liger_kernel"),
        "Liger 0.8 fused linear cross-entropy, once per direction",
        CUDA,
    ),
    "tokamax": Peer(
        ("tokamax",), "tokamax 0.0.17 linear cross-entropy, once per direction"
    ),
}


def missing(name: str, platform: str) -> str | None:
    """Why a peer cannot take part here, or None if it can.

    Args:
        name: a key of :data:`PEERS`.
        platform: the chip's.
    """
    peer = PEERS[name]
    if platform not in peer.platforms:
        return f"runs on {', '.join(peer.platforms)} only"
    absent = [m for m in peer.modules if importlib.util.find_spec(m) is None]
    return f"not installed ({', '.join(absent)})" if absent else None
