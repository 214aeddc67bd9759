"""The smallest configuration of a host daemon."""

TEXT = """
[device]
name = "swap0"
size = "4MiB"
host_id = "h1"
[nbd]
listen = []
[tier]
pool_limit = "4MiB"
"""
