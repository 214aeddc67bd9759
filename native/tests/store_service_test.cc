// The page protocol over real channels on the loopback interface.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>

#include "farswap/v1/page_store.grpc.pb.h"
#include "hang_guard.h"
#include "store/page_server.h"
#include "store_host.h"

namespace farswap::store {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

class ServiceTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(64 * kMiB); }

  void Start(std::uint64_t capacity_bytes) {
    server_.reset();
    auto created = PageServer::Create({"127.0.0.1:0", directory_.Path("s"), capacity_bytes, kMiB});
    ASSERT_TRUE(created.ok()) << created.error().message;
    server_ = std::move(created.value());
  }

  ScratchDirectory directory_;
  std::unique_ptr<PageServer> server_;
};

TEST_F(ServiceTest, PagesComeBackOverStreamsAsTheyWereSent) {
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  EXPECT_EQ(host.volume().put_objects_max(), 256u);
  EXPECT_EQ(host.volume().get_keys_max(), 64u);
  EXPECT_EQ(host.volume().discard_items_max(), 4096u);
  EXPECT_EQ(host.volume().capacity_bytes(), 64 * kMiB);
  grpc::ClientContext context;
  Host::Limit(&context);
  auto store = host.stub().Put(&context);
  for (std::uint64_t id = 0; id < 8; ++id) {
    ASSERT_TRUE(store->Write(host.Batch(id, id * 256, 256, 1)));
  }
  for (std::uint64_t id = 0; id < 8; ++id) {
    v1::PutResponse response;
    ASSERT_TRUE(store->Read(&response));
    EXPECT_EQ(response.batch_id(), id);
    EXPECT_EQ(response.status(), v1::CALL_STATUS_OK);
    ASSERT_EQ(response.results_size(), 256);
    EXPECT_EQ(response.results(255), v1::OBJECT_STATUS_OK);
    EXPECT_EQ(response.used_bytes(), (id + 1) * 256 * RecordBytes(100));
  }
  const v1::GetResponse fetched = host.GetOnce(host.Slots(77, {2047, 0, 5000}));
  EXPECT_EQ(fetched.request_id(), 77u);
  ASSERT_EQ(fetched.results_size(), 3);
  const v1::Object& object = fetched.results(0).object();
  EXPECT_EQ(object.key(), 2047u);
  EXPECT_EQ(object.version(), 1u);
  EXPECT_EQ(object.codec(), v1::CODEC_LZ4);
  EXPECT_EQ(object.stored_boot_s(), 1700000000u);
  EXPECT_EQ(object.bytes(), ObjectBytes(2047, 1, 100));
  EXPECT_EQ(object.checksum(), MakeObject(2047, 1, object.bytes()).checksum);
  EXPECT_EQ(fetched.results(2).status(), v1::OBJECT_STATUS_NOT_FOUND);
  EXPECT_FALSE(fetched.results(2).has_object());
}

TEST_F(ServiceTest, OverlongBatchIsRefusedAndTheStreamGoesOn) {
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  grpc::ClientContext context;
  Host::Limit(&context);
  auto store = host.stub().Put(&context);
  v1::PutResponse response;
  ASSERT_TRUE(store->Write(host.Batch(1, 0, 257, 1)) && store->Read(&response));
  EXPECT_EQ(response.batch_id(), 1u);
  EXPECT_EQ(response.status(), v1::CALL_STATUS_INVALID);
  EXPECT_EQ(response.results_size(), 0);
  ASSERT_TRUE(store->Write(host.Batch(2, 0, 256, 1)) && store->Read(&response));
  EXPECT_EQ(response.status(), v1::CALL_STATUS_OK);
  const std::vector<std::uint64_t> many(65, 0);
  EXPECT_EQ(host.GetOnce(host.Slots(1, many)).status(), v1::CALL_STATUS_INVALID);
  EXPECT_EQ(host.GetOnce(host.Slots(1, {})).status(), v1::CALL_STATUS_INVALID);
}

