"""farswap-server: the daemon of a memory server. Pages are served by farswap.native.PageServer, a
gRPC service on RocksDB.

`main` is the command line, `config` the keys of server.toml, `daemon` the parts and their order,
`admin_service` the ServerAdmin service.
"""
