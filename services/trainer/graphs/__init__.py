"""Fitted models as ONNX graphs: written, checked, opened again."""
