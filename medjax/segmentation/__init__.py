"""Masks one can trust."""
