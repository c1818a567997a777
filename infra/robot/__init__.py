"""What runs on a robot beside its control loop: the link to the log, the spool, real time."""
