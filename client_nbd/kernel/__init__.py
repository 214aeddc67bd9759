"""Access to the running kernel: its files, the nbd driver, swapon and swapoff."""
