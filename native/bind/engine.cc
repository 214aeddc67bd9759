#include "bind/engine.h"

#include <sys/random.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace farswap::bind {

Result<std::unique_ptr<Engine>> Engine::Create(EngineConfig config) {
  std::unique_ptr<Engine> engine(new Engine);
  // A fresh, empty slot table: pages that servers hold of an earlier one are garbage.
  const auto wanted = static_cast<ssize_t>(engine->incarnation_.size());
  if (getrandom(engine->incarnation_.data(), engine->incarnation_.size(), 0) != wanted) {
    return Error{std::string("no random bytes for the incarnation: ") + std::strerror(errno)};
  }
  config.cluster.incarnation = engine->incarnation_;
  config.cluster.slots = config.tier.slots;
  auto cluster = remote::Cluster::Create(config.cluster);
  if (!cluster.ok()) return cluster.error();
  engine->cluster_ = std::move(cluster.value());
  auto tier = tier::Tier::Create(config.tier, engine->cluster_.get());
  if (!tier.ok()) return tier.error();
  engine->tier_ = std::move(tier.value());
  engine->connections_ = std::make_unique<nbd::ConnectionSet>(engine->tier_.get(),
                                                              config.tier.slots * tier::kPageBytes);
  return engine;
}

void Engine::Stop() {
  // Sockets first, so that nobody starts anything new; then the network, so that nobody waits for
  // it; then everything can be joined at once.
  if (connections_) connections_->CloseAll();
  if (cluster_) cluster_->Stop();
  if (tier_) tier_->StopWriteback();
  if (connections_) connections_->Stop();
}

}  // namespace farswap::bind
