"""Transport shared by the gRPC services: serving until a signal, health, error mapping, logs. No domain code."""
