// What a Cluster makes of what servers answer. Faults of the network are in remote_fault_test.cc.
#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <memory>
#include <vector>

#include "remote/cluster.h"
#include "remote_borrowers.h"
#include "remote_fake_store.h"

namespace farswap::remote {
namespace {

using std::chrono::milliseconds;
using tier::GetResult;
using tier::kShardSlots;
using tier::PutResult;

class ClusterTest : public ::testing::Test {
 protected:
  FakeStore store_;
  std::unique_ptr<Cluster> cluster_ = NewCluster(TestConfig({store_.address()}));

  void SetUp() override { ASSERT_TRUE(Connected(*cluster_)); }
};

TEST_F(ClusterTest, PagesComeBackAsTheyWerePut) {
  TestBatch batch;
  for (tier::SlotIndex slot = 0; slot < TestBatch::kObjectsMax; ++slot) batch.Add(slot, slot + 1);
  Put(*cluster_, batch);
  ASSERT_TRUE(batch.done.Wait());
  for (const PutResult result : batch.results) EXPECT_EQ(result, PutResult::kAcked);
  TestFetch fetch;
  for (tier::SlotIndex slot = 0; slot < TestFetch::kKeysMax; ++slot) fetch.Add(slot * 4);
  Get(*cluster_, fetch);
  ASSERT_TRUE(fetch.done.Wait());
  for (std::size_t i = 0; i < fetch.count; ++i) {
    EXPECT_TRUE(fetch.Holds(i, fetch.keys[i] + 1)) << i;
    EXPECT_EQ(fetch.answered[i].object.stored_boot_s, 1700000000u);
    EXPECT_EQ(fetch.answered[i].object.codec, tier::Codec::kLz4);
  }
}

TEST_F(ClusterTest, EachPageOfABatchHasItsOwnResult) {
  ASSERT_EQ(PutOne(*cluster_, 1, 5), PutResult::kAcked);
  TestBatch batch;
  batch.Add(0, 1).Add(1, 4).Add(2, 1);
  Put(*cluster_, batch);
  ASSERT_TRUE(batch.done.Wait());
  EXPECT_EQ(batch.results[0], PutResult::kAcked);
  EXPECT_EQ(batch.results[1], PutResult::kSuperseded);
  EXPECT_EQ(batch.results[2], PutResult::kAcked);
}

TEST_F(ClusterTest, SlotOfAnUnplacedShardIsNotFound) {
  EXPECT_EQ(GetOne(*cluster_, 3), GetResult::kNotFound);
  EXPECT_EQ(store_.seen().fetches, 0u);
  EXPECT_EQ(ServerOf(*cluster_, 3), "");
}

TEST_F(ClusterTest, MissingSlotOfAPlacedShardIsNotFound) {
  ASSERT_EQ(PutOne(*cluster_, 1, 1), PutResult::kAcked);
  TestFetch fetch;
  fetch.Add(0).Add(1);
  Get(*cluster_, fetch);
  ASSERT_TRUE(fetch.done.Wait());
  EXPECT_EQ(fetch.answered[0].result, GetResult::kNotFound);
  EXPECT_TRUE(fetch.Holds(1, 1));
  EXPECT_EQ(ServerOf(*cluster_, 0), store_.address());
}

TEST_F(ClusterTest, AnObjectThatIsRefusedIsMissingWhereNoOtherReplicaHasIt) {
  ASSERT_EQ(PutOne(*cluster_, 1, 1), PutResult::kAcked);
  TestFetch fetch;
  fetch.Add(1).Add(0);
  fetch.verdict = tier::Verdict::kTryAnother;
  Get(*cluster_, fetch);
  ASSERT_TRUE(fetch.done.Wait());
  EXPECT_EQ(fetch.answered[0].result, GetResult::kCorrupt);
  EXPECT_EQ(fetch.answered[1].result, GetResult::kNotFound);
}

TEST_F(ClusterTest, AnswersInAnotherOrderReachTheirFetches) {
  TestBatch batch;
  for (tier::SlotIndex slot = 0; slot < 40; ++slot) batch.Add(slot, slot + 1);
  Put(*cluster_, batch);
  ASSERT_TRUE(batch.done.Wait());
  store_.Tell([](FakeStore::Script* script) { script->reverse_gets = 40; });
  std::vector<std::unique_ptr<TestFetch>> fetches;
  for (tier::SlotIndex slot = 0; slot < 40; ++slot) {
    fetches.push_back(std::make_unique<TestFetch>(slot));
    Get(*cluster_, *fetches.back());
  }
  for (const auto& fetch : fetches) {
    ASSERT_TRUE(fetch->done.Wait());
    EXPECT_TRUE(fetch->Holds(0, fetch->keys[0] + 1));
  }
}

TEST_F(ClusterTest, MoreFetchesThanOneChunkOfRecordsAreAllAnswered) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  store_.Tell([](FakeStore::Script* script) { script->hold_gets = true; });
  std::vector<std::unique_ptr<TestFetch>> fetches;
  for (int i = 0; i < 3000; ++i) {
    fetches.push_back(std::make_unique<TestFetch>(0));
    Get(*cluster_, *fetches.back());
  }
  store_.Tell([](FakeStore::Script* script) { script->hold_gets = false; });
  for (const auto& fetch : fetches) {
    ASSERT_TRUE(fetch->done.Wait());
    EXPECT_TRUE(fetch->Holds(0, 1));
  }
}

TEST_F(ClusterTest, FetchIsNotDelayedByABacklogOfStores) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  store_.Tell([](FakeStore::Script* script) { script->hold_puts = true; });
  std::vector<std::unique_ptr<TestBatch>> batches;
  for (int i = 0; i < 64; ++i) {
    batches.push_back(std::make_unique<TestBatch>());
    for (tier::SlotIndex slot = 1; slot <= 256; ++slot) batches.back()->Add(slot, 1);
    Put(*cluster_, *batches.back());
  }
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(Holds(*cluster_, 0, 1));
  for (const auto& batch : batches) EXPECT_FALSE(batch->done.ready());
  store_.Tell([](FakeStore::Script* script) { script->hold_puts = false; });
  for (const auto& batch : batches) {
    ASSERT_TRUE(batch->done.Wait());
    EXPECT_EQ(batch->results[255], PutResult::kAcked);
  }
}

