"""Images made for questions whose answers are known: what there is, and how likely."""
