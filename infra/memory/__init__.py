"""Memory doubles of the log and the store, held to the same contract suite as the real ones."""
