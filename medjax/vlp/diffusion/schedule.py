"""How much noise a latent has at each step in time, and the steps a sampler takes.

Ho et al., "Denoising diffusion probabilistic models", NeurIPS 2020: a latent at step t
is ``alpha_t x + sigma_t noise``; ``alpha_t^2 + sigma_t^2 = 1``, and ``alpha_t^2`` is
the product of ``1 - beta`` up to t. The network predicts the noise, or the velocity
``alpha_t noise - sigma_t x`` (Salimans and Ho, "Progressive distillation", ICLR 2022).

Everything here is float64 on the host; a sampler takes its table from it as float32.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from medjax.nn.diffusion.settings import as_settings, read_settings

Spacing = Literal["leading", "linspace", "trailing"]
Sampler = Literal["dpmpp2m", "ddim"]

FIXED: Mapping[str, tuple[Any, ...]] = {
    "rescale_betas_zero_snr": (False,),
    "thresholding": (False,),
    "trained_betas": (None,),
    "algorithm_type": ("dpmsolver++",),
    "solver_order": (2,),
    "solver_type": ("midpoint",),
    "use_karras_sigmas": (None, False),
}
ASIDE = (
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "sample_max_value",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "time_shift_type",
    "timestep_type",
    "variance_type",
)
"""What files of other samplers hold, which are not run here: the sampler is the
caller's choice, and the file says what the network was trained on."""
CLIPS = ("DDIMScheduler", "DDPMScheduler")
"""Kinds of files in which ``clip_sample`` and ``set_alpha_to_one`` are true if the file
does not say."""


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """What a network was trained on, under the names of ``diffusers``."""

    num_train_timesteps: int = 1000
    """Steps in time."""
    beta_schedule: Literal["scaled_linear", "linear", "squaredcos_cap_v2"] = (
        "scaled_linear"
    )
    """How beta rises: its root linearly (Stable Diffusion), itself linearly, or so that
    alpha squared falls as a cosine (Nichol and Dhariwal, ICML 2021)."""
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the network predicts: noise, or velocity."""
    clip_sample: bool = False
    """Whether DDIM cuts its guess of the clean latent to [-1, 1]."""
    set_alpha_to_one: bool = False
    """Whether DDIM's last step goes to a latent without noise, or to that of step 0."""
    steps_offset: int = 0
    """Added to the steps of the spacing ``leading``; Stable Diffusion has 1."""
    timestep_spacing: Spacing | None = None
    """Which steps a sampler takes; None: each sampler's own."""

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 2:
            raise ValueError(
                "num_train_timesteps: expected at least 2, got "
                f"{self.num_train_timesteps}"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                "beta_start, beta_end: expected rising values between 0 and 1, got "
                f"{self.beta_start} and {self.beta_end}"
            )

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "ScheduleConfig":
        """Reads the content of ``scheduler_config.json``, of any kind of scheduler.

        Raises:
          ValueError: a setting that there is not here, or of another type.
        """
        said = {
            "beta_schedule": "linear",
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "clip_sample": content.get("_class_name") in CLIPS,
            "set_alpha_to_one": content.get("_class_name") in CLIPS,
            **content,
        }
        return read_settings(ScheduleConfig, said, FIXED, ASIDE)

    def to_dict(self) -> dict[str, Any]:
        """The content of a ``scheduler_config.json`` for DDIM."""
        values = as_settings(self, compute=(), _class_name="DDIMScheduler")
        values["timestep_spacing"] = self.timestep_spacing or "leading"
        return values

    def alphas(self) -> Float[np.ndarray, " t"]:
        """Share of the clean latent at each step."""
        return np.sqrt(np.cumprod(1.0 - self.betas()))

    def sigmas(self) -> Float[np.ndarray, " t"]:
        """Share of the noise at each step."""
        return np.sqrt(1.0 - np.cumprod(1.0 - self.betas()))

    def betas(self) -> Float[np.ndarray, " t"]:
        """Variance that each step adds."""
        n, low, high = self.num_train_timesteps, self.beta_start, self.beta_end
        if self.beta_schedule == "linear":
            return np.linspace(low, high, n)
        if self.beta_schedule == "scaled_linear":
            return np.linspace(math.sqrt(low), math.sqrt(high), n) ** 2
        at = np.arange(n + 1) / n
        squared = np.cos((at + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1.0 - squared[1:] / squared[:-1], 0.999)


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How films are drawn from noise."""

    sampler: Sampler = "dpmpp2m"
    """``dpmpp2m`` needs about 20 steps, ``ddim`` 50 or more."""
    steps: int = 20
    """Calls of the network."""
    guidance: float = 3.0
    """How far beyond the answer with the report to go, away from that without; 1: no
    guidance, and half the work."""
    group: int = 8
    """Films that a device makes together. Part of what a film's last bits depend on."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the networks' computation; what is summed over steps is float32."""
    negative: str = ""
    """What films are led away from, in the place of no text; needs guidance."""
    fsdp: int = 1
    """Devices that share one copy of the weights, which are gathered network by
    network. Films do not depend on it."""

    def __post_init__(self) -> None:
        if self.negative and self.guidance == 1.0:
            raise ValueError(
                f"negative: guidance 1 leads away from nothing, got {self.negative!r}"
            )
        for name in ("steps", "group", "fsdp"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name}: expected at least 1, got {getattr(self, name)}"
                )


def deciding(config: SamplingConfig) -> dict[str, Any]:
    """What of it films depend on, as JSON holds it.

    A negative text is told where there is one: sets without, of before there could be
    any, are still what they say.
    """
    said = dataclasses.asdict(config)
    del said["fsdp"]
    if not config.negative:
        del said["negative"]
    return said


def ddim_steps(config: ScheduleConfig, steps: int) -> Int[np.ndarray, " s"]:
    """Steps in time of DDIM, noisiest first.

    Raises:
      ValueError: fewer than one, or more than there are.
    """
    n = _checked(config, steps)
    spacing = config.timestep_spacing or "leading"
    if spacing == "linspace":
        return np.linspace(0, n - 1, steps).round()[::-1].astype(np.int64)
    if spacing == "leading":
        taken = np.arange(steps)[::-1] * (n // steps) + config.steps_offset
        return np.minimum(taken, n - 1)
    return _trailing(n, steps)


def solver_steps(config: ScheduleConfig, steps: int) -> Int[np.ndarray, " s"]:
    """Steps in time of DPM-Solver++, noisiest first; the last one is not at 0.

    Raises:
      ValueError: fewer than one, or more than there are.
    """
    n = _checked(config, steps)
    spacing = config.timestep_spacing or "linspace"
    if spacing == "linspace":
        taken = np.linspace(0, n - 1, steps + 1).round()[::-1][:-1]
        return taken.astype(np.int64)
    if spacing == "leading":
        taken = np.arange(steps + 1)[::-1][:-1] * (n // (steps + 1))
        return np.minimum(taken + config.steps_offset, n - 1)
    return _trailing(n, steps)


def _trailing(n: int, steps: int) -> Int[np.ndarray, " s"]:
    """From the last step down, halves rounded as the sums of ``arange`` happen to fall.

    ``diffusers`` lets rounding decide how many there are as well, and of 1000 finds one
    too many where 61 are asked for.
    """
    return np.arange(n, 0, -n / steps)[:steps].round().astype(np.int64) - 1


def _checked(config: ScheduleConfig, steps: int) -> int:
    if not 1 <= steps < config.num_train_timesteps:
        raise ValueError(
            f"steps: expected 1 to {config.num_train_timesteps - 1}, got {steps}"
        )
    return config.num_train_timesteps
