"""The REST routes, one file for each thing that callers ask about; a file holds its bodies and its answers too."""
