"""All that farswap-host does to the running kernel: its files, the nbd driver, swap on and off."""
