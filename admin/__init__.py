"""farswapctl: operates host daemons and memory servers, over gRPC alone. One file a noun."""
