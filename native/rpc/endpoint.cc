#include "rpc/endpoint.h"

#include <string_view>

namespace farswap::rpc {

std::string EndpointOf(const std::string& address) {
  constexpr std::string_view kHexDigits = "0123456789ABCDEF";
  // Of RFC 3986, with what is around the host and the port.
  constexpr std::string_view kAsTheyAre =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/:[]";
  std::string endpoint;
  for (const char c : address) {
    if (kAsTheyAre.find(c) != std::string_view::npos) {
      endpoint += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    endpoint += {'%', kHexDigits[byte >> 4], kHexDigits[byte & 15]};
  }
  return endpoint;
}

}  // namespace farswap::rpc