TEST_F(ClusterTest, FetchMayBeSubmittedFromAnAnswer) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  TestFetch second(0);
  TestBatch batch;
  batch.Add(1, 1);
  batch.on_done = [&] { cluster_->Get(&second); };
  Put(*cluster_, batch);
  ASSERT_TRUE(batch.done.Wait());
  ASSERT_TRUE(second.done.Wait());
  EXPECT_TRUE(second.Holds(0, 1));
}

TEST_F(ClusterTest, DiscardedPageIsForgottenUnlessItIsNewer) {
  ASSERT_EQ(PutOne(*cluster_, 1, 5), PutResult::kAcked);
  ASSERT_EQ(PutOne(*cluster_, 2, 5), PutResult::kAcked);
  Discard(*cluster_, {{.key = 1, .version = 5}, {.key = 2, .version = 4}});
  EXPECT_TRUE(Eventually([&] { return store_.seen().discards == 2; }));
  EXPECT_FALSE(store_.Has(1));
  EXPECT_TRUE(store_.Has(2));
}

TEST_F(ClusterTest, DiscardWhoseCallFailedIsSentAgainAndCutsNobodyOff) {
  ASSERT_EQ(PutOne(*cluster_, 1, 5), PutResult::kAcked);
  store_.Tell([](FakeStore::Script* script) { script->fail_discards = true; });
  Discard(*cluster_, {{.key = 1, .version = 5}});
  EXPECT_TRUE(Eventually([&] { return !store_.Has(1); }));
  EXPECT_EQ(cluster_->Servers()[0].reconnects, 0u);
}

TEST_F(ClusterTest, DiscardThatIsNotAnsweredIsCancelledAndSentAgain) {
  cluster_.reset();
  store_.Tell([](FakeStore::Script* script) { script->lease = milliseconds(2000); });
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_EQ(PutOne(*cluster, 1, 5), PutResult::kAcked);
  store_.Tell([](FakeStore::Script* script) { script->hold_call = true; });
  Discard(*cluster, {{.key = 1, .version = 5}});
  EXPECT_TRUE(Eventually([&] { return !store_.Has(1); }));
  EXPECT_EQ(cluster->Servers()[0].reconnects, 0u);
}

