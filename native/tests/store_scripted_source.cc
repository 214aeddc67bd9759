#include "store_scripted_source.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdlib>
#include <utility>

#include "store_objects.h"

namespace farswap::store {

ScriptedSource::ScriptedSource() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  if (!server_) std::abort();
}

void ScriptedSource::Stop() {
  if (!server_) return;
  stopping_.Set();
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
  const std::lock_guard lock(mutex_);
}

v1::CopyShardRequest::Source ScriptedSource::Named() const {
  v1::CopyShardRequest::Source source;
  source.set_server_uuid(std::string(16, 's'));
  source.set_address(address());
  source.set_volume_id(7);
  source.set_epoch(1);
  return source;
}

void ScriptedSource::Add(std::uint64_t key, std::uint64_t version) {
  const std::string bytes = ObjectBytes(key, version, 100);
  const std::lock_guard lock(mutex_);
  v1::Object& object = objects_[key];
  object.set_key(key);
  object.set_version(version);
  object.set_codec(v1::CODEC_LZ4);
  object.set_bytes(bytes);
  object.set_checksum(MakeObject(key, version, bytes).checksum);
}

void ScriptedSource::Remove(std::uint64_t key) {
  const std::lock_guard lock(mutex_);
  objects_.erase(key);
}

void ScriptedSource::BeforeGet(std::function<void()> run) {
  const std::lock_guard lock(mutex_);
  before_get_ = std::move(run);
}

void ScriptedSource::ChangeGet(std::function<void(v1::GetResponse*)> change) {
  const std::lock_guard lock(mutex_);
  change_get_ = std::move(change);
}

void ScriptedSource::ChangeList(std::function<void(v1::ListShardResponse*)> change) {
  const std::lock_guard lock(mutex_);
  change_list_ = std::move(change);
}

void ScriptedSource::HoldGets() {
  BeforeGet([this] {
    ++held_;
    stopping_.Wait();
  });
}

grpc::Status ScriptedSource::Describe(grpc::ServerContext*, const v1::DescribeRequest*,
                                      v1::DescribeResponse* response) {
  const std::lock_guard lock(mutex_);
  response->set_status(v1::CALL_STATUS_OK);
  response->set_server_uuid(Named().server_uuid());
  return grpc::Status::OK;
}

grpc::Status ScriptedSource::ListShard(grpc::ServerContext*, const v1::ListShardRequest*,
                                       v1::ListShardResponse* response) {
  const std::lock_guard lock(mutex_);
  response->set_status(v1::CALL_STATUS_OK);
  for (const auto& [key, object] : objects_) {
    v1::ListShardResponse::Entry* const entry = response->add_entries();
    entry->set_key(key);
    entry->set_version(object.version());
    entry->set_bytes(static_cast<std::uint32_t>(object.bytes().size()));
  }
  change_list_(response);
  return grpc::Status::OK;
}

grpc::Status ScriptedSource::Get(
    grpc::ServerContext*, grpc::ServerReaderWriter<v1::GetResponse, v1::GetRequest>* stream) {
  v1::GetRequest request;
  while (stream->Read(&request)) {
    RunBeforeGet();
    if (stopping_.ready()) return {grpc::StatusCode::UNAVAILABLE, "stopping"};
    if (!stream->Write(Find(request))) break;
  }
  const std::lock_guard lock(mutex_);
  return grpc::Status::OK;
}

void ScriptedSource::RunBeforeGet() {
  std::unique_lock lock(mutex_);
  const auto run = before_get_;
  lock.unlock();
  run();
}

v1::GetResponse ScriptedSource::Find(const v1::GetRequest& request) {
  v1::GetResponse response;
  std::unique_lock lock(mutex_);
  response.set_request_id(request.request_id());
  response.set_status(v1::CALL_STATUS_OK);
  for (const std::uint64_t key : request.keys()) {
    v1::GetResponse::Result* const result = response.add_results();
    const auto found = objects_.find(key);
    result->set_status(found == objects_.end() ? v1::OBJECT_STATUS_NOT_FOUND
                                               : v1::OBJECT_STATUS_OK);
    if (found != objects_.end()) *result->mutable_object() = found->second;
  }
  const auto change = change_get_;
  lock.unlock();
  change(&response);
  return response;
}

}  // namespace farswap::store
