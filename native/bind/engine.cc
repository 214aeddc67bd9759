#include "bind/engine.h"

#include <utility>

#include "tier/state.h"

namespace farswap::bind {

Result<std::unique_ptr<Engine>> Engine::Create(EngineConfig config,
                                               const std::shared_ptr<tier::State>& state) {
  std::unique_ptr<Engine> engine(new Engine);
  engine->state_ = state;
  config.tier.slots = state->slots().size();
  config.tier.pool_bytes_max = state->pool().size();
  auto cluster = remote::Cluster::Create(std::move(config.cluster), state);
  if (!cluster.ok()) return cluster.error();
  engine->cluster_ = std::move(cluster.value());
  auto tier = tier::Tier::Create(config.tier, engine->cluster_.get(), state);
  if (!tier.ok()) return tier.error();
  engine->tier_ = std::move(tier.value());
  engine->cluster_->CompareWith(engine->tier_->stored_objects());
  engine->connections_ = std::make_unique<nbd::ConnectionSet>(engine->tier_.get(),
                                                              config.tier.slots * tier::kPageBytes);
  engine->kept_connections_ =
      std::make_unique<nbd::KeptConnections>(engine->connections_.get(), config.rings);
  return engine;
}

AttributionState Engine::Attribute(std::uint32_t device_major, std::uint32_t device_minor,
                                   const std::string& pin_directory, bool free_hook) {
  const std::lock_guard lock(attribution_mutex_);
  StopAttributionLocked();
  auto made = bpf::SlotAttribution::Create(
      {device_major, device_minor, tier_->slots(), pin_directory, free_hook});
  if (!made.ok()) {
    attribution_problem_ = made.error().message;
    return StateLocked();
  }
  attribution_ = std::move(made.value());
  attribution_problem_ = attribution_->problem();
  // Words before free notifications, which the tier checks against the slot's word.
  tier_->UseSlotWords(attribution_->words());
  attribution_->StartNotifying([this](tier::SlotIndex slot) { return tier_->OnSlotFree(slot); });
  return StateLocked();
}

void Engine::StopAttribution() {
  const std::lock_guard lock(attribution_mutex_);
  StopAttributionLocked();
}

void Engine::StopAttributionLocked() {
  attribution_problem_.clear();
  if (!attribution_) return;
  attribution_->StopNotifying();
  tier_->UseSlotWords(nullptr);
  attribution_.reset();
}

AttributionState Engine::attribution() const {
  const std::lock_guard lock(attribution_mutex_);
  return StateLocked();
}

AttributionState Engine::StateLocked() const {
  AttributionState state;
  state.source = label_ == tier::kUnknownCgroup ? "root" : "label";
  state.problem = attribution_problem_;
  if (attribution_) {
    state.source = "bpf";
    state.free_hook = attribution_->free_hook();
    state.counters = attribution_->counters();
  }
  return state;
}

void Engine::SetLabel(tier::CgroupId id) {
  const std::lock_guard lock(attribution_mutex_);
  label_ = id;
  tier_->SetLabel(id);
}

void Engine::Stop() {
  StopAttribution();
  // Sockets first, so that no request starts; then the network, so that no thread waits for it;
  // then all threads can be joined.
  if (connections_) connections_->CloseAll();
  if (cluster_) cluster_->Stop();
  if (tier_) tier_->StopWriteback();
  if (connections_) connections_->Stop();
}

}  // namespace farswap::bind
