// Connections over the real tier whose stores wait: at the limit of a cgroup, or for the pool. Who
// writes a slot is said by its word, as it is on a host.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "memory_remote.h"
#include "nbd/connection_set.h"
#include "nbd_client.h"
#include "stamped_page.h"
#include "tier/tier.h"
#include "waiter.h"

namespace farswap::nbd {
namespace {

using std::chrono::milliseconds;
using tier::CgroupId;
using tier::Counter;
using tier::kPageBytes;
using tier::SlotIndex;
using tier::SlotWord;

constexpr std::uint32_t kPage = kPageBytes;
constexpr std::uint32_t kOk = 0;
constexpr auto kEnospc = static_cast<std::uint32_t>(WireError::kNoSpace);
constexpr CgroupId kFull = 7;
constexpr CgroupId kOther = 8;
constexpr std::uint64_t kPoolBytes = std::uint64_t{8} << 20;

class StoreWaitFixture : public ::testing::Test {
 protected:
  static constexpr SlotIndex kSlots = 8192;

  void Serve(milliseconds store_wait) {
    tier::TierConfig config;
    config.slots = kSlots;
    config.pool_bytes_max = kPoolBytes;
    config.store_wait = store_wait;
    auto made = tier::Tier::Create(config, &remote_);
    ASSERT_TRUE(made.ok());
    tier_ = std::move(made.value());
    tier_->UseSlotWords(words_.data());
    set_ = std::make_unique<ConnectionSet>(tier_.get(), std::uint64_t{kSlots} * kPage);
  }
  ~StoreWaitFixture() override {
    remote_.Release();
    if (set_ != nullptr) set_->Stop();
    if (tier_ != nullptr) tier_->StopWriteback();
  }

  std::unique_ptr<Client> Connect(std::uint64_t* id = nullptr) {
    auto client = std::make_unique<Client>();
    auto served = set_->Serve(client->server_end(), {}, "test");
    EXPECT_TRUE(served.ok());
    if (id != nullptr) *id = served.value();
    return client;
  }
  void Announce(SlotIndex slot, CgroupId cgroup) {
    const SlotWord sequence = tier::SequenceOf(words_[slot].load()) + 1;
    words_[slot].store(SlotWord{cgroup} << 32 | sequence << 1);
  }
  void Limit(CgroupId id, std::uint64_t bytes) {
    ASSERT_TRUE(tier_->ConfigureCgroup(
        id, {.pool_limit_bytes = bytes, .writeback = true, .compressor = {}}));
  }
  std::uint64_t Count(Counter counter) {
    return tier_->Stats().counters[static_cast<std::size_t>(counter)];
  }
  static std::uint64_t OffsetOf(SlotIndex slot) { return std::uint64_t{slot} * kPage; }

  tier::MemoryRemote remote_;
  std::vector<std::atomic<SlotWord>> words_ = std::vector<std::atomic<SlotWord>>(kSlots);
  std::unique_ptr<tier::Tier> tier_;
  std::unique_ptr<ConnectionSet> set_;
};

// One connection, no writeback, and no room: in the pool, or at the limit of kFull.
class FullTier : public StoreWaitFixture {
 protected:
  explicit FullTier(bool at_limit) : at_limit_(at_limit) {}

