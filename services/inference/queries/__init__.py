"""A query from its answer to its line in the query log, and the experiment that it may take part in."""
