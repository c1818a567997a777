"""What would have come out: the recorded input through the same processors with other settings."""
