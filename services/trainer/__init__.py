"""Retrains the classifier on what users said, validates it, and decides what serves."""

import os

# The child of a run is started by fork and exec at once, which needs no fork handlers; with them gRPC logs a line for
# every child. gRPC reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

# Threads of OpenBLAS spin while they wait for one another. On two cores beside other processes that took half of a
# training's time (40 s instead of 22 s for the shipped data), so they go to sleep early. OpenBLAS reads this when NumPy
# is imported.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
