"""Reports to radiographs: the generator interface, and an embedded world behind it.

Read in this order: `graph` (what a report says, as data), `grammar` (graph to prose),
`parser` (prose to graph), `film` and `lesions` (how a chest and each finding look),
`drawing` (the `Generator` interface and `DrawnGenerator`), `studies` (patients with
reports and labels).
"""

from medjax.vlp.rendering.drawing import (
    DrawnGenerator,
    Generator,
    PlacingGenerator,
    generator,
)
from medjax.vlp.rendering.grammar import write
from medjax.vlp.rendering.graph import FINDINGS, Finding, FindingGraph, draw_graph
from medjax.vlp.rendering.parser import parse
from medjax.vlp.rendering.studies import EmbeddedStudy, embedded_studies

__all__ = [
    "FINDINGS",
    "DrawnGenerator",
    "EmbeddedStudy",
    "Finding",
    "FindingGraph",
    "Generator",
    "PlacingGenerator",
    "draw_graph",
    "embedded_studies",
    "generator",
    "parse",
    "write",
]
