// Copies that are refused, or end early.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>

#include "faulty_files.h"
#include "store/shard_copy.h"
#include "store_copy_fixture.h"
#include "store_scripted_source.h"

namespace farswap::store {
namespace {

using std::chrono_literals::operator""ms;

class CopyFaultTest : public CopyTest {
 protected:
  void SetUp() override {
    CopyTest::SetUp();
    for (std::uint64_t key = 0; key < 300; ++key) source_.Add(key, 5);
  }

  /// A copy whose Gets the source holds.
  std::unique_ptr<CopyCalling> BeginHeld(const v1::CopyShardRequest& request) {
    const int held = source_.held();
    auto call = Begin(request);
    EXPECT_TRUE(Eventually([&] { return source_.held() > held; }));
    return call;
  }
  v1::CopyShardRequest FromSource() const { return Request(source_.Named()); }

  /// The status of a copy that is refused or ends early, and its message.
  void ExpectEnd(const v1::CopyShardRequest& request, v1::CallStatus status,
                 const std::string& message) {
    const v1::CopyShardResponse last = Copy(request);
    EXPECT_EQ(last.status(), status);
    EXPECT_EQ(last.message(), message);
    EXPECT_FALSE(last.done());
  }

  ScriptedSource source_;
};

TEST_F(CopyFaultTest, BadRequestsAreRefused) {
  const std::vector<std::function<void(v1::CopyShardRequest*)>> spoilers = {
      [](auto* request) { request->mutable_source()->set_server_uuid("short"); },
      [](auto* request) { request->mutable_source()->clear_address(); },
      [](auto* request) { request->mutable_source()->set_address(std::string(257, '1')); },
      [&](auto* request) {
        request->mutable_source()->set_server_uuid(target_.host->volume().server_uuid());
      },
      [](auto* request) { request->set_shard(65536 / tier::kShardSlots); },
      [](auto* request) { request->set_shard(UINT64_MAX); },
      [](auto* request) { request->add_keys(tier::kShardSlots); },
      [](auto* request) { request->add_keys(UINT64_MAX); },
      [](auto* request) {
        for (std::size_t i = 0; i <= kShardObjectsMax; ++i) request->add_keys(1);
      },
  };
  for (const auto& spoil : spoilers) {
    v1::CopyShardRequest request = FromSource();
    spoil(&request);
    ExpectEnd(request, v1::CALL_STATUS_INVALID, "the request exceeds a limit of the protocol");
  }
  EXPECT_EQ(target_.Stat("invalid_batches"), spoilers.size());
  v1::CopyShardRequest request = FromSource();
  request.set_volume_id(request.volume_id() ^ 1);
  ExpectEnd(request, v1::CALL_STATUS_UNKNOWN_VOLUME, "the volume is not open");
  target_.host->request().set_session_nonce(std::string(16, 'm'));
  target_.host->request().set_takeover_count(1);
  const v1::CopyShardRequest stale = FromSource();
  ASSERT_TRUE(target_.host->Open().ok());
  ExpectEnd(stale, v1::CALL_STATUS_FENCED, "the volume has a newer epoch");
  EXPECT_EQ(target_.Stat("copies"), 0u);
  EXPECT_TRUE(Copy(FromSource()).done());
}

TEST_F(CopyFaultTest, AnotherServerAtTheAddressFailsTheSource) {
  v1::CopyShardRequest request = FromSource();
  request.mutable_source()->set_server_uuid(std::string(16, 'x'));
  ExpectEnd(request, v1::CALL_STATUS_SOURCE_FAILED,
            "failed to copy from " + source_.address() + ": another server has this address");
  EXPECT_EQ(target_.Stat("pages"), 0u);
}

TEST_F(CopyFaultTest, AFencedSourceFailsWithItsStatus) {
  const Server other = Start(kMiB);
  v1::CopyShardRequest request = Request(other.Named());
  request.mutable_source()->set_epoch(0);
  ExpectEnd(request, v1::CALL_STATUS_SOURCE_FAILED,
            "failed to copy from " + request.source().address() +
                ": ListShard was refused: CALL_STATUS_FENCED");
}

TEST_F(CopyFaultTest, ASourceThatIsAwayFailsAtOnce) {
  const v1::CopyShardRequest request = FromSource();
  source_.Stop();
  const v1::CopyShardResponse last = Copy(request);
  EXPECT_EQ(last.status(), v1::CALL_STATUS_SOURCE_FAILED);
  EXPECT_NE(last.message().find(": Describe failed: "), std::string::npos) << last.message();
}

TEST_F(CopyFaultTest, ASourceThatEndsInTheMiddleFailsAndWhatCameIsKept) {
  std::atomic<int> gets{0};
  source_.ChangeGet([&](v1::GetResponse*) {
    if (++gets == 3) source_.HoldGets();
  });
  const auto call = Begin(FromSource());
  ASSERT_TRUE(Eventually([&] { return target_.Stat("pages") == 3 * kGetKeysMax; }));
  source_.Stop();
  ASSERT_TRUE(call->Finish().ok());
  EXPECT_EQ(call->last.status(), v1::CALL_STATUS_SOURCE_FAILED);
  EXPECT_EQ(call->last.copied_objects(), 3 * kGetKeysMax);
  EXPECT_EQ(call->last.listed_objects(), 300u);
  EXPECT_EQ(TargetVersion(3 * kGetKeysMax - 1), 5u);
  EXPECT_EQ(target_.Stat("copies_failed"), 1u);
}

TEST_F(CopyFaultTest, ASilentSourceFails) {
  target_ = Start(kMiB, "", 300ms);
  source_.HoldGets();
  ExpectEnd(FromSource(), v1::CALL_STATUS_SOURCE_FAILED,
            "failed to copy from " + source_.address() + ": no answer for 300 ms");
}

TEST_F(CopyFaultTest, ANewerEpochEndsACopy) {
  source_.HoldGets();
  const auto call = BeginHeld(FromSource());
  target_.host->request().set_session_nonce(std::string(16, 'm'));
  target_.host->request().set_takeover_count(1);
  ASSERT_TRUE(target_.host->Open().ok());
  EXPECT_TRUE(call->Finish().ok());
  EXPECT_EQ(call->last.status(), v1::CALL_STATUS_FENCED);
}

TEST_F(CopyFaultTest, TheVolumesEndEndsACopy) {
  source_.HoldGets();
  const auto call = BeginHeld(FromSource());
  v1::CloseVolumeRequest close;
  close.set_volume_id(target_.host->volume().volume_id());
  close.set_epoch(target_.host->volume().epoch());
  v1::CloseVolumeResponse closed;
  grpc::ClientContext context;
  ASSERT_TRUE(target_.host->stub().CloseVolume(&context, close, &closed).ok());
  EXPECT_TRUE(call->Finish().ok());
  EXPECT_EQ(call->last.status(), v1::CALL_STATUS_UNKNOWN_VOLUME);
}

TEST_F(CopyFaultTest, ANewerGenerationEndsOlderCopiesAndRefusesThem) {
  source_.HoldGets();
  v1::CopyShardRequest request = FromSource();
  request.set_generation(4);
  const auto older = BeginHeld(request);
  const auto same = BeginHeld(request);
  request.set_generation(5);
  const auto newer = BeginHeld(request);
  for (const auto& call : {older.get(), same.get()}) {
    EXPECT_TRUE(call->Finish().ok());
    EXPECT_EQ(call->last.status(), v1::CALL_STATUS_STALE_GENERATION);
  }
  request.set_generation(4);
  ExpectEnd(request, v1::CALL_STATUS_STALE_GENERATION,
            "a copy of a newer generation of the shard has begun");
  v1::CopyShardResponse progress;
  EXPECT_TRUE(newer->Read(&progress));
  EXPECT_EQ(progress.status(), v1::CALL_STATUS_OK);
  EXPECT_EQ(target_.Stat("copies_refused"), 1u);
}

TEST_F(CopyFaultTest, TheFifthCopyIsRefusedUntilOneIsCancelled) {
  source_.HoldGets();
  std::vector<std::unique_ptr<CopyCalling>> calls;
  for (std::size_t i = 0; i < kCopiesMax; ++i) calls.push_back(BeginHeld(FromSource()));
  const v1::CopyShardResponse refused = Copy(FromSource());
  EXPECT_EQ(refused.status(), v1::CALL_STATUS_RETRY_AFTER);
  EXPECT_EQ(refused.retry_after_ms(), 500u);
  EXPECT_EQ(refused.message(), "too many copies are in progress");
  EXPECT_EQ(target_.Stat("copies_refused"), 1u);
  calls[2]->Cancel();
  EXPECT_EQ(calls[2]->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ASSERT_TRUE(Eventually([&] { return target_.Stat("copies_failed") == 1; }));
  v1::CopyShardResponse progress;
  const auto begun = [&] {
    calls[2] = Begin(FromSource());
    return calls[2]->Read(&progress) && progress.status() == v1::CALL_STATUS_OK;
  };
  EXPECT_TRUE(Eventually(begun));
  EXPECT_EQ(target_.Stat("copies"), kCopiesMax + 1);
}

TEST_F(CopyFaultTest, AStopEndsCopies) {
  source_.HoldGets();
  const auto call = BeginHeld(FromSource());
  const auto began = std::chrono::steady_clock::now();
  target_.server->Stop(2 * kHangGuard);
  EXPECT_LT(std::chrono::steady_clock::now() - began, kHangGuard);
  EXPECT_EQ(call->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(call->last.done());
}

TEST_F(CopyFaultTest, AStopAmongManyCopiesEndsThemAll) {
  for (int round = 0; round < 10; ++round) {
    target_ = Start(kMiB);
    std::vector<std::unique_ptr<CopyCalling>> calls;
    for (std::size_t i = 0; i < kCopiesMax + 2; ++i) calls.push_back(Begin(FromSource()));
    if (round % 2 == 0) calls[0]->Cancel();
    target_.server->Stop(0ms);
    for (const auto& call : calls) call->Finish();
  }
}

TEST_F(CopyFaultTest, AFullTargetEndsACopyAndKeepsWhatFits) {
  target_ = Start(100 * RecordBytes(100));
  const v1::CopyShardResponse last = Copy(FromSource());
  EXPECT_EQ(last.status(), v1::CALL_STATUS_FULL);
  EXPECT_EQ(last.message(), "capacity reached");
  EXPECT_EQ(last.copied_objects(), 100u);
  EXPECT_EQ(target_.Stat("pages"), 100u);
}

TEST_F(CopyFaultTest, AFailingDiskEndsACopy) {
  Faults faults;
  OpenedStore opened(PageStoreConfig{.path = directory_.Path("faulty"),
                                     .capacity_bytes = kMiB,
                                     .block_cache_bytes = kMiB,
                                     .files = std::make_shared<FaultyFiles>(&faults)});
  ASSERT_EQ(opened.Open().status, OpenStatus::kOk);
  v1::CopyShardRequest request = FromSource();
  request.set_volume_id(opened.volume.volume_id);
  request.set_epoch(opened.volume.epoch);
  const auto run = [&] {
    ShardCopy copy(opened.store.get(), request, kHangGuard, [] {});
    EXPECT_EQ(copy.Check(), CallStatus::kOk);
    copy.Run();
    return copy.progress();
  };
  faults.full = true;
  faults.writes = Faults::kAlways;
  // The first one may meet the failure itself, which the store has not yet noticed.
  EXPECT_EQ(run().status(), v1::CALL_STATUS_FULL);
  ASSERT_TRUE(Eventually([&] { return !opened.store->disk_problem().empty(); }));
  const v1::CopyShardResponse refused = run();
  EXPECT_EQ(refused.status(), v1::CALL_STATUS_FULL);
  EXPECT_NE(refused.message(), "capacity reached");
  EXPECT_EQ(refused.copied_objects(), 0u);
  faults.writes = 0;
  EXPECT_TRUE(Eventually([&] { return run().done(); }));
  EXPECT_EQ(opened.GetOne(299).bytes, ObjectBytes(299, 5, 100));
}

}  // namespace
}  // namespace farswap::store
