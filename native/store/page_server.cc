#include "store/page_server.h"

#include <grpc/support/time.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <mutex>
#include <shared_mutex>

#include "rpc/endpoint.h"
#include "store/page_service.h"
#include "tier/bundle.h"

namespace farswap::store {
namespace {

// A full Store batch is 1.1 MiB. Not much more: parsed, empty messages take 40 times their size.
constexpr int kReceivedBytesMax = 3 << 19;
// An answer to a fetch may hold the maximum number of the largest bundles. gRPC's clients accept
// 4 MiB.
constexpr int kSentBytesMax = 4 << 20;
static_assert(kGetKeysMax * (tier::kBundleBytesMax + 64) < kSentBytesMax);
// Hosts ping every few seconds to detect a dead server; gRPC's default disconnects them for it.
constexpr int kClientPingIntervalMs = 1000;
constexpr int kStreamsPerConnectionMax = 64;
constexpr char kStopped[] = "the server is stopping";

void Configure(grpc::ServerBuilder* builder, std::chrono::milliseconds keepalive) {
  const int keepalive_ms = static_cast<int>(keepalive.count());
  builder->SetMaxReceiveMessageSize(kReceivedBytesMax);
  builder->SetMaxSendMessageSize(kSentBytesMax);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kClientPingIntervalMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // These two close connections of a vanished host, and make gRPC set TCP_USER_TIMEOUT.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive_ms * 2 / 3);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive_ms / 3);
  // For connections that do not start with HTTP/2.
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, keepalive_ms);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kStreamsPerConnectionMax);
  // Else two servers could listen on one port and share its connections.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

}  // namespace

struct PageServer::Impl {
  std::unique_ptr<PageStore> store;  // null after Stop()
  std::unique_ptr<PageService> service;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  Id uuid{};
  Id run_id{};
  mutable std::shared_mutex mutex;  // protects `store` from Stop()
  std::vector<std::pair<std::string, std::uint64_t>> last_stats;
  std::vector<VolumeInfo> last_volumes;
};

PageServer::PageServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

PageServer::~PageServer() { Stop(std::chrono::milliseconds(0)); }

Result<std::unique_ptr<PageServer>> PageServer::Create(const PageServerConfig& config) {
  auto impl = std::make_unique<Impl>();
  auto store = PageStore::Open({.path = config.path,
                                .capacity_bytes = config.capacity_bytes,
                                .reserve_bytes = config.reserve_bytes,
                                .quota_default = config.quota_default,
                                .block_cache_bytes = config.block_cache_bytes,
                                .scrub = config.scrub,
                                .leases = config.leases});
  if (!store.ok()) return store.error();
  impl->store = std::move(store.value());
  impl->uuid = impl->store->uuid();
  impl->run_id = impl->store->run_id();
  impl->service =
      std::make_unique<PageService>(impl->store.get(), config.labels, config.source_silence_max);
  grpc::ServerBuilder builder;
  Configure(&builder, config.keepalive);
  builder.AddListeningPort(rpc::EndpointOf(config.listen), grpc::InsecureServerCredentials(),
                           &impl->port);
  impl->service->Register(&builder);
  impl->server = builder.BuildAndStart();
  if (!impl->server || impl->port == 0) {
    return Error{"failed to listen on " + config.listen +
                 ": in use, or not an address of this machine"};
  }
  impl->service->Start();
  return std::unique_ptr<PageServer>(new PageServer(std::move(impl)));
}

int PageServer::port() const { return impl_->port; }

const Id& PageServer::uuid() const { return impl_->uuid; }
const Id& PageServer::run_id() const { return impl_->run_id; }

ServerState PageServer::State() const {
  std::shared_lock lock(impl_->mutex);
  return impl_->store ? impl_->store->state() : ServerState::kStopping;
}

std::vector<VolumeInfo> PageServer::Volumes() const {
  std::shared_lock lock(impl_->mutex);
  return impl_->store ? impl_->store->Volumes() : impl_->last_volumes;
}

Result<std::uint64_t> PageServer::CountShards(std::uint64_t volume_id) const {
  std::shared_lock lock(impl_->mutex);
  if (!impl_->store) return Error{kStopped};
  auto shards = impl_->store->ShardsOf(volume_id);
  if (!shards.ok()) return shards.error();
  return shards.value().size();
}

Outcome PageServer::SetDraining(bool draining) {
  std::shared_lock lock(impl_->mutex);
  return impl_->store ? impl_->store->SetDraining(draining) : Outcome(Error{kStopped});
}

Outcome PageServer::RemoveServer(const Id& uuid) {
  std::shared_lock lock(impl_->mutex);
  return impl_->store ? impl_->store->RemoveServer(uuid) : Outcome(Error{kStopped});
}

void PageServer::SetAdminAddress(const std::string& address) {
  std::shared_lock lock(impl_->mutex);
  if (impl_->service) impl_->service->SetAdminAddress(address);
}

Outcome PageServer::Scrub() {
  std::shared_lock lock(impl_->mutex);
  return impl_->store ? impl_->store->Scrub() : Outcome(Error{kStopped});
}

Result<VolumeInfo> PageServer::DeleteVolume(const std::string& host_id, const std::string& device,
                                            bool force) {
  std::shared_lock lock(impl_->mutex);
  if (!impl_->store) return Error{kStopped};
  return impl_->store->DeleteVolume(host_id, device, force);
}

Outcome PageServer::SetQuota(const std::string& host_id, const std::string& device,
                             std::optional<std::uint64_t> quota_bytes) {
  std::shared_lock lock(impl_->mutex);
  return impl_->store ? impl_->store->SetQuota(host_id, device, quota_bytes)
                      : Outcome(Error{kStopped});
}

std::vector<std::pair<std::string, std::uint64_t>> PageServer::Stats() const {
  std::shared_lock lock(impl_->mutex);
  return impl_->store ? impl_->store->Stats() : impl_->last_stats;
}

std::vector<OwnerEvent> PageServer::WatchOwners() {
  std::shared_lock lock(impl_->mutex);
  if (!impl_->store) {
    return {};
  }
  impl_->store->ExpireSilent();
  return impl_->store->TakeOwnerEvents();
}

std::string PageServer::DiskProblem() const {
  std::shared_lock lock(impl_->mutex);
  return impl_->store ? impl_->store->disk_problem() : "";
}

void PageServer::Stop(std::chrono::milliseconds grace) {
  std::lock_guard lock(impl_->mutex);
  if (!impl_->store) return;
  impl_->service->StopStreams();
  impl_->server->Shutdown(gpr_time_from_millis(grace.count(), GPR_TIMESPAN));
  impl_->service->Drain();
  impl_->server->Wait();
  impl_->last_stats = impl_->store->Stats();
  impl_->last_volumes = impl_->store->Volumes();
  impl_->server.reset();
  impl_->service.reset();
  impl_->store.reset();
}

}  // namespace farswap::store
