"""From a query to ranked labels: the classifiers and the cascade that asks them in turn."""
