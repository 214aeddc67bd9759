// Requests of 16 KiB to 2 MiB over the real tier, whose pages are in every mix of states: page by
// page they must be what was written last, or one of the pages that could be current.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "memory_remote.h"
#include "nbd/connection_set.h"
#include "nbd_client.h"
#include "page_history.h"
#include "tier/tier.h"
#include "waiter.h"

namespace farswap::nbd {
namespace {

using tier::kPageBytes;
using tier::PageHistory;
using tier::SlotIndex;
using tier::Stamp;

constexpr std::size_t kPagesMin = 4;    // 16 KiB
constexpr std::size_t kPagesMax = 512;  // 2 MiB

std::uint64_t OffsetOf(SlotIndex slot) { return std::uint64_t{slot} * kPageBytes; }
std::uint32_t LengthOf(std::size_t pages) { return static_cast<std::uint32_t>(pages * kPageBytes); }

Bytes StampedPages(SlotIndex first, std::size_t count, Stamp stamp) {
  Bytes bytes(count * kPageBytes);
  for (std::size_t i = 0; i < count; ++i) {
    tier::FillStamped(first + static_cast<SlotIndex>(i), stamp, bytes.data() + i * kPageBytes);
  }
  return bytes;
}

class MixedRequests : public ::testing::Test {
 protected:
  MixedRequests() {
    tier::TierConfig config;
    config.slots = kSlots;
    config.pool_bytes_max = std::uint64_t{4} << 20;
    config.store_wait = kHangGuard;
    auto made = tier::Tier::Create(config, &remote_);
    EXPECT_TRUE(made.ok());
    tier_ = std::move(made.value());
    set_ = std::make_unique<ConnectionSet>(tier_.get(), OffsetOf(kSlots));
  }
  ~MixedRequests() override {
    remote_.Release();
    set_->Stop();
    tier_->StopWriteback();
  }

  /// A client with a connection of its own, to be given back before the test ends.
  std::unique_ptr<Client> Connect() {
    auto client = std::make_unique<Client>();
    EXPECT_TRUE(set_->Serve(client->server_end(), {}, "test").ok());
    return client;
  }

  struct Range {
    SlotIndex first;
    std::size_t count;
  };
  /// Sizes by powers of two, more or less, so that small and large ones are equally frequent.
  static Range RandomRange(std::mt19937_64& random) {
    const std::size_t rounded = kPagesMin << random() % 8;
    const std::size_t count = std::min(kPagesMax, rounded + random() % rounded);
    return {static_cast<SlotIndex>(random() % (kSlots - count + 1)), count};
  }

  static Bytes ReadAll(Client& client) {
    Bytes all;
    for (SlotIndex slot = 0; slot < kSlots; slot += kPagesMax) {
      Append(all, client.Read(OffsetOf(slot), LengthOf(kPagesMax)));
    }
    return all;
  }

  static constexpr SlotIndex kSlots = 1536;
  tier::MemoryRemote remote_;
  std::unique_ptr<tier::Tier> tier_;
  std::unique_ptr<ConnectionSet> set_;
};

class MixedStates : public MixedRequests {
 protected:
  enum State : std::uint64_t { kEmpty, kSameFilled, kLocal, kWriting, kRemote, kStates, kClean };

  // A stamp from `after` on whose page can be in that state.
  static Stamp FindStamp(SlotIndex slot, Stamp after, State state) {
    for (Stamp stamp = after;; ++stamp) {
      const tier::PageKind kind = tier::StampedKind(slot, stamp);
      const bool same_filled = kind == tier::PageKind::kZero || kind == tier::PageKind::kSameFilled;
      if (state == kClean ? kind == tier::PageKind::kAlike
                          : same_filled == (state == kSameFilled)) {
        return stamp;
      }
    }
  }

  void WriteState(Client& client, State state, Stamp after) {
    for (SlotIndex slot = 0; slot < kSlots; ++slot) {
      if (states_[slot] != state) continue;
      stamps_[slot] = FindStamp(slot, after, state);
      ASSERT_EQ(client.Write(OffsetOf(slot), StampedPages(slot, 1, stamps_[slot])), 0u);
    }
  }
  std::uint64_t PagesOf(State state) {
    return static_cast<std::uint64_t>(std::count(states_.begin(), states_.end(), state));
  }

