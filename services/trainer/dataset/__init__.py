"""What an example is, and which examples a run learns from."""
