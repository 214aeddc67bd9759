"""The HostAdmin service and metrics."""
