"""The page that a run leaves: text, charts, tables and pictures in one file.

Knows no domain and no training: what is shown comes as numbers and arrays.
"""

from medjax.report.page import Card, Report
from medjax.report.picture import Animation

__all__ = ["Animation", "Card", "Report"]
