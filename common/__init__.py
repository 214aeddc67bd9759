"""Shared by both daemons and farswapctl: configuration, errors, gRPC, logging, lifecycle.

Of farswap it imports only the generated protocol (farswap.v1). Never on the per-page path.
"""
