"""The model registry: immutable versions, the champion alias, the history of both."""
