"""Findings for operators: checks of the kernel, the tier and the memory servers."""
