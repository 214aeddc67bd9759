"""farswap-server: a memory server. Pages are native (farswap.native.PageServer, a RocksDB store
behind a gRPC service); this package is its daemon: configuration, life, admin service.

`main` is the command line, `config` what server.toml may say, `daemon` the parts and their order,
`admin_service` the ServerAdmin service.
"""