// Fills the queue; further items stay with the caller.
TEST_F(ClusterTest, DiscardsForAServerThatIsAwayAreDoneWhenItIsBack) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  store_.Stop();
  std::uint64_t discards = 0;
  std::vector<tier::DiscardItem> items(tier::RemoteStore::kDiscardsMax, {.key = 1, .version = 1});
  for (; cluster_->TakesDiscards(0); discards += items.size()) {
    ASSERT_LT(discards, 1u << 20);
    if (discards > 0) items[0].key = 0;  // in all calls but the first
    Discard(*cluster_, items);
  }
  EXPECT_GT(discards, 10'000u);
  EXPECT_TRUE(cluster_->TakesDiscards(kShardSlots)) << "that shard has no server";
  store_.Start();
  EXPECT_TRUE(Eventually([&] { return store_.seen().discards == discards; }));
  EXPECT_FALSE(store_.Has(0));
  EXPECT_TRUE(Eventually([&] { return cluster_->TakesDiscards(0); }));
}

TEST_F(ClusterTest, UnknownVolumeIsOpenedAgainAndNothingIsLost) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  store_.Tell([](FakeStore::Script* script) { script->unknown_volumes = 1; });
  EXPECT_EQ(PutOne(*cluster_, 1, 1), PutResult::kAcked);
  store_.Tell([](FakeStore::Script* script) { script->unknown_volumes = 1; });
  EXPECT_TRUE(Holds(*cluster_, 1, 1));
  EXPECT_EQ(store_.seen().opens, 3u);
  // The page may be there before the session reports its new connection.
  EXPECT_TRUE(Eventually([this] { return cluster_->Servers()[0].reconnects == 2; }));
  EXPECT_EQ(cluster_->Servers()[0].epoch, 1u) << "it was this host each time";
}

TEST_F(ClusterTest, FencedSessionStopsForGood) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  store_.Tell([](FakeStore::Script* script) { script->fenced = true; });
  EXPECT_EQ(PutOne(*cluster_, 1, 1), PutResult::kUnavailable);
  EXPECT_EQ(GetOne(*cluster_, 0), GetResult::kUnavailable);
  EXPECT_FALSE(cluster_->Writable());
  EXPECT_NE(cluster_->Servers()[0].last_error.find("fenced"), std::string::npos);
  Discard(*cluster_, {{.key = 0, .version = 1}});
  EXPECT_EQ(store_.seen().opens, 1u);
}

TEST_F(ClusterTest, SessionThatWasReplacedWhileItOpenedStopsForGood) {
  FakeStore slow;
  slow.Tell([](FakeStore::Script* script) { script->fail_open = true; });
  const auto cluster = NewCluster(TestConfig({slow.address()}));
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  slow.Tell([](FakeStore::Script* script) { script->fenced = script->retired = true; });
  EXPECT_EQ(PutOne(*cluster, 1, 1), PutResult::kUnavailable);
  EXPECT_NE(cluster->Servers()[0].last_error.find("fenced"), std::string::npos);
  EXPECT_EQ(slow.seen().opens, 2u);
}

// As of a server that has deleted the pages of a volume, and the volume with them.
TEST_F(ClusterTest, SessionWhoseVolumeIsUnknownAndHasASuccessorStopsForGood) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  store_.Tell([](FakeStore::Script* script) {
    script->unknown_volumes = 1;
    script->retired = true;
  });
  EXPECT_EQ(PutOne(*cluster_, 1, 1), PutResult::kUnavailable);
  EXPECT_EQ(GetOne(*cluster_, 0), GetResult::kUnavailable);
  EXPECT_NE(cluster_->Servers()[0].last_error.find("fenced"), std::string::npos);
  EXPECT_EQ(store_.seen().opens, 2u);
}

TEST_F(ClusterTest, ServerThatTakesTooSmallBatchesIsNotUsed) {
  FakeStore narrow;
  narrow.Tell([](FakeStore::Script* script) { script->put_objects_max = 16; });
  const auto cluster = NewCluster(TestConfig({narrow.address()}));
  EXPECT_TRUE(Eventually([&] {
    return cluster->Servers()[0].last_error ==
           "the server takes too few objects in one request: 16 to put, 64 to get, 4096 to discard";
  }));
  EXPECT_FALSE(cluster->Writable());
}

TEST_F(ClusterTest, ServerOfAnotherProtocolIsNotUsedAndBothVersionsAreNamed) {
  FakeStore later;
  later.Tell([](FakeStore::Script* script) { script->protocol = 3; });
  const auto cluster = NewCluster(TestConfig({later.address()}));
  EXPECT_TRUE(Eventually([&] {
    return cluster->Servers()[0].last_error ==
           "the server has version 3 of the page protocol, this host has version 2: update "
           "the older of the two";
  }));
  EXPECT_FALSE(cluster->Writable());
}

