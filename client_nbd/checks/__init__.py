"""What an operator should know: checks of the kernel, the tier and the memory servers."""
