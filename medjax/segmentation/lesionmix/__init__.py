"""Lesions moved, added and taken away, so that few cases become many."""
