// Addresses as gRPC takes them.
#pragma once

#include <string>

namespace farswap::rpc {

/// `address`, "[fe80::1%eth0]:7070" or "unix:/a b", for gRPC, which takes it for a URI.
std::string EndpointOf(const std::string& address);

}  // namespace farswap::rpc
