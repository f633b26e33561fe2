"""The gRPC edge: translate in, call one thing, translate out."""