  void Fill(milliseconds store_wait = kHangGuard) {
    Serve(store_wait);
    remote_.HoldPuts();
    remote_.SetWritable(false);
    ASSERT_TRUE(tier_->SetLimits(kPoolBytes / 2, 90).ok());
    ASSERT_TRUE(tier_->PlaceCgroup(kFull, tier::kUnknownCgroup));
    if (at_limit_) Limit(kFull, tier::kGroupLimitMin);
    client_ = Connect();
    for (;; ++end_) {
      const Bytes page = PageOf(end_, 1);
      Announce(end_, kFull);
      if (tier_->TryStore(end_, page.data(), nullptr) != tier::IoStatus::kOk) break;
    }
  }
  static Bytes PageOf(SlotIndex slot, unsigned generation) {
    return RandomBytes(kPage, slot * 100 + generation);
  }
  static Bytes WriteRequest(std::uint64_t cookie, SlotIndex slot, const Bytes& pages) {
    Bytes message = RequestBytes(Command::kWrite, cookie, OffsetOf(slot),
                                 static_cast<std::uint32_t>(pages.size()));
    Append(message, pages);
    return message;
  }
  // Sends a WRITE of one page that will wait, and knows that it does.
  void SendWaiting(std::uint64_t cookie, SlotIndex slot, unsigned generation = 1) {
    const std::uint64_t before = Waits();
    Announce(slot, kFull);
    client_->Send(WriteRequest(cookie, slot, PageOf(slot, generation)));
    ASSERT_TRUE(Eventually([&] { return Waits() > before; }));
  }
  std::uint64_t Waits() {
    return Count(at_limit_ ? Counter::cgroup_limit_hit : Counter::pool_limit_hit);
  }
  void ExpectReply(std::uint64_t cookie, std::uint32_t error = kOk) {
    const Client::Reply reply = client_->ReceiveReply();
    EXPECT_EQ(reply.cookie, cookie);
    EXPECT_EQ(reply.error, error);
  }
  // Good ones, in any order.
  void ExpectReplies(std::uint64_t one, std::uint64_t other) {
    const auto replies = client_->ReceiveReads({{one, 0}, {other, 0}});
    EXPECT_EQ(replies.size(), 2u);
  }
  void ExpectStoredWithoutWriteback(SlotIndex slot) {
    EXPECT_EQ(client_->Read(OffsetOf(slot), kPage), PageOf(slot, 1));
    EXPECT_EQ(Count(Counter::written_back_pages), 0u);
  }

