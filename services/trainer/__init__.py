"""Retrains the classifier on what users said, validates it, and decides what serves."""

import os

# The child of a run is started by fork and exec at once, which needs no fork handlers; with them gRPC logs a line for
# every child. gRPC reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
