"""The model registry: immutable versions, the champion alias, and the history of the champion."""
