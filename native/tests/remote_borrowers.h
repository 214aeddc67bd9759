// What the tier would be: batches and fetches that note how they are answered, and complain when
// the contract of tier::RemoteStore is broken.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hang_guard.h"
#include "remote/cluster.h"
#include "tier/bundle.h"
#include "tier/page.h"
#include "waiter.h"

namespace farswap::remote {

/// Set while this thread is inside Put(), Get() or Discard(): no answer may come then.
inline thread_local bool inside_call = false;

/// The bytes that tests keep in a slot: a function of slot and version. Those of a bundle are the
/// most there can be, under a header of all 16 members.
inline std::string BytesOf(tier::ObjectKey slot, tier::ObjectVersion version) {
  if (tier::IsBundleKey(slot)) {
    std::string bytes(tier::kBundleBytesMax, 'x');
    bytes.replace(0, 4, "\xff\xff\0\0", 4);
    std::memcpy(bytes.data() + 4, &slot, sizeof(slot));
    std::memcpy(bytes.data() + 8, &version, sizeof(version));
    return bytes;
  }
  std::string bytes(64 + slot % 512, 'x');
  std::memcpy(bytes.data(), &slot, sizeof(slot));
  std::memcpy(bytes.data() + sizeof(slot), &version, sizeof(version));
  return bytes;
}

class TestBatch final : public tier::PutBatch {
 public:
  TestBatch() { results.fill(static_cast<tier::PutResult>(255)); }

  TestBatch& Add(tier::ObjectKey slot, tier::ObjectVersion version) {
    bytes_[count] = BytesOf(slot, version);
    const auto span = std::as_bytes(std::span(bytes_[count]));
    const tier::Codec codec = tier::IsBundleKey(slot) ? tier::Codec::kBundle : tier::Codec::kLz4;
    objects[count] = {.key = slot,
                      .version = version,
                      .codec = codec,
                      .checksum = tier::PageChecksum(slot, codec, span),
                      .stored_boot_s = 1700000000,
                      .bytes = span};
    ++count;
    return *this;
  }

  void OnPutDone() override {
    EXPECT_FALSE(inside_call) << "answered from inside a call";
    if (on_done) on_done();
    // Bytes that are read after this would be seen by ASan.
    for (std::string& bytes : bytes_) std::string().swap(bytes);
    done.Set();
  }

  Waiter<> done;
  std::function<void()> on_done;

 private:
  std::array<std::string, kObjectsMax> bytes_;
};

class TestFetch final : public tier::RemoteFetch {
 public:
  struct Page {
    int answers = 0;
    tier::GetResult result{};
    tier::Object object;
    std::string bytes;
  };

  TestFetch() = default;
  explicit TestFetch(tier::ObjectKey slot) { Add(slot); }

  TestFetch& Add(tier::ObjectKey slot) {
    keys[count++] = slot;
    return *this;
  }

  tier::Verdict OnObject(std::size_t index, const tier::Object& object) override {
    EXPECT_FALSE(inside_call) << "answered from inside a call";
    Page& page = answered.at(index);
    page.answers += verdict == tier::Verdict::kAccept ? 1 : 0;
    page.result = tier::GetResult::kFound;
    page.object = object;
    page.bytes.assign(reinterpret_cast<const char*>(object.bytes.data()), object.bytes.size());
    return verdict;
  }

  void OnMissing(std::size_t index, tier::GetResult why) override {
    EXPECT_FALSE(inside_call) << "answered from inside a call";
    ++answered.at(index).answers;
    answered.at(index).result = why;
  }

  void OnGetDone() override {
    EXPECT_FALSE(inside_call) << "answered from inside a call";
    for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(answered[i].answers, 1) << "index " << i;
    done.Set();
  }

  bool Holds(std::size_t index, tier::ObjectVersion version) const {
    return answered[index].result == tier::GetResult::kFound &&
           answered[index].object.key == keys[index] && answered[index].object.version == version &&
           answered[index].bytes == BytesOf(keys[index], version);
  }

