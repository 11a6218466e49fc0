"""What a run would need and cost on a machine that is not here."""
