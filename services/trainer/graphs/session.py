"""Opens graphs the way serving does: on one thread."""

from pathlib import Path

import onnxruntime


def open_session(graph: bytes | Path) -> onnxruntime.InferenceSession:
    """Return a session of a serialised graph, or of a file, for one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
