"""Latent diffusion: a denoising U-Net, an autoencoder of images, CLIP's text model."""
