// The order in which requests of several volumes are served.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <vector>

#include "store/fair_queue.h"

namespace farswap::store {
namespace {

constexpr std::uint64_t kQuantum = FairQueue::kQuantumBytes;

class FairQueueTest : public ::testing::Test {
 protected:
  struct Request final : FairQueue::Job {
    Request(std::uint64_t of_volume, std::uint64_t size) : volume(of_volume), bytes(size) {}
    void Serve() override {}
    std::uint64_t volume;
    std::uint64_t bytes;
  };

  Request* Add(std::uint64_t volume, std::uint64_t bytes) {
    Request* const added = &requests_.emplace_back(volume, bytes);
    queue_.Add(volume, bytes, added);
    return added;
  }

  // The volumes of the next jobs.
  std::vector<std::uint64_t> Served(std::size_t count) {
    std::vector<std::uint64_t> volumes;
    for (std::size_t i = 0; i < count; ++i) {
      volumes.push_back(static_cast<Request*>(queue_.Take())->volume);
    }
    return volumes;
  }

  FairQueue queue_;
  std::deque<Request> requests_;
};

TEST_F(FairQueueTest, OneVolumeIsServedInItsOrder) {
  std::vector<FairQueue::Job*> added;
  for (const std::uint64_t bytes : {kQuantum * 3, kQuantum / 2, std::uint64_t{1}}) {
    added.push_back(Add(7, bytes));
  }
  for (FairQueue::Job* const job : added) EXPECT_EQ(queue_.Take(), job);
  EXPECT_TRUE(queue_.empty());
  EXPECT_EQ(queue_.Take(), nullptr);
}

TEST_F(FairQueueTest, VolumeWithManyStreamsGetsNoMoreTurnsThanOneWithFew) {
  for (int i = 0; i < 32; ++i) Add(1, kQuantum);
  for (int i = 0; i < 3; ++i) Add(2, kQuantum);
  EXPECT_EQ(Served(7), (std::vector<std::uint64_t>{1, 2, 1, 2, 1, 2, 1}));
}

TEST_F(FairQueueTest, SmallRequestsPassALargeOneUntilItsDeficitPaysForIt) {
  Add(1, 4 * kQuantum);
  for (int i = 0; i < 8; ++i) Add(2, kQuantum / 2);
  EXPECT_EQ(Served(9), (std::vector<std::uint64_t>{2, 2, 2, 2, 2, 2, 1, 2, 2}));
}

TEST_F(FairQueueTest, RequestOfANewVolumeWaitsForOneTurnOfEachOther) {
  for (const std::uint64_t volume : {1U, 2U, 3U}) {
    for (int i = 0; i < 10; ++i) Add(volume, kQuantum);
  }
  Served(4);
  Add(4, 100);
  const auto next = Served(3);
  EXPECT_EQ(std::ranges::count(next, std::uint64_t{4}), 1);
}

TEST_F(FairQueueTest, VolumesGetEqualSharesOfBytesWhateverTheirRequestsAre) {
  std::map<std::uint64_t, std::uint64_t> served;
  const std::map<std::uint64_t, std::uint64_t> sizes = {
      {1, 4096}, {2, 1 << 20}, {3, 100'000}, {4, 40}};
  // Volume 1 has many streams; each sends its next request when the last is served.
  for (const auto& [volume, bytes] : sizes) {
    for (int i = 0; i < (volume == 1 ? 64 : 4); ++i) Add(volume, bytes);
  }
  std::uint64_t total = 0;
  while (total < std::uint64_t{64} << 20) {
    const auto* const job = static_cast<Request*>(queue_.Take());
    served[job->volume] += job->bytes;
    total += job->bytes;
    Add(job->volume, job->bytes);
  }
  for (const auto& [volume, bytes] : served) {
    EXPECT_NEAR(static_cast<double>(bytes), static_cast<double>(total) / 4, 1.2 * (1 << 20))
        << "volume " << volume;
  }
}

TEST_F(FairQueueTest, InvalidRequestOfAnySizeTakesAFewTurns) {
  Add(1, UINT64_MAX);
  for (int i = 0; i < 80; ++i) Add(2, kQuantum);
  const auto served = Served(70);
  EXPECT_EQ(std::ranges::count(served, std::uint64_t{1}), 1);
}

TEST_F(FairQueueTest, EmptyVolumeKeepsNoDeficit) {
  Add(1, 10);
  EXPECT_EQ(Served(1), (std::vector<std::uint64_t>{1}));
  Add(1, kQuantum + 1);
  Add(2, kQuantum);
  EXPECT_EQ(Served(2), (std::vector<std::uint64_t>{2, 1}));
}

}  // namespace
}  // namespace farswap::store
