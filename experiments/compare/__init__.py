"""Systems side by side over several seeds, each against what it has to beat."""
