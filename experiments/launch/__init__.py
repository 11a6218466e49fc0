"""Prints what starts a run elsewhere, and starts it again: a script, or a manifest."""
