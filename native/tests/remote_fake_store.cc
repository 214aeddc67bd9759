#include "remote_fake_store.h"

#include <grpcpp/security/server_credentials.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <utility>

#include "tier/page.h"

namespace farswap::remote {

using std::chrono::steady_clock;

std::string FakeStore::NewId() {
  static std::atomic<int> last = 0;
  std::string id = std::to_string(++last);
  id.resize(16, '.');
  return id;
}

void FakeStore::Start() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = false;
    known_ = false;
    run_id_ = NewId();
  }
  grpc::ServerBuilder builder;
  int bound = 0;
  builder.AddListeningPort("127.0.0.1:" + std::to_string(port_), grpc::InsecureServerCredentials(),
                           &bound);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  if (!server_ || bound == 0) std::abort();
  port_ = bound;
}

void FakeStore::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (!server_) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
}

void FakeStore::BeOwnedFor(std::chrono::milliseconds alive) {
  const std::lock_guard lock(mutex_);
  ++epoch_;
  nonce_ = "another";
  alive_until_ = steady_clock::now() + alive;
}

/// Whether the call is one that is not to be answered: then the caller has given it up.
bool FakeStore::WasHeld(grpc::ServerContext* context, std::unique_lock<std::mutex>& lock) {
  if (!std::exchange(script_.hold_call, false)) return false;
  while (!context->IsCancelled()) changed_.wait_for(lock, std::chrono::milliseconds(5));
  return true;
}

grpc::Status FakeStore::OpenVolume(grpc::ServerContext* context,
                                   const v1::OpenVolumeRequest* request,
                                   v1::OpenVolumeResponse* response) {
  std::unique_lock lock(mutex_);
  ++(request->probe() ? seen_.probes : seen_.opens);
  if (WasHeld(context, lock)) return grpc::Status::CANCELLED;
  response->set_protocol(script_.protocol);
  response->set_server_uuid(script_.uuid);
  response->set_run_id(run_id_);
  response->set_store_intact(!script_.unclean);
  response->set_owner_lease_ms(static_cast<std::uint32_t>(script_.lease.count()));
  response->set_state(script_.state);
  response->set_capacity_bytes(script_.capacity_bytes);
  response->set_used_bytes(script_.used_bytes);
  response->set_put_objects_max(script_.put_objects_max);
  response->set_get_keys_max(64);
  response->set_discard_items_max(4096);
  const auto now = steady_clock::now();
  const bool owned = request->session_nonce() != nonce_ && now < alive_until_;
  if (owned) {
    response->mutable_owner()->set_host_name("other-host");
    response->mutable_owner()->set_address("192.0.2.1");
  }
  const bool speaks =
      request->protocol_min() <= script_.protocol && script_.protocol <= request->protocol_max();
  response->set_status(!speaks                          ? v1::OPEN_STATUS_PROTOCOL
                       : script_.retired                ? v1::OPEN_STATUS_FENCED
                       : owned && !request->take_over() ? v1::OPEN_STATUS_ALREADY_OPEN
                                                        : v1::OPEN_STATUS_OK);
  if (request->probe() || response->status() != v1::OPEN_STATUS_OK) return grpc::Status::OK;
  if (owned) ++seen_.take_overs;
  if (request->session_nonce() != nonce_) ++epoch_;
  nonce_ = request->session_nonce();
  alive_until_ = now + script_.lease;
  known_ = true;
  response->set_volume_id(7);
  response->set_epoch(epoch_);
  if (script_.fail_open) {
    script_.fail_open = false;
    return {grpc::StatusCode::UNAVAILABLE, "failing on request"};
  }
  return grpc::Status::OK;
}

grpc::Status FakeStore::CloseVolume(grpc::ServerContext* context,
                                    const v1::CloseVolumeRequest* request,
                                    v1::CloseVolumeResponse* response) {
  {
    const std::lock_guard lock(mutex_);
    ++seen_.closes;
  }
  if (!WaitWhile(context, &Script::hold_closes)) return grpc::Status::CANCELLED;
  const std::lock_guard lock(mutex_);
  response->set_status(StatusOf(request->epoch()));
  if (response->status() == v1::CALL_STATUS_OK) alive_until_ = {};
  return grpc::Status::OK;
}

