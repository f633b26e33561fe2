"""Serves ONNX-exported classifiers and swaps them without losing a request."""
