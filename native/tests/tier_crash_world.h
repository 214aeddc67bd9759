// What outlives a worker of tier_crash_test beside the tier's state: what it has written, and a
// memory server. In memory that is shared by descriptor, without pointers.
#pragma once

#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "base/boot_clock.h"
#include "tier/bundle.h"
#include "tier/remote_store.h"
#include "written_slot.h"

namespace farswap::tier {

inline constexpr std::uint64_t kCrashSlots = 4096;
inline constexpr std::uint64_t kCrashPoolBytes = std::uint64_t{4} << 20;

/// An object of a server. A put of it is done when `now` names its bytes: a death before leaves the
/// earlier ones.
struct KeptObject {
  struct Copy {
    ObjectVersion version;
    Codec codec;
    std::uint32_t checksum;
    std::uint32_t stored_boot_s;
    std::uint32_t bytes;  // 0: none
    std::array<std::byte, kBundleBytesMax> content;
  };
  std::atomic<std::uint32_t> now;
  std::array<Copy, 2> copies;
};

struct CrashWorld {
  std::array<WrittenSlot, kCrashSlots> written;
  std::array<KeptObject, kCrashSlots> pages;
  std::array<KeptObject, kCrashSlots / kBundleSlots> bundles;

  KeptObject& At(ObjectKey key) {
    return IsBundleKey(key) ? bundles[key & ~(1u << 31)] : pages[key];
  }
};

/// The server: answers on a thread of its own.
class CrashRemote final : public RemoteStore {
 public:
  explicit CrashRemote(CrashWorld* world) : world_(*world), thread_([this] { Run(); }) {}
  ~CrashRemote() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_one();
    }
    thread_.join();
  }

  void Put(PutBatch* batch) override {
    Submit([this, batch] {
      for (std::size_t i = 0; i < batch->count; ++i) batch->results[i] = PutOne(batch->objects[i]);
      // Some answers are lost.
      if (++puts_ % 4 == 0) batch->results[0] = PutResult::kUnavailable;
      Answer(batch, operations_ + kOperationsOfPut, kLooksMax);
    });
  }
  void Get(RemoteFetch* fetch) override {
    Submit([this, fetch] {
      for (std::size_t i = 0; i < fetch->count; ++i) GetOne(fetch, i);
      fetch->OnGetDone();
    });
  }
  bool TakesDiscards(SlotIndex) const override { return true; }
  void Discard(std::span<const DiscardItem> items) override {
    const std::lock_guard lock(store_mutex_);
    for (const DiscardItem& item : items) {
      KeptObject& kept = world_.At(item.key);
      if (kept.copies[kept.now].version <= item.version) Replace(&kept, {});
    }
  }
  bool Writable() const override { return true; }

  /// The device was read or written.
  void NoteOperation() { ++operations_; }

 private:
  static constexpr std::uint64_t kOperationsOfPut = 20;
  static constexpr int kLooksMax = 1000;

  // Pages change while they are written. Bounded: all threads may wait for this answer.
  void Answer(PutBatch* batch, std::uint64_t late, int looks) {
    if (looks == 0 || operations_ >= late || stopping_) return batch->OnPutDone();
    std::this_thread::yield();
    Submit([this, batch, late, looks] { Answer(batch, late, looks - 1); });
  }

  void Submit(std::function<void()> request) {
    const std::lock_guard lock(mutex_);
    requests_.push_back(std::move(request));
    changed_.notify_one();
  }
  void Run() {
    static_cast<void>(PrepareThreadForBundles());
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !requests_.empty(); });
      if (requests_.empty()) return;
      const auto request = std::move(requests_.front());
      requests_.pop_front();
      lock.unlock();
      request();
      lock.lock();
    }
  }
  static void Replace(KeptObject* kept, const Object& object) {
    const std::uint32_t next = 1 - kept->now;
    KeptObject::Copy& copy = kept->copies[next];
    copy.version = object.version;
    copy.codec = object.codec;
    copy.checksum = object.checksum;
    copy.stored_boot_s = object.stored_boot_s;
    copy.bytes = static_cast<std::uint32_t>(object.bytes.size());
    if (!object.bytes.empty()) {
      std::memcpy(copy.content.data(), object.bytes.data(), object.bytes.size());
    }
    kept->now.store(next, std::memory_order_release);
  }
  PutResult PutOne(const Object& object) {
    const std::lock_guard lock(store_mutex_);
    KeptObject& kept = world_.At(object.key);
    const KeptObject::Copy& copy = kept.copies[kept.now];
    if (copy.bytes > 0 && copy.version > object.version) return PutResult::kSuperseded;
    Replace(&kept, object);
    return PutResult::kAcked;
  }
  void GetOne(RemoteFetch* fetch, std::size_t index) {
    const ObjectKey key = fetch->keys[index];
    const std::lock_guard lock(store_mutex_);
    const KeptObject& kept = world_.At(key);
    const KeptObject::Copy& copy = kept.copies[kept.now];
    const Object object{key,           copy.version,       copy.codec,
                        copy.checksum, copy.stored_boot_s, {copy.content.data(), copy.bytes}};
    if (copy.bytes == 0) return fetch->OnMissing(index, GetResult::kNotFound);
    if (fetch->OnObject(index, object) == Verdict::kAccept) return;
    fetch->OnMissing(index, GetResult::kCorrupt);
  }

  CrashWorld& world_;
  std::mutex store_mutex_;  // of the objects
  std::uint64_t puts_ = 0;
  std::mutex mutex_;  // guards the members below
  std::condition_variable changed_;
  std::deque<std::function<void()>> requests_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> operations_{0};
  std::thread thread_;
};

}  // namespace farswap::tier
