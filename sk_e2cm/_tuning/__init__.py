"""From predictions for samples held out to thresholds."""
