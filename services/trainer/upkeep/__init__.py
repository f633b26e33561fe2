"""Upkeep of what the trainer stores, while no trainer has to run: backups, checks, and moving over."""
