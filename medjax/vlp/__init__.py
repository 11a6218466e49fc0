"""Radiographs and reports: pre-training, probes, rendering."""
