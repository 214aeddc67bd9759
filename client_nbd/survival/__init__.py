"""What outlives a run of the host daemon: the supervisor, and the memory that it holds."""
