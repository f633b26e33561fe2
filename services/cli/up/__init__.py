"""`moodfood up`: the three services started, shown and stopped together."""
