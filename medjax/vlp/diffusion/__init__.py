"""Radiographs from reports by latent diffusion: the generator that is learnt.

Read in this order: `schedule` (how much noise when), `networks` (autoencoder, text
model and U-Net as pure functions), `samplers` (noise to latents), `folder` (to and from
the folders of ``diffusers``), `generator` (reports to films), `training`.
"""
