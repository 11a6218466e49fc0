"""Fused kernels for the two hot paths of medical imaging in JAX."""