TEST_F(ServiceTest, StaleEpochAndUnknownVolumeAreRefused) {
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  const v1::PutRequest stale = host.Batch(1, 0, 1, 1);
  v1::PutRequest unknown = stale;
  unknown.set_volume_id(stale.volume_id() ^ 1);
  const v1::SessionRequest stale_beat = host.Beat(1);
  host.request().set_session_nonce(std::string(16, 'm'));
  host.request().set_takeover_count(1);
  ASSERT_TRUE(host.Open().ok());
  EXPECT_EQ(host.BeatOnce(stale_beat).status(), v1::CALL_STATUS_FENCED);
  EXPECT_EQ(host.PutOnce(stale).status(), v1::CALL_STATUS_FENCED);
  EXPECT_EQ(host.PutOnce(unknown).status(), v1::CALL_STATUS_UNKNOWN_VOLUME);
  EXPECT_EQ(host.PutOnce(host.Batch(1, 0, 1, 1)).status(), v1::CALL_STATUS_OK);
}

TEST_F(ServiceTest, RefusedOpensCarryTheirStatus) {
  Host host(server_->port());
  host.request().set_incarnation("short");
  EXPECT_EQ(host.Open().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  host.request().set_incarnation(std::string(16, 'a'));
  host.request().set_session_nonce("");
  EXPECT_EQ(host.Open().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  host.request().set_session_nonce(std::string(17, 'n'));
  EXPECT_EQ(host.Open().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  host.request().set_session_nonce(std::string(16, 'n'));
  ASSERT_TRUE(host.Open().ok());
  EXPECT_EQ(host.volume().status(), v1::OPEN_STATUS_OK);
  host.request().set_incarnation(std::string(16, 'b'));
  ASSERT_TRUE(host.Open().ok());
  EXPECT_EQ(host.volume().status(), v1::OPEN_STATUS_ALREADY_OPEN);
  host.request().set_take_over(true);
  ASSERT_TRUE(host.Open().ok());
  EXPECT_EQ(host.volume().status(), v1::OPEN_STATUS_OK);
  host.request().set_incarnation(std::string(16, 'a'));
  ASSERT_TRUE(host.Open().ok());
  EXPECT_EQ(host.volume().status(), v1::OPEN_STATUS_FENCED);
}

TEST_F(ServiceTest, AnswerToAnotherProtocolNamesTheVersionsAlsoIfTheHostSendsNone) {
  Host host(server_->port());
  host.request().set_protocol_min(3);
  host.request().set_protocol_max(4);
  ASSERT_TRUE(host.Open().ok());
  EXPECT_EQ(host.volume().status(), v1::OPEN_STATUS_PROTOCOL);
  EXPECT_EQ(host.volume().protocol(), 2u);
  EXPECT_EQ(host.volume().message(),
            "the server has version 2 of the page protocol, the host has 3 to 4");
  host.request().clear_protocol_min();
  host.request().clear_protocol_max();
  host.request().clear_session_nonce();
  ASSERT_TRUE(host.Open().ok());
  EXPECT_EQ(host.volume().status(), v1::OPEN_STATUS_PROTOCOL);
  host.request().set_protocol_max(9);
  host.request().set_session_nonce(std::string(16, 'n'));
  ASSERT_TRUE(host.Open().ok());
  EXPECT_EQ(host.volume().status(), v1::OPEN_STATUS_OK);
}

TEST_F(ServiceTest, MethodsThatAreNotServedAreNamedInTheRefusal) {
  grpc::GenericStub stub(grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()),
                                             grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  Host::Limit(&context);
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareUnaryCall(&context, "/farswap.v1.PageStore/Defragment", {}, &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status refused;
  call->Finish(&response, &refused, nullptr);
  void* tag = nullptr;
  bool ok = false;
  ASSERT_TRUE(queue.Next(&tag, &ok));
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(refused.error_message(),
            "/farswap.v1.PageStore/Defragment is not served by this memory server");
  EXPECT_TRUE(Host(server_->port()).Open().ok());
}

TEST_F(ServiceTest, AShardIsListedInPartsWithItsBundlesAndWithoutItsNeighbours) {
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  constexpr std::uint64_t kShard = 2;
  constexpr std::uint64_t kFirst = kShard * tier::kShardSlots;
  host.PutOnce(host.Batch(1, kFirst - 4, 256, 7));
  for (std::uint64_t i = 1; i < 6; ++i) host.PutOnce(host.Batch(1, kFirst - 4 + i * 256, 256, 7));
  host.PutOnce(host.Batch(1, kFirst + tier::kShardSlots, 1, 7));
  const std::uint64_t bundle = tier::BundleKeyOf(kFirst);
  v1::PutRequest bundles = host.Batch(1, bundle, 1, 9);
  const std::string bytes = BundleBytes(bundle, 9, 300);
  bundles.mutable_objects(0)->set_codec(v1::CODEC_BUNDLE);
  bundles.mutable_objects(0)->set_bytes(bytes);
  bundles.mutable_objects(0)->set_checksum(MakeBundle(bundle, 9, bytes).checksum);
  ASSERT_EQ(host.PutOnce(bundles).results(0), v1::OBJECT_STATUS_OK);

  v1::ListShardRequest request;
  request.set_volume_id(host.volume().volume_id());
  request.set_epoch(host.volume().epoch());
  request.set_shard(kShard);
  std::vector<std::uint64_t> keys;
  for (int parts = 1;; ++parts) {
    grpc::ClientContext context;
    Host::Limit(&context);
    v1::ListShardResponse part;
    ASSERT_TRUE(host.stub().ListShard(&context, request, &part).ok());
    ASSERT_EQ(part.status(), v1::CALL_STATUS_OK);
    for (const auto& entry : part.entries()) {
      keys.push_back(entry.key());
      EXPECT_EQ(entry.version(), entry.key() == bundle ? 9u : 7u);
      EXPECT_EQ(entry.bytes(), entry.key() == bundle ? 300u : 100u);
    }
    if (part.next_cursor() == 0) {
      EXPECT_EQ(parts, 2);
      break;
    }
    request.set_cursor(part.next_cursor());
  }
  std::vector<std::uint64_t> expected;
  for (std::uint64_t i = 0; i < 6 * 256 - 4; ++i) expected.push_back(kFirst + i);
  expected.push_back(bundle);
  EXPECT_EQ(keys, expected);

  request.set_shard(65536 / tier::kShardSlots);
  grpc::ClientContext context;
  v1::ListShardResponse beyond;
  ASSERT_TRUE(host.stub().ListShard(&context, request, &beyond).ok());
  EXPECT_EQ(beyond.status(), v1::CALL_STATUS_INVALID);
}

TEST_F(ServiceTest, DescribeNamesVolumesAndTheShardsThatAreKept) {
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  for (const std::uint64_t shard : {15u, 0u, 3u}) {
    host.PutOnce(host.Batch(1, shard * tier::kShardSlots, 2, 1));
  }
  grpc::ClientContext context;
  Host::Limit(&context);
  v1::DescribeResponse described;
  ASSERT_TRUE(host.stub().Describe(&context, {}, &described).ok());
  EXPECT_EQ(described.server_uuid(), host.volume().server_uuid());
  EXPECT_EQ(described.state(), v1::SERVER_STATE_ACTIVE);
  EXPECT_EQ(described.capacity_bytes(), 64 * kMiB);
  EXPECT_EQ(described.next_cursor(), 0u);
  ASSERT_EQ(described.volumes_size(), 1);
  const v1::DescribeResponse::Volume& volume = described.volumes(0);
  EXPECT_EQ(volume.volume_id(), host.volume().volume_id());
  EXPECT_EQ(volume.objects(), 6u);
  EXPECT_TRUE(volume.live());
  EXPECT_EQ(std::vector<std::uint64_t>(volume.shards().begin(), volume.shards().end()),
            (std::vector<std::uint64_t>{0, 3, 15}));
}

TEST_F(ServiceTest, SealedObjectsAreRefusedAsTheirSealWouldBeLost) {
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  v1::PutRequest batch = host.Batch(1, 0, 2, 1);
  batch.mutable_objects(0)->mutable_seal()->set_key_id(7);
  const v1::PutResponse answer = host.PutOnce(batch);
  ASSERT_EQ(answer.results_size(), 2);
  EXPECT_EQ(answer.results(0), v1::OBJECT_STATUS_INVALID);
  EXPECT_EQ(answer.results(1), v1::OBJECT_STATUS_OK);
}

TEST_F(ServiceTest, AnswerIdentifiesTheServerAndTheOwnerOfTheVolume) {
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  const std::string uuid = host.volume().server_uuid();
  const std::string run_id = host.volume().run_id();
  EXPECT_EQ(uuid.size(), 16u);
  EXPECT_EQ(run_id.size(), 16u);
  EXPECT_TRUE(host.volume().store_intact());
  EXPECT_EQ(host.volume().state(), v1::SERVER_STATE_ACTIVE);
  EXPECT_EQ(host.volume().owner_lease_ms(), 10000u);
  EXPECT_FALSE(host.volume().has_owner());
  Host clone(server_->port());
  clone.request().set_incarnation(std::string(16, 'b'));
  clone.request().set_probe(true);
  ASSERT_TRUE(clone.Open().ok());
  EXPECT_EQ(clone.volume().status(), v1::OPEN_STATUS_ALREADY_OPEN);
  EXPECT_EQ(clone.volume().owner().host_name(), "host.example");
  EXPECT_EQ(clone.volume().owner().address(), "127.0.0.1");
  EXPECT_EQ(clone.volume().server_uuid(), uuid);
  Start(64 * kMiB);
  Host again(server_->port());
  ASSERT_TRUE(again.Open().ok());
  EXPECT_EQ(again.volume().server_uuid(), uuid);
  EXPECT_NE(again.volume().run_id(), run_id);
}

TEST_F(ServiceTest, SessionAnswersEachRequestInTurn) {
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  grpc::ClientContext context;
  Host::Limit(&context);
  auto session = host.stub().Session(&context);
  v1::SessionResponse response;
  for (std::uint64_t sequence = 7; sequence < 10; ++sequence) {
    ASSERT_TRUE(session->Write(host.Beat(sequence)) && session->Read(&response));
    EXPECT_EQ(response.sequence(), sequence);
    EXPECT_EQ(response.status(), v1::CALL_STATUS_OK);
    EXPECT_EQ(response.capacity_bytes(), 64 * kMiB);
    EXPECT_EQ(response.state(), v1::SERVER_STATE_ACTIVE);
  }
  v1::SessionRequest unknown = host.Beat(11);
  unknown.set_volume_id(unknown.volume_id() ^ 1);
  ASSERT_TRUE(session->Write(unknown) && session->Read(&response));
  EXPECT_EQ(response.status(), v1::CALL_STATUS_UNKNOWN_VOLUME);
  ASSERT_TRUE(session->Write(host.Beat(12)) && session->Read(&response));
  EXPECT_EQ(response.status(), v1::CALL_STATUS_OK) << "a bad request ends no stream";
}

TEST_F(ServiceTest, ADrainingServerReportsItToNewAndPresentHostsAndServesOn) {
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  EXPECT_EQ(host.BeatOnce(host.Beat(1)).state(), v1::SERVER_STATE_ACTIVE);
  ASSERT_TRUE(server_->SetDraining(true).ok());
  EXPECT_EQ(host.BeatOnce(host.Beat(2)).state(), v1::SERVER_STATE_DRAINING);
  Host newcomer(server_->port(), "newcomer");
  ASSERT_TRUE(newcomer.Open().ok());
  EXPECT_EQ(newcomer.volume().state(), v1::SERVER_STATE_DRAINING);
  EXPECT_EQ(host.PutOnce(host.Batch(1, 0, 1, 1)).results(0), v1::OBJECT_STATUS_OK);
  EXPECT_EQ(host.GetOnce(host.Slots(1, {0})).results(0).status(), v1::OBJECT_STATUS_OK);
  EXPECT_EQ(server_->CountShards(host.volume().volume_id()).value(), 1u);
  EXPECT_EQ(server_->CountShards(newcomer.volume().volume_id()).value(), 0u);
  ASSERT_TRUE(server_->SetDraining(false).ok());
  EXPECT_EQ(host.BeatOnce(host.Beat(3)).state(), v1::SERVER_STATE_ACTIVE);
  server_->Stop(milliseconds(0));
  EXPECT_FALSE(server_->SetDraining(true).ok());
  EXPECT_FALSE(server_->CountShards(host.volume().volume_id()).ok());
}

TEST_F(ServiceTest, DiscardAndCloseAnswer) {
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  host.PutOnce(host.Batch(1, 0, 10, 5));
  v1::DiscardRequest discard;
  discard.set_volume_id(host.volume().volume_id());
  discard.set_epoch(host.volume().epoch());
  for (std::uint64_t slot = 0; slot < 4; ++slot) {
    v1::DiscardRequest::Item* item = discard.add_items();
    item->set_key(slot);
    item->set_version(slot == 0 ? 4 : 5);
  }
  v1::DiscardResponse discarded;
  grpc::ClientContext discard_context;
  ASSERT_TRUE(host.stub().Discard(&discard_context, discard, &discarded).ok());
  EXPECT_EQ(discarded.status(), v1::CALL_STATUS_OK);
  EXPECT_EQ(discarded.discarded(), 3u);
  v1::CloseVolumeRequest close;
  close.set_volume_id(host.volume().volume_id());
  close.set_epoch(host.volume().epoch());
  v1::CloseVolumeResponse closed;
  grpc::ClientContext close_context;
  ASSERT_TRUE(host.stub().CloseVolume(&close_context, close, &closed).ok());
  EXPECT_EQ(closed.status(), v1::CALL_STATUS_OK);
  EXPECT_EQ(host.GetOnce(host.Slots(1, {5})).status(), v1::CALL_STATUS_UNKNOWN_VOLUME);
}

TEST_F(ServiceTest, OneHostsAbuseLeavesAnotherAlone) {
  Host good(server_->port(), "good");
  Host bad(server_->port(), "bad");
  ASSERT_TRUE(good.Open().ok());
  ASSERT_TRUE(bad.Open().ok());
  grpc::ClientContext context;
  Host::Limit(&context);
  auto store = good.stub().Put(&context);
  for (int round = 0; round < 10; ++round) {
    {
      grpc::ClientContext huge_context;
      Host::Limit(&huge_context);
      auto huge = bad.stub().Put(&huge_context);
      v1::PutRequest request = bad.Batch(1, 0, 1, 1);
      request.mutable_objects(0)->set_bytes(std::string(8 * kMiB, 'x'));
      huge->Write(request);
      v1::PutResponse response;
      EXPECT_FALSE(huge->Read(&response));
      EXPECT_EQ(huge->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    }
    {
      grpc::ClientContext cancelled_context;
      auto cancelled = bad.stub().Put(&cancelled_context);
      cancelled->Write(bad.Batch(1, 0, 256, 1));
      cancelled_context.TryCancel();
      EXPECT_FALSE(cancelled->Finish().ok());
    }
    v1::PutResponse response;
    ASSERT_TRUE(store->Write(good.Batch(1, 0, 256, static_cast<std::uint64_t>(round + 1))));
    ASSERT_TRUE(store->Read(&response));
    EXPECT_EQ(response.status(), v1::CALL_STATUS_OK);
  }
}

TEST_F(ServiceTest, FullServerRefusesEachPage) {
  Start(10 * RecordBytes(100));
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  const v1::PutResponse response = host.PutOnce(host.Batch(1, 0, 12, 1));
  EXPECT_EQ(std::ranges::count(response.results(), v1::OBJECT_STATUS_OK), 10);
  EXPECT_EQ(std::ranges::count(response.results(), v1::OBJECT_STATUS_FULL), 2);
  EXPECT_EQ(response.used_bytes(), response.capacity_bytes());
}

TEST_F(ServiceTest, StopEndsIdleStreamsAtOnceAndKeepsWhatWasAcknowledged) {
  Host host(server_->port());
  ASSERT_TRUE(host.Open().ok());
  grpc::ClientContext context;
  Host::Limit(&context);
  auto store = host.stub().Put(&context);
  v1::PutResponse response;
  ASSERT_TRUE(store->Write(host.Batch(1, 0, 256, 1)) && store->Read(&response));
  const auto began = steady_clock::now();
  server_->Stop(2 * kHangGuard);
  EXPECT_LT(steady_clock::now() - began, kHangGuard);
  EXPECT_FALSE(store->Read(&response));
  EXPECT_FALSE(store->Finish().ok());
  server_->Stop(milliseconds(0));
  EXPECT_EQ(server_->Volumes().at(0).pages, 256u);
  Start(64 * kMiB);
  Host again(server_->port());
  ASSERT_TRUE(again.Open().ok());
  EXPECT_EQ(again.volume().volume_id(), host.volume().volume_id());
  EXPECT_EQ(again.GetOnce(again.Slots(1, {255})).results(0).object().bytes(),
            ObjectBytes(255, 1, 100));
}

TEST_F(ServiceTest, TakenPortAndTakenPathHaveErrorsOfTheirOwn) {
  const std::string listen = "127.0.0.1:" + std::to_string(server_->port());
  const auto same_port = PageServer::Create({listen, directory_.Path("other"), kMiB, kMiB});
  ASSERT_FALSE(same_port.ok());
  EXPECT_NE(same_port.error().message.find("failed to listen on " + listen), std::string::npos);
  const auto same_path = PageServer::Create({"127.0.0.1:0", directory_.Path("s"), kMiB, kMiB});
  ASSERT_FALSE(same_path.ok());
  EXPECT_NE(same_path.error().message.find("another farswap-server"), std::string::npos);
}

}  // namespace
}  // namespace farswap::store
