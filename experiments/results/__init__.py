"""Pages of results: tables made from the committed numbers.

A page (``vlp.md``, ``mri.md``, ``speed.md``, ``devices.md``, and in front of them
``experiments/README.md``) is written by hand but for its tables. Those stand between
two marks, ``<!-- name -->`` and ``<!-- /name -->``, and come from the JSON files of
this folder, which the commands named beside them write. ``python -m
experiments.results`` looks whether they still say the same, ``--write`` writes them
anew.
"""