TEST_F(ClusterTest, StopAnswersEverythingAndLaterCallsToo) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  store_.Tell([](FakeStore::Script* script) { script->hold_puts = script->hold_gets = true; });
  std::vector<std::unique_ptr<TestFetch>> fetches;
  std::vector<std::unique_ptr<TestBatch>> batches;
  for (int i = 0; i < 50; ++i) {
    fetches.push_back(std::make_unique<TestFetch>(0));
    Get(*cluster_, *fetches.back());
    batches.push_back(std::make_unique<TestBatch>());
    batches.back()->Add(1, 1);
    Put(*cluster_, *batches.back());
  }
  cluster_->Stop();
  for (const auto& fetch : fetches) {
    EXPECT_TRUE(fetch->done.ready());
    EXPECT_EQ(fetch->answered[0].result, GetResult::kUnavailable);
  }
  for (const auto& batch : batches) {
    EXPECT_TRUE(batch->done.ready());
    EXPECT_EQ(batch->results[0], PutResult::kUnavailable);
  }
  cluster_->Stop();
  EXPECT_EQ(PutOne(*cluster_, 0, 2), PutResult::kUnavailable);
  EXPECT_EQ(GetOne(*cluster_, 0), GetResult::kUnavailable);
}

TEST_F(ClusterTest, BatchIsCutByServerAndEndsOnce) {
  cluster_.reset();
  FakeStore other;
  const auto cluster = NewCluster(TestConfig({store_.address(), other.address()}));
  ASSERT_TRUE(Connected(*cluster, 0) && Connected(*cluster, 1));
  TestBatch batch;
  for (tier::SlotIndex shard = 0; shard < 200; ++shard) batch.Add(shard * kShardSlots, 1);
  Put(*cluster, batch);
  ASSERT_TRUE(batch.done.Wait());
  for (std::size_t i = 0; i < batch.count; ++i) EXPECT_EQ(batch.results[i], PutResult::kAcked);
  const auto servers = cluster->Servers();
  EXPECT_EQ(servers[0].shards + servers[1].shards, 200u);
  EXPECT_GT(servers[0].shards, 50u);
  EXPECT_GT(servers[1].shards, 50u);
  for (tier::SlotIndex shard = 0; shard < 200; ++shard) {
    const bool first = ServerOf(*cluster, shard * kShardSlots) == store_.address();
    EXPECT_EQ(store_.Has(shard * kShardSlots), first);
    EXPECT_EQ(other.Has(shard * kShardSlots), !first);
  }
}

TEST_F(ClusterTest, FullServersShardsFailWhileNewOnesGoElsewhere) {
  FakeStore roomy;
  FakeStore tight;
  tight.Tell([](FakeStore::Script* script) { script->used_bytes = script->capacity_bytes / 2; });
  const auto cluster = NewCluster(TestConfig({roomy.address(), tight.address()}));
  ASSERT_TRUE(Connected(*cluster, 0) && Connected(*cluster, 1));
  ASSERT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  ASSERT_EQ(ServerOf(*cluster, 0), roomy.address()) << "it has more room";
  roomy.Tell([](FakeStore::Script* script) { script->full = true; });
  EXPECT_EQ(PutOne(*cluster, 0, 2), PutResult::kServerFull);
  EXPECT_EQ(PutOne(*cluster, kShardSlots, 1), PutResult::kAcked);
  EXPECT_EQ(ServerOf(*cluster, kShardSlots), tight.address());
  EXPECT_TRUE(cluster->Writable());
}

TEST_F(ClusterTest, FullClusterIsNotWritable) {
  store_.Tell([](FakeStore::Script* script) { script->full = true; });
  EXPECT_TRUE(cluster_->Writable());
  EXPECT_EQ(PutOne(*cluster_, 0, 1), PutResult::kServerFull);
  EXPECT_FALSE(cluster_->Writable());
  EXPECT_EQ(PutOne(*cluster_, kShardSlots, 1), PutResult::kServerFull)
      << "no place for a new shard";
}

TEST_F(ClusterTest, FullClusterIsWorthAnotherTryAfterAWhile) {
  cluster_.reset();
  ClusterConfig config = TestConfig({store_.address()});
  config.full_wait = milliseconds(50);
  const auto cluster = NewCluster(config);
  ASSERT_TRUE(Connected(*cluster));
  store_.Tell([](FakeStore::Script* script) { script->full = true; });
  EXPECT_EQ(PutOne(*cluster, 0, 1), PutResult::kServerFull);
  store_.Tell([](FakeStore::Script* script) { script->full = false; });
  EXPECT_TRUE(Eventually([&] { return cluster->Writable(); }));
  EXPECT_EQ(PutOne(*cluster, kShardSlots, 1), PutResult::kAcked);
}

