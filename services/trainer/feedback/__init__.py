"""What people said: stored, looked up, reviewed, deleted."""
