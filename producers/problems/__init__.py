"""Problems: read from a source, split, verified, and fed to the samplers at the pace they learn."""
