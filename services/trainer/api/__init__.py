"""The gRPC services: each call checks the request, calls one function, and translates the result."""