  Waiter<> done;
  tier::Verdict verdict = tier::Verdict::kAccept;
  std::array<Page, kKeysMax> answered;
};

/// What servers should have, as the test says.
class TestObjects final : public tier::StoredObjects {
 public:
  void Want(tier::ObjectKey key, tier::ObjectVersion version) {
    const std::lock_guard lock(mutex_);
    wanted_[key] = tier::IsBundleKey(key) ? 0 : tier::SlotVersionOf(version);
  }
  void ListWanted(tier::SlotIndex first, std::vector<Wanted>* wanted) override {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, version] : wanted_) {
      if (tier::FirstSlotOf(key) / tier::kShardSlots != first / tier::kShardSlots) continue;
      wanted->push_back({key, version, 1});
    }
  }
  void OnListed(tier::ObjectKey) override {}

 private:
  std::mutex mutex_;
  std::map<tier::ObjectKey, tier::Version> wanted_;
};

inline void Put(Cluster& cluster, TestBatch& batch) {
  inside_call = true;
  cluster.Put(&batch);
  inside_call = false;
}

inline void Get(Cluster& cluster, TestFetch& fetch) {
  inside_call = true;
  cluster.Get(&fetch);
  inside_call = false;
}

inline void Discard(Cluster& cluster, std::vector<tier::DiscardItem> items) {
  inside_call = true;
  cluster.Discard(items);
  inside_call = false;
}

/// Puts one page and waits: what became of it.
inline tier::PutResult PutOne(Cluster& cluster, tier::ObjectKey slot, tier::ObjectVersion version) {
  TestBatch batch;
  batch.Add(slot, version);
  Put(cluster, batch);
  EXPECT_TRUE(batch.done.Wait());
  return batch.results[0];
}

/// Gets one page and waits: what the answer was.
inline tier::GetResult GetOne(Cluster& cluster, tier::ObjectKey slot) {
  TestFetch fetch(slot);
  Get(cluster, fetch);
  EXPECT_TRUE(fetch.done.Wait());
  return fetch.answered[0].result;
}

/// The same: whether it is the page, of this version.
inline bool Holds(Cluster& cluster, tier::ObjectKey slot, tier::ObjectVersion version) {
  TestFetch fetch(slot);
  Get(cluster, fetch);
  EXPECT_TRUE(fetch.done.Wait());
  return fetch.Holds(0, version);
}

/// Address of the first replica of the slot's shard; "": not placed.
inline std::string ServerOf(const Cluster& cluster, tier::SlotIndex slot) {
  const auto replicas = cluster.ReplicasOf(slot);
  return replicas.empty() ? "" : replicas[0].address;
}

inline bool Connected(const Cluster& cluster, std::size_t server = 0) {
  return Eventually([&] { return cluster.Servers()[server].connected(); });
}

inline ClusterConfig TestConfig(std::vector<std::string> servers) {
  return {.servers = std::move(servers),
          .host_id = "test-host",
          .device = "swap0",
          .incarnation = {std::byte{1}},
          .slots = 1u << 20,
          .fetch_wait = 2 * kHangGuard,
          .put_wait = 2 * kHangGuard,
          .open_wait = 2 * kHangGuard,
          .answer_wait = std::chrono::milliseconds(100),
          .outage_wait = 2 * kHangGuard,
          .silence_wait = 2 * kHangGuard,
          .full_wait = 2 * kHangGuard};
}

/// `objects`: by default nothing is wanted of the servers.
inline std::unique_ptr<Cluster> NewCluster(const ClusterConfig& config,
                                           tier::StoredObjects* objects = nullptr) {
  static TestObjects none;
  auto created = Cluster::Create(config);
  EXPECT_TRUE(created.ok()) << (created.ok() ? "" : created.error().message);
  created.value()->CompareWith(objects ? objects : &none);
  return std::move(created.value());
}

}  // namespace farswap::remote
