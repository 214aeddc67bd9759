#include "store/page_service.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "store/copy_call.h"
#include "store/served_calls.h"
#include "store/wire.h"

namespace farswap::store {
namespace {

// Concurrent puts, which mostly wait for RocksDB.
constexpr std::size_t kPutThreads = 4;
constexpr std::size_t kAwayMax = 256;  // servers of a heartbeat: the sessions of a host

grpc::Status RefusedOpen(const OpenedVolume& opened) {
  switch (opened.status) {
    case OpenStatus::kInvalid:
      return {grpc::StatusCode::INVALID_ARGUMENT, opened.message};
    case OpenStatus::kTooMany:
      return {grpc::StatusCode::RESOURCE_EXHAUSTED, opened.message};
    case OpenStatus::kIoError:
      return {grpc::StatusCode::INTERNAL, opened.message};
    default:  // in the answer's status
      return grpc::Status::OK;
  }
}

bool ReadRequest(const v1::OpenVolumeRequest& request, OpenRequest* read) {
  read->host_id = request.host_id();
  read->device = request.device();
  read->owner.takeover_count = request.takeover_count();
  read->owner.host_name = request.host_name();
  read->slots = request.slots();
  read->protocol_min = request.protocol_min();
  read->protocol_max = request.protocol_max();
  read->boot_ms = request.boot_ms();
  read->probe = request.probe();
  read->take_over = request.take_over();
  // Hosts with an older protocol have no nonce, and get an answer about the version instead.
  const bool has_nonce = ReadId(request.session_nonce(), &read->owner.nonce);
  return ReadId(request.incarnation(), &read->incarnation) && (has_nonce || !SpeaksProtocol(*read));
}

// The address in gRPC's "ipv4:10.0.0.7:50312" or "ipv6:%5Bfe80::1%25eth0%5D:50312".
std::string ReadablePeer(const std::string& peer) {
  std::string address;
  for (std::size_t i = peer.find(':') + 1; i < peer.size(); ++i) {
    unsigned char escaped = 0;
    const char* const hex = peer.data() + i + 1;
    if (peer[i] == '%' && i + 2 < peer.size() &&
        std::from_chars(hex, hex + 2, escaped, 16).ptr == hex + 2) {
      address += static_cast<char>(escaped);
      i += 2;
    } else {
      address += peer[i];
    }
  }
  address.resize(std::min(address.rfind(':'), address.size()));
  std::erase_if(address, [](char c) { return c == '[' || c == ']'; });
  return address.substr(0, kNameBytesMax);
}

VolumePlacement ReadPlacement(const v1::VolumePlacement& sent) {
  VolumePlacement read{.replicas = sent.replicas_wanted(),
                       .debt = sent.replication_debt_shards(),
                       .lost = sent.lost_shards(),
                       .copies = sent.replica_copies(),
                       .here = sent.replicas_here(),
                       .fetch_p99_us = sent.fetch_p99_us()};
  for (const v1::AwayServer& server : sent.away()) {
    if (read.away.size() == kAwayMax || server.uuid().size() != kIdBytes) continue;
    AwayServer& away = read.away.emplace_back();
    std::memcpy(away.uuid.data(), server.uuid().data(), kIdBytes);
    away.address = server.address().substr(0, kNameBytesMax);
    away.shards = server.shards();
    away.last_shards = server.last_shards();
  }
  return read;
}

void CopyPlacement(const VolumePlacement& placement, v1::VolumePlacement* sent) {
  sent->set_replicas_wanted(placement.replicas);
  sent->set_replication_debt_shards(placement.debt);
  sent->set_lost_shards(placement.lost);
  sent->set_replica_copies(placement.copies);
  sent->set_replicas_here(placement.here);
  sent->set_fetch_p99_us(placement.fetch_p99_us);
  for (const AwayServer& server : placement.away) {
    v1::AwayServer* const away = sent->add_away();
    away->set_uuid(Bytes(server.uuid));
    away->set_address(server.address);
    away->set_shards(server.shards);
    away->set_last_shards(server.last_shards);
  }
}

void CopyVolume(const VolumeInfo& info, const std::vector<std::uint64_t>& shards,
                v1::DescribeResponse::Volume* volume) {
  volume->set_volume_id(info.volume_id);
  volume->set_host_id(info.host_id);
  volume->set_device(info.device);
  volume->set_epoch(info.epoch);
  volume->set_owner_name(info.owner.host_name);
  volume->set_owner_address(info.owner.address);
  volume->set_live(info.live);
  volume->set_silent_ms(static_cast<std::uint64_t>(info.silence.count()));
  volume->set_objects(info.pages);
  volume->set_bytes(info.bytes);
  if (info.quota_bytes) volume->set_quota_bytes(*info.quota_bytes);
  volume->mutable_shards()->Assign(shards.begin(), shards.end());
  if (info.placement) CopyPlacement(*info.placement, volume->mutable_placement());
}

}  // namespace

PageService::PageService(PageStore* store, std::map<std::string, std::string> labels,
                         std::chrono::milliseconds source_silence_max)
    : store_(store), labels_(std::move(labels)), copies_(store, source_silence_max) {}
PageService::~PageService() = default;

void PageService::Register(grpc::ServerBuilder* builder) {
  const auto add = [&](Queue* to, const char* name, std::size_t threads, bool reads_sockets) {
    auto queue = builder->AddCompletionQueue(reads_sockets);
    to->queue = queue.get();
    to->threads = std::make_unique<rpc::CompletionThreads>(
        std::move(queue), name, threads, [] {}, to->turns.get());
  };
  gets_.turns = std::make_unique<Turns>();
  puts_.turns = std::make_unique<Turns>();
  add(&gets_, "fs-get", 1, true);
  add(&puts_, "fs-put", kPutThreads, false);
  add(&opens_, "fs-open", 1, false);
  add(&sessions_, "fs-session", 1, false);
  add(&copies_queue_, "fs-copies", 1, false);
  builder->RegisterService(&service_);
  builder->RegisterAsyncGenericService(&unserved_);
}

void PageService::Start() {
  new ServedStream(this, &gets_, &Service::RequestGet, &PageService::AnswerGet);
  new ServedStream(this, &puts_, &Service::RequestPut, &PageService::AnswerPut);
  new ServedStream(this, &sessions_, &Service::RequestSession, &PageService::AnswerSession);
  new ServedCall(this, &opens_, &Service::RequestOpenVolume, &PageService::AnswerOpen);
  new ServedCall(this, &opens_, &Service::RequestCloseVolume, &PageService::AnswerClose);
  new ServedCall(this, &puts_, &Service::RequestDiscard, &PageService::AnswerDiscard);
  new ServedCall(this, &puts_, &Service::RequestListShard, &PageService::AnswerListShard);
  new ServedCall(this, &puts_, &Service::RequestDescribe, &PageService::AnswerDescribe);
  new CopyCall(this, &copies_queue_);
  new UnservedCall(this, &opens_);
  ticker_ = std::make_unique<Ticker>(this);
}

void PageService::BeginCall() {
  std::lock_guard lock(mutex_);
  ++calls_;
}

void PageService::EndCall() {
  // Notify under the lock: after its release Drain() may return and destroy this object.
  std::lock_guard lock(mutex_);
  if (--calls_ == 0) drained_.notify_all();
}

void PageService::Drain() {
  ticker_.reset();
  std::unique_lock lock(mutex_);
  drained_.wait(lock, [this] { return calls_ == 0; });
}

void PageService::SetAdminAddress(const std::string& address) {
  const std::lock_guard lock(mutex_);
  admin_address_ = address;
}

// --- Answers ------------------------------------------------------------------------------------

grpc::Status PageService::AnswerOpen(const grpc::ServerContext& context,
                                     const v1::OpenVolumeRequest& request,
                                     v1::OpenVolumeResponse* response) {
  OpenRequest read;
  if (!ReadRequest(request, &read)) {
    store_->counters().Add(Counter::opens_refused);
    return {grpc::StatusCode::INVALID_ARGUMENT, "incarnation and session_nonce must have 16 bytes"};
  }
  read.owner.address = ReadablePeer(context.peer());
  const OpenedVolume opened = store_->OpenVolume(read);
  if (grpc::Status refused = RefusedOpen(opened); !refused.ok()) return refused;
  response->set_status(static_cast<v1::OpenStatus>(opened.status));
  response->set_message(opened.message);
  response->set_volume_id(opened.volume_id);
  response->set_epoch(opened.epoch);
  response->set_capacity_bytes(store_->capacity_bytes());
  response->set_used_bytes(store_->used_bytes());
  response->set_put_objects_max(kBatchObjectsMax);
  response->set_get_keys_max(kGetKeysMax);
  response->set_discard_items_max(kDiscardItemsMax);
  response->set_protocol(kProtocolVersion);
  response->set_server_uuid(Bytes(store_->uuid()));
  response->set_run_id(Bytes(store_->run_id()));
  response->mutable_labels()->insert(labels_.begin(), labels_.end());
  response->set_store_intact(opened.intact);
  response->set_state(State(opened.volume_id));
  response->set_owner_lease_ms(static_cast<std::uint32_t>(store_->owner_lease().count()));
  if (opened.has_other) {
    v1::OpenVolumeResponse::Owner* const owner = response->mutable_owner();
    owner->set_host_name(opened.other.host_name);
    owner->set_address(opened.other.address);
    owner->set_idle_ms(static_cast<std::uint64_t>(opened.other_idle.count()));
  }
  return grpc::Status::OK;
}

grpc::Status PageService::AnswerClose(const grpc::ServerContext& /*context*/,
                                      const v1::CloseVolumeRequest& request,
                                      v1::CloseVolumeResponse* response) {
  auto closed = store_->CloseVolume(request.volume_id(), request.epoch());
  if (!closed.ok()) {
    return {grpc::StatusCode::INTERNAL, closed.error().message};
  }
  response->set_status(static_cast<v1::CallStatus>(closed.value()));
  return grpc::Status::OK;
}

grpc::Status PageService::AnswerDiscard(const grpc::ServerContext& /*context*/,
                                        const v1::DiscardRequest& request,
                                        v1::DiscardResponse* response) {
  std::vector<DiscardItem> items;
  items.reserve(static_cast<std::size_t>(request.items_size()));
  for (const v1::DiscardRequest::Item& item : request.items()) {
    items.push_back({item.key(), item.version()});
  }
  std::uint64_t discarded = 0;
  auto status = store_->Discard(request.volume_id(), request.epoch(), items, &discarded);
  if (!status.ok()) {
    return {grpc::StatusCode::INTERNAL, status.error().message};
  }
  response->set_status(static_cast<v1::CallStatus>(status.value()));
  response->set_discarded(discarded);
  return grpc::Status::OK;
}

grpc::Status PageService::AnswerListShard(const grpc::ServerContext& /*context*/,
                                          const v1::ListShardRequest& request,
                                          v1::ListShardResponse* response) {
  ShardList list;
  auto status = store_->ListShard(request.volume_id(), request.epoch(), request.shard(),
                                  request.cursor(), &list);
  if (!status.ok()) {
    return {grpc::StatusCode::INTERNAL, status.error().message};
  }
  response->set_status(static_cast<v1::CallStatus>(status.value()));
  response->set_next_cursor(list.next_cursor);
  for (const ShardEntry& kept : list.entries) {
    v1::ListShardResponse::Entry* const entry = response->add_entries();
    entry->set_key(kept.key);
    entry->set_version(kept.version);
    entry->set_bytes(static_cast<std::uint32_t>(kept.bytes));
  }
  return grpc::Status::OK;
}

// Some volumes an answer, so that it stays below the 4 MiB that clients take.
grpc::Status PageService::AnswerDescribe(const grpc::ServerContext& /*context*/,
                                         const v1::DescribeRequest& request,
                                         v1::DescribeResponse* response) {
  constexpr int kVolumesMax = 64;
  constexpr std::size_t kShardsMax = std::size_t{1} << 18;  // and those of one more volume
  std::size_t listed_shards = 0;
  response->set_status(v1::CALL_STATUS_OK);
  response->mutable_labels()->insert(labels_.begin(), labels_.end());
  response->set_server_uuid(Bytes(store_->uuid()));
  response->set_run_id(Bytes(store_->run_id()));
  response->set_state(State(0));
  response->set_capacity_bytes(store_->capacity_bytes());
  response->set_used_bytes(store_->used_bytes());
  {
    const std::lock_guard lock(mutex_);
    response->set_admin_address(admin_address_);
  }
  std::vector<VolumeInfo> volumes = store_->Volumes();
  std::ranges::sort(volumes, {}, &VolumeInfo::volume_id);
  for (const VolumeInfo& info : volumes) {
    if (info.garbage || info.volume_id < request.cursor()) continue;
    if (response->volumes_size() == kVolumesMax || listed_shards >= kShardsMax) {
      response->set_next_cursor(info.volume_id);
      break;
    }
    auto shards = store_->ShardsOf(info.volume_id);
    if (!shards.ok()) {
      return {grpc::StatusCode::INTERNAL, shards.error().message};
    }
    listed_shards += shards.value().size();
    CopyVolume(info, shards.value(), response->add_volumes());
  }
  return grpc::Status::OK;
}

CallStatus PageService::AnswerSession(const v1::SessionRequest& request,
                                      v1::SessionResponse* response) {
  Heartbeat heartbeat{.boot_ms = request.boot_ms()};
  if (request.has_placement()) heartbeat.placement = ReadPlacement(request.placement());
  const CallStatus status = store_->Hear(request.volume_id(), request.epoch(), heartbeat);
  response->set_sequence(request.sequence());
  response->set_status(static_cast<v1::CallStatus>(status));
  response->set_capacity_bytes(store_->capacity_bytes());
  response->set_used_bytes(store_->used_bytes());
  response->set_state(State(request.volume_id()));
  for (const Id& uuid : store_->removed_servers()) response->add_removed_servers(Bytes(uuid));
  if (status != CallStatus::kOk) return status;
  for (const v1::ComparedShards& compared : request.compared()) {
    store_->EndDamage(request.volume_id(), compared.report(), compared.copied_objects());
  }
  for (const DamagedShards& damaged : store_->DamageOf(request.volume_id())) {
    v1::DamagedShards* const sent = response->add_damaged();
    sent->set_report(damaged.report);
    sent->set_first(damaged.first);
    sent->set_last(damaged.last);
  }
  return status;
}

v1::ServerState PageService::State(std::uint64_t volume_id) const {
  return stopping() ? v1::SERVER_STATE_STOPPING
                    : static_cast<v1::ServerState>(store_->StateFor(volume_id));
}

CallStatus PageService::AnswerPut(const v1::PutRequest& request, v1::PutResponse* response) {
  std::array<ObjectRecord, kBatchObjectsMax> objects;
  std::array<ObjectStatus, kBatchObjectsMax> results;
  const auto count = static_cast<std::size_t>(request.objects_size());
  CallStatus status = CallStatus::kInvalid;
  if (count <= kBatchObjectsMax) {
    for (std::size_t i = 0; i < count; ++i) {
      objects[i] = BorrowObject(request.objects(static_cast<int>(i)));
    }
    status = store_->Put(request.volume_id(), request.epoch(), std::span(objects).first(count),
                         std::span(results).first(count));
  } else {
    store_->counters().Add(Counter::invalid_batches);
  }
  response->set_batch_id(request.batch_id());
  response->set_status(static_cast<v1::CallStatus>(status));
  for (std::size_t i = 0; status == CallStatus::kOk && i < count; ++i) {
    response->add_results(static_cast<v1::ObjectStatus>(results[i]));
  }
  response->set_capacity_bytes(store_->capacity_bytes());
  response->set_used_bytes(store_->used_bytes());
  return status;
}

CallStatus PageService::AnswerGet(const v1::GetRequest& request, v1::GetResponse* response) {
  const std::span keys(request.keys().data(), static_cast<std::size_t>(request.keys_size()));
  const CallStatus status = store_->Get(
      request.volume_id(), request.epoch(), keys,
      [response](std::size_t /*index*/, ObjectStatus object_status, const ObjectRecord& record) {
        v1::GetResponse::Result* result = response->add_results();
        result->set_status(static_cast<v1::ObjectStatus>(object_status));
        if (object_status == ObjectStatus::kOk) CopyObject(record, result->mutable_object());
      });
  response->set_request_id(request.request_id());
  response->set_status(static_cast<v1::CallStatus>(status));
  return status;
}

// --- Streams under way --------------------------------------------------------------------------

bool PageService::AddStream(grpc::ServerContext* context) {
  std::lock_guard lock(mutex_);
  if (stopping_ || streams_.size() >= kStreamsMax) return false;
  streams_.emplace(context, Phase::kIdle);
  return true;
}

grpc::Status PageService::EndStream(grpc::ServerContext* context) {
  std::lock_guard lock(mutex_);
  streams_.erase(context);
  return stopping_ ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is stopping")
                   : grpc::Status::OK;
}

bool PageService::SetPhase(grpc::ServerContext* context, Phase phase) {
  std::lock_guard lock(mutex_);
  streams_[context] = phase;
  return !stopping_;
}

grpc::Status PageService::RefuseStream() {
  store_->counters().Add(Counter::streams_refused);
  return {grpc::StatusCode::RESOURCE_EXHAUSTED, "too many streams, or the server is stopping"};
}

bool PageService::stopping() const {
  std::lock_guard lock(mutex_);
  return stopping_;
}

void PageService::StopStreams() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    if (ticker_) ticker_->Stop();
    for (const auto& [context, phase] : streams_) {
      if (phase == Phase::kIdle) context->TryCancel();
    }
  }
  copies_.Stop();
}

}  // namespace farswap::store
