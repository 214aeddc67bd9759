// A host for tests of memory servers, over a real channel on the loopback interface.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "farswap/v1/page_store.grpc.pb.h"
#include "hang_guard.h"
#include "store_objects.h"

namespace farswap::store {

/// One host: a connection of its own, a volume, and calls with a deadline.
class Host {
 public:
  explicit Host(int port, const std::string& name = "host") {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetMaxSendMessageSize(-1);
    stub_ = v1::PageStore::NewStub(grpc::CreateCustomChannel(
        "127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials(), arguments));
    request_.set_host_id(name);
    request_.set_device("swap0");
    request_.set_incarnation(std::string(16, 'a'));
    request_.set_session_nonce(std::string(16, 'n'));
    request_.set_protocol_min(2);
    request_.set_protocol_max(2);
    request_.set_host_name(name + ".example");
    request_.set_slots(65536);
  }

  v1::OpenVolumeRequest& request() { return request_; }
  v1::PageStore::Stub& stub() { return *stub_; }
  const v1::OpenVolumeResponse& volume() const { return volume_; }

  grpc::Status Open() {
    grpc::ClientContext context;
    Limit(&context);
    return stub_->OpenVolume(&context, request_, &volume_);
  }

  v1::SessionRequest Beat(std::uint64_t sequence) const {
    v1::SessionRequest beat;
    beat.set_sequence(sequence);
    beat.set_volume_id(volume_.volume_id());
    beat.set_epoch(volume_.epoch());
    return beat;
  }

  v1::SessionResponse BeatOnce(const v1::SessionRequest& beat) {
    grpc::ClientContext context;
    Limit(&context);
    return Exchange(stub_->Session(&context).get(), beat);
  }

  static void Limit(grpc::ClientContext* context) {
    context->set_deadline(std::chrono::system_clock::now() + kHangGuard);
  }

  v1::PutRequest Batch(std::uint64_t id, std::uint64_t first_slot, std::size_t count,
                       std::uint64_t version) const {
    v1::PutRequest batch;
    batch.set_batch_id(id);
    batch.set_volume_id(volume_.volume_id());
    batch.set_epoch(volume_.epoch());
    for (std::size_t i = 0; i < count; ++i) {
      const std::string bytes = ObjectBytes(first_slot + i, version, 100);
      v1::Object* object = batch.add_objects();
      object->set_key(first_slot + i);
      object->set_version(version);
      object->set_codec(v1::CODEC_LZ4);
      object->set_bytes(bytes);
      object->set_checksum(MakeObject(first_slot + i, version, bytes).checksum);
      object->set_stored_boot_s(1700000000);
    }
    return batch;
  }

  v1::GetRequest Slots(std::uint64_t id, const std::vector<std::uint64_t>& slots) const {
    v1::GetRequest fetch;
    fetch.set_request_id(id);
    fetch.set_volume_id(volume_.volume_id());
    fetch.set_epoch(volume_.epoch());
    for (const std::uint64_t slot : slots) fetch.add_keys(slot);
    return fetch;
  }

  v1::PutResponse PutOnce(const v1::PutRequest& batch) {
    grpc::ClientContext context;
    Limit(&context);
    return Exchange(stub_->Put(&context).get(), batch);
  }

  v1::GetResponse GetOnce(const v1::GetRequest& fetch) {
    grpc::ClientContext context;
    Limit(&context);
    return Exchange(stub_->Get(&context).get(), fetch);
  }

 private:
  // All of a stream: one request and its answer.
  template <typename Request, typename Response>
  static Response Exchange(grpc::ClientReaderWriterInterface<Request, Response>* stream,
                           const Request& request) {
    Response response;
    EXPECT_TRUE(stream->Write(request) && stream->Read(&response));
    stream->WritesDone();
    EXPECT_TRUE(stream->Finish().ok());
    return response;
  }

  std::unique_ptr<v1::PageStore::Stub> stub_;
  v1::OpenVolumeRequest request_;
  v1::OpenVolumeResponse volume_;
};

}  // namespace farswap::store
