"""The `moodfood` command: starts everything on one machine, trains without servers, operates running services."""
