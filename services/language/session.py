"""Opens ONNX graphs for one CPU thread, the same way in training and in serving."""

from pathlib import Path

import onnxruntime


def open_session(graph: bytes | Path) -> onnxruntime.InferenceSession:
    """Return a session of a serialised graph or of a file. Opening holds the GIL: open one graph at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