TEST(Cluster, WithoutServersEverythingIsAnswered) {
  const auto cluster = NewCluster(TestConfig({}));
  EXPECT_FALSE(cluster->Writable());
  EXPECT_EQ(PutOne(*cluster, 0, 1), PutResult::kUnavailable);
  TestBatch empty;
  Put(*cluster, empty);
  EXPECT_TRUE(empty.done.Wait());
  EXPECT_EQ(GetOne(*cluster, 0), GetResult::kNotFound);
  Discard(*cluster, {{.key = 0, .version = 1}});
}

TEST(Cluster, ConfigOutOfRangeIsRefusedWithItsReason) {
  const auto refused = [](const std::function<void(ClusterConfig*)>& change) {
    ClusterConfig config = TestConfig({"127.0.0.1:1"});
    change(&config);
    auto created = Cluster::Create(config);
    return created.ok() ? std::string() : created.error().message;
  };
  EXPECT_NE(refused([](ClusterConfig* c) { c->host_id = ""; }), "");
  EXPECT_NE(refused([](ClusterConfig* c) { c->device = std::string(129, 'x'); }), "");
  EXPECT_NE(refused([](ClusterConfig* c) { c->slots = 0; }), "");
  EXPECT_NE(refused([](ClusterConfig* c) { c->put_wait = milliseconds(0); }), "");
  EXPECT_NE(refused([](ClusterConfig* c) { c->open_wait = milliseconds(0); }), "");
  EXPECT_NE(refused([](ClusterConfig* c) { c->outage_wait = milliseconds(0); }), "");
  EXPECT_NE(refused([](ClusterConfig* c) { c->full_wait = milliseconds(0); }), "");
  EXPECT_NE(refused([](ClusterConfig* c) { c->servers = {""}; }), "");
  EXPECT_NE(refused([](ClusterConfig* c) { c->servers.push_back(c->servers[0]); }), "");
  EXPECT_NE(refused([](ClusterConfig* c) { c->servers.resize(257); }), "");
}

// One wrong thing about an otherwise right answer to a fetch of slot 1.
struct Garbage {
  const char* name;
  FakeStore::Corrupt corrupt;
  GetResult expected;
};

class GarbageTest : public ClusterTest, public ::testing::WithParamInterface<Garbage> {};

TEST_P(GarbageTest, GarbageAnswerEndsTheFetchAndTheConnectionLives) {
  ASSERT_EQ(PutOne(*cluster_, 1, 1), PutResult::kAcked);
  store_.Tell([](FakeStore::Script* script) { script->corrupt = GetParam().corrupt; });
  EXPECT_EQ(GetOne(*cluster_, 1), GetParam().expected);
  store_.Tell([](FakeStore::Script* script) { script->corrupt = nullptr; });
  EXPECT_TRUE(Holds(*cluster_, 1, 1));
  EXPECT_EQ(cluster_->Servers()[0].reconnects, 0u);
}

using Request = v1::GetRequest;
using Response = v1::GetResponse;

v1::Object* PageIn(Response* response) { return response->mutable_results(0)->mutable_object(); }

