"""farswap: swap to the memory of other machines.

The parts are `farswap.client_nbd` (the host daemon), `farswap.server` (the memory server),
`farswap.admin` (farswapctl), `farswap.common`, `farswap.v1` (generated protocol code) and
`farswap.native` (the C++ core).
"""
