"""One sharded training loop for every system."""
