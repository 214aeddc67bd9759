"""The machine's cgroups: directories, limits, the engine's groups, and writeback by pressure."""
