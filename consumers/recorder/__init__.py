"""Records the log to MCAP files that Foxglove and other viewers open, and reads them again."""