  // Leaves every slot in a state drawn at random, with the pages in state writing held there.
  void Scatter(Client& client, std::mt19937_64& random, Stamp after) {
    ASSERT_EQ(client.Do(Command::kTrim, 0, LengthOf(kSlots)), 0u);
    for (State& state : states_) state = static_cast<State>(random() % kStates);
    stamps_.fill(0);
    SendBundles(client, random, after);
    WriteState(client, kRemote, after);
    WriteBack(PagesOf(kRemote));
    ASSERT_TRUE(Eventually(
        [this] { return tier_->Stats().pages.remote == PagesOf(kClean) + PagesOf(kRemote); }));
    remote_.HoldPuts();
    WriteState(client, kWriting, after);
    WriteBack(PagesOf(kWriting));
    ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.writing == PagesOf(kWriting); }));
    WriteState(client, kLocal, after);
    WriteState(client, kSameFilled, after);
    const tier::TierStats stats = tier_->Stats();
    ASSERT_EQ(stats.pages.local, PagesOf(kLocal));
    ReadBundles(client);
    ASSERT_EQ(stats.pages.same_filled, PagesOf(kSameFilled));
  }
  // Neighbours are sent as bundles.
  void SendBundles(Client& client, std::mt19937_64& random, Stamp after) {
    constexpr SlotIndex kBundle = 16;
    for (SlotIndex first = 0; first < kSlots; first += kBundle) {
      if (random() % 8 == 0) std::fill_n(states_.begin() + first, kBundle, kClean);
    }
    ASSERT_TRUE(tier_->SetPacking(true).ok());
    WriteState(client, kClean, after);
    WriteBack(PagesOf(kClean));
    ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.remote == PagesOf(kClean); }));
    ASSERT_TRUE(tier_->SetPacking(false).ok());
  }
  // One page of a bundle is read, which takes the others into the pool again.
  void ReadBundles(Client& client) {
    for (SlotIndex slot = 0; slot < kSlots; slot += 16) {
      if (states_[slot] == kClean) client.Read(OffsetOf(slot), kPageBytes);
    }
    ASSERT_GT(tier_->Stats().pages.clean, 0u);
  }

  void WriteBack(std::uint64_t pages) {
    ASSERT_TRUE(
        Eventually([&] { return tier_->StartManualWriteback({.bytes = pages * kPageBytes}); }));
  }

  Bytes Expected(SlotIndex first, std::size_t count) {
    Bytes bytes;
    for (std::size_t i = 0; i < count; ++i) {
      const SlotIndex slot = first + static_cast<SlotIndex>(i);
      Append(bytes, StampedPages(slot, 1, stamps_[slot]));
    }
    return bytes;
  }
  void ExpectReads(Client& client, std::mt19937_64& random, int reads) {
    for (int i = 0; i < reads; ++i) {
      const auto [first, count] = RandomRange(random);
      const Bytes pages = client.Read(OffsetOf(first), LengthOf(count));
      ASSERT_TRUE(Same(pages, Expected(first, count))) << count << " pages from " << first;
    }
  }

  std::array<State, kSlots> states_{};
  std::array<Stamp, kSlots> stamps_{};
};

TEST_F(MixedStates, OfEveryKindAreReadOverwrittenAndTrimmedRight) {
  const auto client = Connect();
  std::mt19937_64 random(11);
  for (Stamp round = 1; round <= 4; ++round) {
    Scatter(*client, random, round * 1000);
    ASSERT_FALSE(HasFatalFailure());
    ExpectReads(*client, random, 30);
    for (int i = 0; i < 10; ++i) {
      const auto [first, count] = RandomRange(random);
      const Stamp stamp = random() % 3 == 0 ? 0 : round * 1000 + 500 + static_cast<Stamp>(i);
      std::fill_n(stamps_.begin() + first, count, stamp);
      if (stamp == 0) {
        ASSERT_EQ(client->Do(Command::kTrim, OffsetOf(first), LengthOf(count)), 0u);
      } else {
        ASSERT_EQ(client->Write(OffsetOf(first), StampedPages(first, count, stamp)), 0u);
      }
      ExpectReads(*client, random, 3);
    }
    remote_.Release();
    ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.writing == 0; }));
    ASSERT_TRUE(Same(ReadAll(*client), Expected(0, kSlots)));
    ASSERT_TRUE(Eventually([this] { return tier_->ManualWritebackProgress().finished; }));
  }
}

