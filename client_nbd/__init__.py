"""The host daemon: NBD in front, the native tier behind, and what attaches it to the kernel."""
