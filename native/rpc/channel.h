// gRPC channels to memory servers, for the sessions of hosts and the copies of other servers.
#pragma once

#include <grpcpp/channel.h>

#include <chrono>
#include <memory>
#include <string>

namespace farswap::rpc {

/// A channel with its own TCP connection, which counts as broken after `open_wait`.
std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                          std::chrono::milliseconds open_wait);

}  // namespace farswap::rpc
