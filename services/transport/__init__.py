"""What all processes share and what knows no service: settings, startup, a gRPC server, health, errors, logs."""
