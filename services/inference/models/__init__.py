"""Versions in memory: read from the registry, verified, kept warm, and swapped without losing a request."""
