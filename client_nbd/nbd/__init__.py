"""The NBD server's handshake and its listeners; the engine's threads serve what is negotiated."""
