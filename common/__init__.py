"""What both daemons and farswapctl share: configuration, errors, gRPC, logging, lifecycle.

Imports nothing of farswap but the generated protocol (farswap.v1). Nothing here runs on the
per-page path.
"""
