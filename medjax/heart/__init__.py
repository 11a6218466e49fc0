"""Meshes of the heart that move, and anatomy that is generated."""
