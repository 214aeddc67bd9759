// Connections to memory servers, as sessions want them.
#pragma once

#include <grpcpp/channel.h>

#include <chrono>
#include <memory>
#include <string>

namespace farswap::remote {

/// A channel with a TCP connection of its own, which is given up as broken after `open_wait`.
std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                          std::chrono::milliseconds open_wait);

}  // namespace farswap::remote
