// A memory server that is the target of copies, its host, and the calls of CopyShard.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "store/page_server.h"
#include "store_host.h"
#include "waiter.h"

namespace farswap::store {

/// A call of CopyShard under way.
class CopyCalling {
 public:
  CopyCalling(Host& host, const v1::CopyShardRequest& request)
      : reader_(host.stub().CopyShard(&context_, request)) {}

  bool Read(v1::CopyShardResponse* progress) { return reader_->Read(progress); }
  void Cancel() { context_.TryCancel(); }
  /// Reads all; the last message is `last`.
  grpc::Status Finish() {
    while (reader_->Read(&last)) ++messages;
    return reader_->Finish();
  }

  v1::CopyShardResponse last;
  std::size_t messages = 0;

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::CopyShardResponse>> reader_;
};

class CopyTest : public ::testing::Test {
 protected:
  struct Server {
    std::unique_ptr<PageServer> server;
    std::unique_ptr<Host> host;

    std::uint64_t Stat(const std::string& name) const {
      const auto stats = server->Stats();
      const auto found =
          std::ranges::find(stats, name, &std::pair<std::string, std::uint64_t>::first);
      EXPECT_NE(found, stats.end()) << name;
      return found->second;
    }
    v1::CopyShardRequest::Source Named() const {
      v1::CopyShardRequest::Source source;
      source.set_server_uuid(host->volume().server_uuid());
      source.set_address("127.0.0.1:" + std::to_string(server->port()));
      source.set_volume_id(host->volume().volume_id());
      source.set_epoch(host->volume().epoch());
      return source;
    }
  };

  void SetUp() override { target_ = Start(64 * kMiB); }

  /// With the volume opened. In a new directory unless `path` names one.
  Server Start(std::uint64_t capacity_bytes, std::string path = "",
               std::chrono::milliseconds silence_max = kHangGuard) {
    PageServerConfig config;
    config.listen = "127.0.0.1:0";
    config.path = path.empty() ? directory_.Path(std::to_string(++servers_)) : std::move(path);
    config.capacity_bytes = capacity_bytes;
    config.block_cache_bytes = kMiB;
    config.source_silence_max = silence_max;
    Server started;
    auto created = PageServer::Create(config);
    EXPECT_TRUE(created.ok()) << created.error().message;
    started.server = std::move(created.value());
    started.host = std::make_unique<Host>(started.server->port());
    EXPECT_TRUE(started.host->Open().ok());
    return started;
  }

  static void Fill(Host& host, std::uint64_t first, std::size_t count, std::uint64_t version) {
    for (std::size_t i = 0; i < count; i += kBatchObjectsMax) {
      const std::size_t some = std::min(kBatchObjectsMax, count - i);
      const v1::PutResponse answer = host.PutOnce(host.Batch(1, first + i, some, version));
      ASSERT_EQ(std::ranges::count(answer.results(), v1::OBJECT_STATUS_OK),
                static_cast<std::ptrdiff_t>(some));
    }
  }
  static void FillBundle(Host& host, std::uint64_t slot, std::uint64_t version) {
    const std::uint64_t key = tier::BundleKeyOf(static_cast<tier::SlotIndex>(slot));
    const std::string bytes = BundleBytes(key, version, 300);
    v1::PutRequest batch = host.Batch(1, key, 1, version);
    batch.mutable_objects(0)->set_codec(v1::CODEC_BUNDLE);
    batch.mutable_objects(0)->set_bytes(bytes);
    batch.mutable_objects(0)->set_checksum(MakeBundle(key, version, bytes).checksum);
    ASSERT_EQ(host.PutOnce(batch).results(0), v1::OBJECT_STATUS_OK);
  }

  /// The version of a valid object at the target; 0: none.
  std::uint64_t TargetVersion(std::uint64_t key) {
    const auto result = target_.host->GetOnce(target_.host->Slots(1, {key})).results(0);
    if (result.status() != v1::OBJECT_STATUS_OK) return 0;
    const std::uint64_t version = result.object().version();
    const bool bundle = tier::IsBundleKey(static_cast<tier::ObjectKey>(key));
    EXPECT_EQ(result.object().bytes(),
              bundle ? BundleBytes(key, version, 300) : ObjectBytes(key, version, 100));
    return version;
  }

  v1::CopyShardRequest Request(const v1::CopyShardRequest::Source& source,
                               std::uint64_t shard = 0) const {
    v1::CopyShardRequest request;
    request.set_volume_id(target_.host->volume().volume_id());
    request.set_epoch(target_.host->volume().epoch());
    request.set_shard(shard);
    request.set_generation(1);
    *request.mutable_source() = source;
    return request;
  }

  std::unique_ptr<CopyCalling> Begin(const v1::CopyShardRequest& request) {
    return std::make_unique<CopyCalling>(*target_.host, request);
  }
  /// A whole call; its last message.
  v1::CopyShardResponse Copy(const v1::CopyShardRequest& request) {
    const auto call = Begin(request);
    EXPECT_TRUE(call->Finish().ok());
    return call->last;
  }

  ScratchDirectory directory_;
  int servers_ = 0;
  Server target_;
};

}  // namespace farswap::store
