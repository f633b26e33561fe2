"""From ranked labels to ranked dishes."""