const Garbage kGarbage[] = {
    {"NoResult", [](const Request&, Response* r) { r->clear_results(); }, GetResult::kCorrupt},
    {"TooManyResults", [](const Request&, Response* r) { r->add_results(); }, GetResult::kCorrupt},
    {"NoStatus", [](const Request&, Response* r) { r->clear_status(); }, GetResult::kCorrupt},
    {"OddStatus", [](const Request&, Response* r) { r->set_status(v1::CallStatus(77)); },
     GetResult::kCorrupt},
    {"Invalid", [](const Request&, Response* r) { r->set_status(v1::CALL_STATUS_INVALID); },
     GetResult::kCorrupt},
    {"OtherSlot", [](const Request&, Response* r) { PageIn(r)->set_key(2); }, GetResult::kCorrupt},
    {"HugeSlot",
     [](const Request&, Response* r) { PageIn(r)->set_key((std::uint64_t{1} << 32) + 1); },
     GetResult::kCorrupt},
    {"BundleForAPage", [](const Request&, Response* r) { PageIn(r)->set_codec(v1::CODEC_BUNDLE); },
     GetResult::kCorrupt},
    {"NoCodec", [](const Request&, Response* r) { PageIn(r)->clear_codec(); }, GetResult::kCorrupt},
    {"OddCodec", [](const Request&, Response* r) { PageIn(r)->set_codec(v1::Codec(9)); },
     GetResult::kCorrupt},
    {"HugeCodec", [](const Request&, Response* r) { PageIn(r)->set_codec(v1::Codec(257)); },
     GetResult::kCorrupt},
    {"NoBytes", [](const Request&, Response* r) { PageIn(r)->clear_bytes(); }, GetResult::kCorrupt},
    {"TooManyBytes",
     [](const Request&, Response* r) { PageIn(r)->set_bytes(std::string(4097, 'x')); },
     GetResult::kCorrupt},
    {"ShortRawPage", [](const Request&, Response* r) { PageIn(r)->set_codec(v1::CODEC_RAW); },
     GetResult::kCorrupt},
    {"NoPage", [](const Request&, Response* r) { r->mutable_results(0)->clear_object(); },
     GetResult::kCorrupt},
    {"Corrupt",
     [](const Request&, Response* r) {
       r->mutable_results(0)->set_status(v1::OBJECT_STATUS_CORRUPT);
     },
     GetResult::kCorrupt},
    {"StoreStatus",
     [](const Request&, Response* r) { r->mutable_results(0)->set_status(v1::OBJECT_STATUS_FULL); },
     GetResult::kCorrupt},
    {"Sealed", [](const Request&, Response* r) { PageIn(r)->mutable_seal()->set_key_id(1); },
     GetResult::kCorrupt},
    {"RetryAfter", [](const Request&, Response* r) { r->set_status(v1::CALL_STATUS_RETRY_AFTER); },
     GetResult::kUnavailable},
    {"IoError",
     [](const Request&, Response* r) {
       r->mutable_results(0)->set_status(v1::OBJECT_STATUS_IO_ERROR);
     },
     GetResult::kUnavailable},
};

INSTANTIATE_TEST_SUITE_P(Answers, GarbageTest, ::testing::ValuesIn(kGarbage),
                         [](const auto& garbage) { return std::string(garbage.param.name); });

TEST_F(ClusterTest, AnswersWithInventedIdsAreIgnored) {
  ASSERT_EQ(PutOne(*cluster_, 1, 1), PutResult::kAcked);
  for (const std::uint64_t wrong : {std::uint64_t{1}, std::uint64_t{1} << 32, std::uint64_t{5000},
                                    std::numeric_limits<std::uint64_t>::max()}) {
    store_.Tell([&](FakeStore::Script* script) {
      script->corrupt = [wrong](const Request& request, Response* response) {
        response->set_request_id(request.request_id() + wrong);
      };
    });
    const std::uint64_t before = store_.seen().fetches;
    TestFetch lost(1);
    Get(*cluster_, lost);
    ASSERT_TRUE(Eventually([&] { return store_.seen().fetches > before; }));
    store_.Tell([](FakeStore::Script* script) { script->corrupt = nullptr; });
    EXPECT_TRUE(Holds(*cluster_, 1, 1));
    EXPECT_FALSE(lost.done.ready());
    // The next connection brings its answer.
    store_.Stop();
    store_.Start();
    ASSERT_TRUE(lost.done.Wait());
    EXPECT_TRUE(lost.Holds(0, 1));
  }
}

TEST_F(ClusterTest, GarbageAnswersToStoresRejectThePages) {
  store_.Tell([](FakeStore::Script* script) {
    script->corrupt_put = [](v1::PutResponse* response) { response->clear_results(); };
  });
  EXPECT_EQ(PutOne(*cluster_, 1, 1), PutResult::kRejected);
  store_.Tell([](FakeStore::Script* script) {
    script->corrupt_put = [](v1::PutResponse* response) {
      response->set_results(0, v1::ObjectStatus(99));
    };
  });
  EXPECT_EQ(PutOne(*cluster_, 1, 1), PutResult::kRejected);
  store_.Tell([](FakeStore::Script* script) {
    script->corrupt_put = [](v1::PutResponse* response) {
      response->set_status(v1::CALL_STATUS_INVALID);
    };
  });
  EXPECT_EQ(PutOne(*cluster_, 1, 1), PutResult::kRejected);
  EXPECT_EQ(cluster_->Servers()[0].reconnects, 0u);
}

}  // namespace
}  // namespace farswap::remote