grpc::Status FakeStore::Session(
    grpc::ServerContext*,
    grpc::ServerReaderWriter<v1::SessionResponse, v1::SessionRequest>* stream) {
  v1::SessionRequest request;
  while (stream->Read(&request)) {
    v1::SessionResponse response;
    {
      const std::lock_guard lock(mutex_);
      ++seen_.heartbeats;
      if (script_.ignore_heartbeats) continue;
      response.set_sequence(request.sequence());
      response.set_status(StatusOf(request.epoch()));
      response.set_capacity_bytes(script_.capacity_bytes);
      response.set_used_bytes(script_.used_bytes);
      response.set_state(script_.state);
      response.mutable_removed_servers()->Assign(script_.removed.begin(), script_.removed.end());
      if (response.status() == v1::CALL_STATUS_OK) {
        alive_until_ = steady_clock::now() + script_.lease;
      }
    }
    if (!stream->Write(response)) break;
  }
  return grpc::Status::OK;
}

grpc::Status FakeStore::Put(grpc::ServerContext* context,
                            grpc::ServerReaderWriter<v1::PutResponse, v1::PutRequest>* stream) {
  const auto chatter = [&] {
    bool chatters = false;
    {
      const std::lock_guard lock(mutex_);
      chatters = script_.chatter;
    }
    v1::PutRequest unknown;
    unknown.set_epoch(UINT64_MAX);
    if (chatters) stream->Write(Keep(unknown));
  };
  v1::PutRequest request;
  while (WaitWhile(context, &Script::hold_puts, chatter) && stream->Read(&request)) {
    if (!WaitWhile(context, &Script::hold_puts, chatter)) break;
    if (!stream->Write(Keep(request))) break;
  }
  return grpc::Status::OK;
}

grpc::Status FakeStore::Get(grpc::ServerContext* context,
                            grpc::ServerReaderWriter<v1::GetResponse, v1::GetRequest>* stream) {
  std::vector<v1::GetResponse> gathered;
  v1::GetRequest request;
  while (stream->Read(&request)) {
    if (!WaitWhile(context, &Script::hold_gets)) break;
    gathered.push_back(Find(request));
    std::size_t gather = 0;
    {
      const std::lock_guard lock(mutex_);
      gather = script_.reverse_gets;
    }
    if (gathered.size() < gather) continue;
    for (; !gathered.empty(); gathered.pop_back()) stream->Write(gathered.back());
  }
  return grpc::Status::OK;
}

grpc::Status FakeStore::Discard(grpc::ServerContext* context, const v1::DiscardRequest* request,
                                v1::DiscardResponse* response) {
  std::unique_lock lock(mutex_);
  if (WasHeld(context, lock)) return grpc::Status::CANCELLED;
  if (script_.fail_discards) {
    script_.fail_discards = false;
    return {grpc::StatusCode::UNAVAILABLE, "failing on request"};
  }
  response->set_status(StatusOf(request->epoch()));
  if (response->status() != v1::CALL_STATUS_OK) return grpc::Status::OK;
  for (const v1::DiscardRequest::Item& item : request->items()) {
    const auto found = objects_.find(item.key());
    if (found != objects_.end() && found->second.version() <= item.version()) objects_.erase(found);
    ++seen_.discards;
  }
  return grpc::Status::OK;
}

// Copies nothing.
grpc::Status FakeStore::CopyShard(grpc::ServerContext* context, const v1::CopyShardRequest* request,
                                  grpc::ServerWriter<v1::CopyShardResponse>* answers) {
  {
    const std::lock_guard lock(mutex_);
    ++seen_.copy_calls;
  }
  if (!WaitWhile(context, &Script::hold_copies)) return grpc::Status::CANCELLED;
  v1::CopyShardResponse answer;
  {
    const std::lock_guard lock(mutex_);
    if (script_.refused_copies > 0) {
      --script_.refused_copies;
      answer.set_status(v1::CALL_STATUS_RETRY_AFTER);
      answers->Write(answer);
      return grpc::Status::OK;
    }
    seen_.copies += request->keys().empty() ? 1 : 0;
    auto& keys = request->replace_equal() ? seen_.repaired_keys : seen_.copied_keys;
    keys.insert(keys.end(), request->keys().begin(), request->keys().end());
    if (request->replace_equal()) seen_.repair_source = request->source().address();
  }
  answer.set_status(v1::CALL_STATUS_OK);
  answer.set_done(true);
  answer.set_copied_objects(static_cast<std::uint64_t>(request->keys_size()));
  answers->Write(answer);
  return grpc::Status::OK;
}

