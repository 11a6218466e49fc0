"""Pre-training on films that were made of reports: whether, and on which.

Liu, Shah, Bai and Arcucci, "Utilizing synthetic data for medical vision-language
pre-training", arXiv 2310.07027. `films` puts made films in the place of real ones and
leaves all else as it is; `fidelity` asks how near they are, `memorisation` whether they
are copies, `curation` which of them to keep.
"""