class MixedRequestRace : public MixedRequests {
 protected:
  // What the kernel may do with a range, and how it is remembered.
  void Change(Client& client, std::mt19937_64& random) {
    const auto [first, count] = RandomRange(random);
    const bool zeros = random() % 4 == 0;
    const Stamp stamp = zeros ? 0 : history_.NextStamp();
    const Bytes bytes = zeros ? Bytes{} : StampedPages(first, count, stamp);
    const PageHistory::Time began = history_.BeginWrite(first, count, stamp);
    std::uint32_t error;
    if (zeros) {
      const Command command = random() % 2 == 0 ? Command::kTrim : Command::kWriteZeroes;
      error = client.Do(command, OffsetOf(first), LengthOf(count));
    } else {
      error = client.Write(OffsetOf(first), bytes);
    }
    ASSERT_EQ(error, 0u);
    history_.EndWrite(first, count, began);
  }

  // Several reads at once, which may be answered in any order.
  void ReadAndCheck(Client& client, std::mt19937_64& random) {
    std::array<Range, 3> ranges;
    std::map<std::uint64_t, std::size_t> lengths;
    Bytes requests;
    const PageHistory::Time began = history_.BeginRead();
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      ranges[i] = RandomRange(random);
      lengths[i] = LengthOf(ranges[i].count);
      Append(requests,
             RequestBytes(Command::kRead, i, OffsetOf(ranges[i].first), LengthOf(ranges[i].count)));
    }
    client.Send(requests);
    const auto answers = client.ReceiveReads(lengths);
    ASSERT_FALSE(HasFailure());
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      for (std::size_t page = 0; page < ranges[i].count; ++page) {
        const SlotIndex slot = ranges[i].first + static_cast<SlotIndex>(page);
        ASSERT_EQ(history_.Check(slot, began, answers.at(i).data() + page * kPageBytes), "");
      }
      pages_read_.fetch_add(ranges[i].count);
    }
  }

  // Pages leave all the time, and some are held on their way.
  void WriteBackUntilDone() {
    std::mt19937_64 random(7);
    while (!done_.load()) {
      tier_->StartManualWriteback({.bytes = kPageBytes * (1 + random() % 256)});
      if (random() % 2 == 0) remote_.HoldPuts();
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
      remote_.Release();
      std::this_thread::yield();
    }
  }

  PageHistory history_{kSlots};
  std::atomic<bool> done_{false};
  std::atomic<std::uint64_t> pages_read_{0};
};

TEST_F(MixedRequestRace, EveryPageReadIsOneThatCouldBeCurrent) {
  constexpr int kWriters = 3;
  constexpr int kReaders = 2;
  constexpr int kChanges = 250;
  ASSERT_TRUE(tier_->SetPacking(true).ok());
  std::vector<std::thread> writers;
  std::vector<std::thread> others;
  for (unsigned i = 0; i < kWriters; ++i) {
    writers.emplace_back([this, i] {
      const auto client = Connect();
      std::mt19937_64 random(i);
      for (int n = 0; n < kChanges && !HasFailure(); ++n) Change(*client, random);
    });
  }
  for (unsigned i = 0; i < kReaders; ++i) {
    others.emplace_back([this, i] {
      const auto client = Connect();
      std::mt19937_64 random(100 + i);
      while (!done_.load() && !HasFailure()) ReadAndCheck(*client, random);
    });
  }
  others.emplace_back([this] { WriteBackUntilDone(); });
  for (std::thread& thread : writers) thread.join();
  done_.store(true);
  for (std::thread& thread : others) thread.join();
  ASSERT_FALSE(HasFailure());
  const tier::TierStats stats = tier_->Stats();
  const auto count = [&](tier::Counter c) { return stats.counters[static_cast<std::size_t>(c)]; };
  EXPECT_GT(pages_read_.load(), 0u);
  EXPECT_GT(count(tier::Counter::loads_remote), 0u);
  EXPECT_GT(count(tier::Counter::writeback_raced), 0u);
  EXPECT_GT(count(tier::Counter::neighbours_adopted), 0u);
  const auto client = Connect();
  const PageHistory::Time began = history_.BeginRead();
  const Bytes all = ReadAll(*client);
  for (SlotIndex slot = 0; slot < kSlots; ++slot) {
    ASSERT_EQ(history_.Check(slot, began, all.data() + slot * kPageBytes), "");
  }
}

}  // namespace
}  // namespace farswap::nbd