grpc::Status FakeStore::ListShard(grpc::ServerContext*, const v1::ListShardRequest* request,
                                  v1::ListShardResponse* answer) {
  const std::lock_guard lock(mutex_);
  answer->set_status(v1::CALL_STATUS_OK);
  for (const auto& [key, object] : objects_) {
    const auto slot = tier::FirstSlotOf(static_cast<tier::ObjectKey>(key));
    if (slot / tier::kShardSlots != request->shard()) continue;
    v1::ListShardResponse::Entry* const entry = answer->add_entries();
    entry->set_key(key);
    entry->set_version(object.version());
  }
  return grpc::Status::OK;
}

v1::CallStatus FakeStore::StatusOf(std::uint64_t epoch) {
  if (script_.unknown_volumes > 0) {
    --script_.unknown_volumes;
    known_ = false;
  }
  if (!known_) return v1::CALL_STATUS_UNKNOWN_VOLUME;
  if (script_.fenced || epoch < epoch_) return v1::CALL_STATUS_FENCED;
  return v1::CALL_STATUS_OK;
}

v1::PutResponse FakeStore::Keep(const v1::PutRequest& request) {
  const std::lock_guard lock(mutex_);
  ++seen_.batches;
  v1::PutResponse response;
  response.set_batch_id(request.batch_id());
  response.set_status(StatusOf(request.epoch()));
  response.set_capacity_bytes(script_.capacity_bytes);
  response.set_used_bytes(script_.used_bytes);
  if (response.status() == v1::CALL_STATUS_OK) {
    for (const v1::Object& object : request.objects()) {
      v1::Object& kept = objects_[object.key()];
      if (script_.full) {
        response.add_results(v1::OBJECT_STATUS_FULL);
      } else if (kept.version() > object.version()) {
        response.add_results(v1::OBJECT_STATUS_SUPERSEDED);
      } else {
        kept = object;
        response.add_results(v1::OBJECT_STATUS_OK);
      }
    }
  }
  if (script_.corrupt_put) script_.corrupt_put(&response);
  return response;
}

v1::GetResponse FakeStore::Find(const v1::GetRequest& request) {
  const std::lock_guard lock(mutex_);
  ++seen_.fetches;
  v1::GetResponse response;
  response.set_request_id(request.request_id());
  response.set_status(StatusOf(request.epoch()));
  if (response.status() == v1::CALL_STATUS_OK) {
    for (const std::uint64_t key : request.keys()) {
      v1::GetResponse::Result* const result = response.add_results();
      const auto found = objects_.find(key);
      if (found == objects_.end()) {
        result->set_status(v1::OBJECT_STATUS_NOT_FOUND);
      } else {
        result->set_status(v1::OBJECT_STATUS_OK);
        *result->mutable_object() = found->second;
      }
    }
  }
  if (script_.corrupt) script_.corrupt(request, &response);
  return response;
}

bool FakeStore::WaitWhile(grpc::ServerContext* context, const bool Script::*held,
                          const std::function<void()>& meanwhile) {
  std::unique_lock lock(mutex_);
  while (script_.*held && !stopping_ && !context->IsCancelled()) {
    // gRPC does not report a cancellation to this thread, so check now and then.
    changed_.wait_for(lock, std::chrono::milliseconds(5));
    if (!meanwhile) continue;
    lock.unlock();
    meanwhile();
    lock.lock();
  }
  return !stopping_ && !context->IsCancelled();
}

}  // namespace farswap::remote
