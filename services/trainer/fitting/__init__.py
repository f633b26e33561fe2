"""From arrays to a fitted, calibrated model."""
