"""What the daemon shows: the HostAdmin service and its metrics."""