  const bool at_limit_;
  std::unique_ptr<Client> client_;
  SlotIndex end_ = 0;
};

class NbdStoreWait : public FullTier, public ::testing::WithParamInterface<bool> {
 protected:
  NbdStoreWait() : FullTier(/*at_limit=*/GetParam()) {}
};

class NbdStoreWaitAtALimit : public FullTier {
 protected:
  NbdStoreWaitAtALimit() : FullTier(/*at_limit=*/true) {}
};

constexpr SlotIndex kNew = 6000;  // no page is there
constexpr std::uint64_t kCookie = 7777;

TEST_P(NbdStoreWait, HoldsUpNoReadNorAStoreThatFits) {
  Fill();
  SendWaiting(kCookie, kNew);
  EXPECT_EQ(client_->Read(OffsetOf(3), kPage), PageOf(3, 1));
  Announce(kNew + 1, kOther);
  const Bytes other = at_limit_ ? PageOf(kNew + 1, 1) : Bytes(kPage, std::byte{5});
  EXPECT_EQ(client_->Write(OffsetOf(kNew + 1), other), kOk);
  EXPECT_EQ(client_->Read(OffsetOf(kNew + 1), kPage), other);
  client_->Send(RequestBytes(Command::kTrim, kCookie + 1, OffsetOf(3), kPage));
  ExpectReplies(kCookie, kCookie + 1);
  ExpectStoredWithoutWriteback(kNew);
}

TEST_P(NbdStoreWait, EndsWithAHigherLimit) {
  Fill();
  SendWaiting(kCookie, kNew);
  if (at_limit_) {
    Limit(kFull, 2 * tier::kGroupLimitMin);
  } else {
    ASSERT_TRUE(tier_->SetLimits(kPoolBytes, 90).ok());
  }
  ExpectReply(kCookie);
  ExpectStoredWithoutWriteback(kNew);
}

TEST_F(NbdStoreWaitAtALimit, EndsWithTheCgroup) {
  Fill();
  SendWaiting(kCookie, kNew);
  tier_->RemoveCgroup(kFull);
  ExpectReply(kCookie);
  ExpectStoredWithoutWriteback(kNew);
}

TEST_P(NbdStoreWait, EndsWithWriteback) {
  Fill();
  SendWaiting(kCookie, kNew);
  remote_.SetWritable(true);
  remote_.Release();
  ExpectReply(kCookie);
  EXPECT_EQ(client_->Read(OffsetOf(kNew), kPage), PageOf(kNew, 1));
}

TEST_P(NbdStoreWait, EndsWithARefusalThatLeavesNothingOlder) {
  Fill(milliseconds{100});
  SendWaiting(kCookie, 5, 2);
  ExpectReply(kCookie, kEnospc);
  EXPECT_EQ(client_->Read(OffsetOf(5), kPage), Bytes(kPage));
}

TEST_P(NbdStoreWait, OfALargeWriteWithoutRoomLeavesNewPagesOrNone) {
  constexpr std::uint32_t kPages = 40;
  Fill(milliseconds{100});
  Bytes newer;
  for (SlotIndex slot = 0; slot < kPages; ++slot) {
    Announce(slot, kFull);
    Append(newer, PageOf(slot, 2));
  }
  client_->Send(WriteRequest(kCookie, 0, newer));
  ExpectReply(kCookie, kEnospc);
  // The first is refused, and what its older page took is room for others.
  std::uint32_t emptied = 0;
  for (SlotIndex slot = 0; slot < kPages; ++slot) {
    const Bytes page = client_->Read(OffsetOf(slot), kPage);
    if (page == Bytes(kPage)) {
      ++emptied;
      continue;
    }
    const auto at = newer.begin() + static_cast<std::ptrdiff_t>(OffsetOf(slot));
    EXPECT_EQ(page, Bytes(at, at + kPage)) << slot;
  }
  EXPECT_GT(emptied, 0u);
}

TEST_P(NbdStoreWait, IsSupersededByWhatComesLaterOnItsConnection) {
  Fill();
  SendWaiting(kCookie, kNew);
  const Bytes newer(kPage, std::byte{9});
  Announce(kNew, kFull);
  client_->Send(WriteRequest(kCookie + 1, kNew, newer));
  ExpectReplies(kCookie, kCookie + 1);
  EXPECT_EQ(client_->Do(Command::kTrim, OffsetOf(3), kPage), kOk);
  EXPECT_EQ(client_->Read(OffsetOf(kNew), kPage), newer);
}

TEST_P(NbdStoreWait, OfAConnectionThatEndedNeverComesOverANewerOne) {
  Fill();
  std::uint64_t id = 0;
  client_ = Connect(&id);
  SendWaiting(kCookie, 5, 2);
  client_->Leave();
  ASSERT_TRUE(set_->Wait(id, kHangGuard));
  client_ = Connect();
  EXPECT_EQ(client_->Read(OffsetOf(5), kPage), PageOf(5, 1));
  const Bytes newer(kPage, std::byte{9});
  EXPECT_EQ(client_->Write(OffsetOf(5), newer), kOk);  // makes room, too
  Announce(kNew, kFull);
  EXPECT_EQ(client_->Write(OffsetOf(kNew), PageOf(kNew, 1)), kOk);
  EXPECT_EQ(client_->Read(OffsetOf(5), kPage), newer);
}

TEST_P(NbdStoreWait, DoesNotDelayTheEndOfTheDevice) {
  Fill(milliseconds{3600000});
  SendWaiting(kCookie, kNew);
  set_->Stop();
  EXPECT_TRUE(client_->AtEnd()) << "without an answer";
}

TEST_P(NbdStoreWait, EndsWithTheEndOfWriteback) {
  Fill();
  SendWaiting(kCookie, kNew);
  tier_->StopWriteback();
  ExpectReply(kCookie, kEnospc);
}

INSTANTIATE_TEST_SUITE_P(InThePoolAndAtALimit, NbdStoreWait, ::testing::Bool(), [](const auto& at) {
  return at.param ? std::string("AtALimit") : std::string("InThePool");
});

// Many connections of several cgroups, each with many requests under way, while everything that
// stores wait for changes, and connections break.
class NbdStoreWaitRace : public StoreWaitFixture {
 protected:
  static constexpr int kRounds = 60;
  static constexpr std::uint64_t kDepth = 24;
  static constexpr CgroupId kCgroups = 4;
  static constexpr SlotIndex kShare = 500;  // slots that one writer writes

  // A page of one round: what a read may find in the slot until it is written again.
  static Bytes PageOf(SlotIndex slot, std::uint32_t round) {
    Bytes page(kPage);
    tier::FillStamped(slot, round, page.data());
    return page;
  }

