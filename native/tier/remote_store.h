// What the tier needs of the memory servers. `remote/` implements it over gRPC; tests implement it
// in memory with faults. All methods return at once; answers come on threads of the implementation.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tier/page.h"

namespace farswap::tier {

/// What became of one page of a PutBatch.
enum class PutResult : std::uint8_t {
  kAcked,        // this very version is kept by the server
  kSuperseded,   // the server has a higher version: ours is stale
  kServerFull,   // no server of the shard has room
  kRejected,     // the server found the object invalid or failed to keep it
  kUnavailable,  // no answer in time, no connection, or shutting down: it may or may not be kept
};

/// Objects (pages and bundles) to be put. The RemoteStore borrows the batch, and the bytes of its
/// objects, from Put() until OnPutDone().
class PutBatch {
 public:
  static constexpr std::size_t kObjectsMax = 256;
  virtual ~PutBatch() = default;
  /// Called once per Put(), after `results[0..count)` are set, from any thread but never from
  /// inside Put(). The batch belongs to its owner again. Must not block.
  virtual void OnPutDone() = 0;

  std::size_t count = 0;
  std::array<Object, kObjectsMax> objects;
  std::array<PutResult, kObjectsMax> results;
};

/// What a replica answered for one key of a RemoteFetch.
enum class GetResult : std::uint8_t {
  kFound,
  kNotFound,     // it has no such object
  kCorrupt,      // its record is damaged
  kUnavailable,  // no answer within the fetch's deadline
};

/// What the owner of a RemoteFetch makes of an object that a replica delivered.
enum class Verdict : std::uint8_t { kAccept, kTryAnother };

/// Objects being fetched by their keys, all of one shard. Borrowed by the RemoteStore from Get()
/// until OnGetDone(). A thread that answers fetches calls PrepareThreadForBundles() (bundle.h)
/// before, since memory that is first mapped to answer one may be what the kernel is short of.
///
/// The owner judges objects; the RemoteStore chooses replicas. Each index in [0, count) ends in one
/// of two ways: OnObject() returns kAccept, or the RemoteStore has no replica left and calls
/// OnMissing() once. Calls come in any order of indices but one at a time, from any thread but
/// never from inside Get(), and must not block.
class RemoteFetch {
 public:
  static constexpr std::size_t kKeysMax = 64;
  virtual ~RemoteFetch() = default;
  /// A replica delivered the object, which is parsed, not verified. Its bytes live during the call.
  virtual Verdict OnObject(std::size_t index, const Object& object) = 0;
  /// No replica delivered an object that was accepted. `why`: what the last one answered; kCorrupt
  /// if its object was refused.
  virtual void OnMissing(std::size_t index, GetResult why) = 0;
  /// Called once, when all indices have ended. The fetch belongs to its owner again, and may be
  /// gone when this returns.
  virtual void OnGetDone() = 0;

  std::size_t count = 0;
  std::array<ObjectKey, kKeysMax> keys;

  /// The RemoteStore's, from Get() on: how far the fetch has come.
  struct Route {
    std::uint64_t open = 0;     // indices that have not ended, by bit
    std::uint16_t asked = 0;    // the replica that is asked now
    bool hedged = false;        // it has left a slow replica for another one
    std::uint8_t answered = 0;  // how many replicas have answered, and which
    std::array<std::uint16_t, 3> answerers{};
    std::array<std::uint64_t, 3> left{};  // what was open after each answer
    std::array<std::uint64_t, 3> bad{};   // of that, what the replica lacks or has damaged
    std::chrono::steady_clock::time_point expires{};  // set by the first replica's lane
    RemoteFetch* next = nullptr;                      // in a list of fetches
  };
  Route route;
};

/// What servers should have of the device, for a comparison with what one has. Thread-safe; no
/// method waits for the network.
class StoredObjects {
 public:
  struct Wanted {
    ObjectKey key;
    Version version;      // of the page; 0 for a bundle, whose version no slot has
    std::uint32_t pages;  // that only servers have
  };
  /// Appends the objects of the shard that its replicas have acknowledged, by ascending key.
  virtual void ListWanted(SlotIndex first_of_shard, std::vector<Wanted>* wanted) = 0;
  /// A server lists an object under the key: if no slot needs one, it is discarded soon.
  virtual void OnListed(ObjectKey key) = 0;

 protected:
  ~StoredObjects() = default;
};

/// A stale object, up to this version.
struct DiscardItem {
  ObjectKey key;
  ObjectVersion version;
};

/// The memory servers, as one store. Thread-safe.
class RemoteStore {
 public:
  virtual ~RemoteStore() = default;
  /// Sends the objects to the servers of their shards; places new shards. Bounded in time.
  virtual void Put(PutBatch* batch) = 0;
  /// Asks the servers of the fetch's shard. Waits for a server that is away, bounded in time.
  virtual void Get(RemoteFetch* fetch) = 0;
  /// Whether Discard() may be called for the slot's shard: not while the queue of its server is
  /// full, as when it is away.
  virtual bool TakesDiscards(SlotIndex slot) const = 0;
  /// Discards objects of one shard, now or when its server is back. Only after TakesDiscards(), by
  /// one thread.
  virtual void Discard(std::span<const DiscardItem> items) = 0;
  static constexpr std::size_t kDiscardsMax = 1024;  // of one call
  /// Whether a Put() may succeed now: at least one server is connected.
  virtual bool Writable() const = 0;
};

}  // namespace farswap::tier
