#include "rpc/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include "rpc/endpoint.h"

namespace farswap::rpc {

namespace {

constexpr int kKeepaliveMs = 5000;
constexpr int kKeepaliveTimeoutMs = 3000;

}  // namespace

std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                          std::chrono::milliseconds open_wait) {
  grpc::ChannelArguments arguments;
  // Else gRPC would use one TCP connection for all channels to a server.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Each attempt uses a new channel; gRPC must not wait between attempts.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(open_wait.count()));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Detects a server that hangs, or a network that drops packets, also without calls.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // No proxy, no retries by gRPC, and no look-ups of service configurations.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  return grpc::CreateCustomChannel(EndpointOf(address), grpc::InsecureChannelCredentials(),
                                   arguments);
}

}  // namespace farswap::rpc