  // Each round writes and trims slots, many at once, and no slot twice.
  void Write(unsigned writer) {
    std::mt19937_64 random(writer);
    const SlotIndex first = writer * kShare;
    std::uint64_t id = 0;
    auto client = Connect(&id);
    for (std::uint32_t round = 1; round <= kRounds && !HasFailure(); ++round) {
      Bytes requests;
      std::vector<SlotIndex> slots;
      for (std::uint64_t i = 0; i < kDepth; ++i) {
        const SlotIndex slot =
            first + static_cast<SlotIndex>((round * 7 + i * 20 + random() % 20) % kShare / 4 * 4);
        if (std::find(slots.begin(), slots.end(), slot) != slots.end()) continue;
        slots.push_back(slot);
        AppendRequest(&requests, slots.size() - 1, slot, round, random);
      }
      client->Send(requests);
      rounds_.fetch_add(1);
      rounds_.notify_one();
      if (random() % 16 == 0) {
        client->Leave();
        ASSERT_TRUE(set_->Wait(id, kHangGuard));
        client = Connect(&id);
        for (const SlotIndex slot : slots) states_[slot].known = false;
        continue;
      }
      Await(client.get(), slots, round);
      Check(client.get(), slots);
    }
  }
  void AppendRequest(Bytes* requests, std::uint64_t cookie, SlotIndex slot, std::uint32_t round,
                     std::mt19937_64& random) {
    if (random() % 6 == 0) {
      Append(*requests, RequestBytes(Command::kTrim, cookie | kTrimmed, OffsetOf(slot), 4 * kPage));
      return;
    }
    Append(*requests, RequestBytes(Command::kWrite, cookie, OffsetOf(slot), 4 * kPage));
    for (SlotIndex i = 0; i < 4; ++i) {
      Announce(slot + i, static_cast<CgroupId>(100 + slot / kShare % kCgroups));
      Append(*requests, PageOf(slot + i, round));
    }
  }
  void Await(Client* client, const std::vector<SlotIndex>& slots, std::uint32_t round) {
    for (std::size_t n = 0; n < slots.size(); ++n) {
      const Client::Reply reply = client->ReceiveReply();
      ASSERT_TRUE(reply.error == kOk || reply.error == kEnospc);
      const SlotIndex slot = slots.at(reply.cookie & ~kTrimmed);
      State& state = states_[slot];
      state.known = true;
      state.refused = reply.error != kOk;
      state.round = (reply.cookie & kTrimmed) != 0 ? 0 : round;
    }
  }
  void Check(Client* client, const std::vector<SlotIndex>& slots) {
    for (const SlotIndex slot : slots) {
      const State& state = states_[slot];
      if (!state.known) continue;
      const Bytes pages = client->Read(OffsetOf(slot), 4 * kPage);
      for (SlotIndex i = 0; i < 4 && !HasFailure(); ++i) {
        const auto at = pages.begin() + static_cast<std::ptrdiff_t>(i * kPage);
        const Bytes page(at, at + kPage);
        const bool written =
            page == (state.round == 0 ? Bytes(kPage) : PageOf(slot + i, state.round));
        EXPECT_TRUE(written || (state.refused && page == Bytes(kPage))) << slot + i;
      }
    }
  }
  void ChangeEverything(std::mt19937_64& random) {
    const auto id = static_cast<CgroupId>(100 + random() % kCgroups);
    switch (random() % 12) {
      case 0:
      case 1:
        Limit(id, tier::kGroupLimitMin << random() % 3);
        break;
      case 2:
        tier_->RemoveCgroup(id);
        break;
      case 3:
      case 4:
        ASSERT_TRUE(tier_->SetLimits(kPoolBytes - (random() % 4 << 20), 80).ok());
        break;
      case 5:
      case 6:
        remote_.FailPuts(random() % 2 == 0 ? tier::PutResult::kUnavailable
                                           : tier::PutResult::kAcked);
        break;
      default:
        tier_->Invalidate(static_cast<SlotIndex>(kSlots - 1 - random() % 100), 1);
        std::this_thread::yield();
    }
  }

  static constexpr std::uint64_t kTrimmed = std::uint64_t{1} << 32;
  struct State {
    bool known = false;
    bool refused = false;
    std::uint32_t round = 0;
  };
  std::vector<State> states_ = std::vector<State>(kSlots);
  std::atomic<std::uint32_t> rounds_{0};  // begun
};

TEST_F(NbdStoreWaitRace, EachAnswerIsTrueAndEachConnectionEnds) {
  constexpr unsigned kWriters = 4;
  Serve(milliseconds{5});
  std::vector<std::thread> writers;
  std::atomic<bool> done{false};
  for (unsigned i = 0; i < kWriters; ++i) writers.emplace_back([this, i] { Write(i); });
  std::thread changes([&] {
    std::mt19937_64 random(42);
    // Some changes a round: more often, and no cgroup would live to come to its limit.
    for (std::uint32_t seen = 0; !done.load(); seen = rounds_.load()) {
      rounds_.wait(seen);
      for (int i = 0; i < 8; ++i) ChangeEverything(random);
    }
  });
  for (std::thread& writer : writers) writer.join();
  done.store(true);
  rounds_.fetch_add(1);
  rounds_.notify_one();
  changes.join();
  EXPECT_GT(Count(Counter::cgroup_limit_hit), 0u);
}

}  // namespace
}  // namespace farswap::nbd
