"""File formats and input pipelines, with no domain knowledge."""
