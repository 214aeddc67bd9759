// Pages and stores that the store's tests are made of.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "store/page_store.h"
#include "tier/page.h"

namespace farswap::store {

inline constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
// Of the volume that store_crash_writer fills: more than it can before it is killed.
inline constexpr std::uint64_t kCrashSlots = kVolumeSlotsMax;

/// A directory that goes away with the test.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "store_test.XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~ScratchDirectory() { std::filesystem::remove_all(path_); }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  std::string Path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// Bytes that encode their slot and version; no two are equal.
inline std::string ObjectBytes(std::uint64_t slot, std::uint64_t version, std::size_t length) {
  std::string bytes(length, '\0');
  std::uint64_t state = slot * 0x9E3779B97F4A7C15u + version;
  for (char& byte : bytes) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<char>(state >> 56);
  }
  return bytes;
}

/// A valid LZ4-coded object that borrows `bytes`.
inline ObjectRecord MakeObject(std::uint64_t slot, std::uint64_t version,
                               const std::string& bytes) {
  ObjectRecord object;
  object.key = slot;
  object.version = version;
  object.codec = static_cast<std::uint32_t>(tier::Codec::kLz4);
  object.stored_boot_s = 1700000000;
  object.bytes = bytes;
  object.checksum = tier::PageChecksum(static_cast<tier::SlotIndex>(slot), tier::Codec::kLz4,
                                       std::as_bytes(std::span(bytes)));
  return object;
}

/// The bytes of a bundle object of all its slots as far as a server looks at them.
inline std::string BundleBytes(std::uint64_t key, std::uint64_t version, std::size_t length) {
  std::string bytes = ObjectBytes(key, version, length);
  return bytes.replace(0, 4, "\xff\xff\0\0", 4);
}

inline ObjectRecord MakeBundle(std::uint64_t key, std::uint64_t version, const std::string& bytes) {
  ObjectRecord bundle = MakeObject(key, version, bytes);
  bundle.codec = static_cast<std::uint32_t>(tier::Codec::kBundle);
  bundle.checksum = tier::PageChecksum(static_cast<tier::ObjectKey>(key), tier::Codec::kBundle,
                                       std::as_bytes(std::span(bytes)));
  return bundle;
}

inline OpenRequest MakeOpen(char incarnation, char nonce, const std::string& host = "host") {
  OpenRequest request;
  request.host_id = host;
  request.device = "swap0";
  request.incarnation.fill(static_cast<std::uint8_t>(incarnation));
  request.owner.nonce.fill(static_cast<std::uint8_t>(nonce));
  request.owner.host_name = host + ".example";
  request.owner.address = "10.0.0.7";
  request.slots = 65536;
  request.protocol_min = request.protocol_max = kProtocolVersion;
  return request;
}

/// A store and one volume in it, by default "host"/"swap0" with 65536 slots.
class OpenedStore {
 public:
  explicit OpenedStore(std::string path, std::uint64_t capacity_bytes = 64 * kMiB,
                       bool collect_garbage = true)
      : OpenedStore({.path = std::move(path),
                     .capacity_bytes = capacity_bytes,
                     .block_cache_bytes = kMiB,
                     .collect_garbage = collect_garbage}) {}
  explicit OpenedStore(PageStoreConfig store_config) : config(std::move(store_config)) { Reopen(); }

  void Reopen() {
    store.reset();
    auto opened = PageStore::Open(config);
    if (!opened.ok()) throw std::runtime_error(opened.error().message);
    store = std::move(opened.value());
  }

  /// By another run of the host's daemon each time, and in spite of a live owner.
  OpenedVolume Open(char incarnation = 'a', const std::string& host = "host",
                    std::uint64_t slots = 65536) {
    OpenRequest request = MakeOpen(incarnation, ++nonce_, host);
    request.slots = slots;
    request.take_over = true;
    return Open(request);
  }
  OpenedVolume Open(const OpenRequest& request) {
    volume = store->OpenVolume(request);
    return volume;
  }

  std::vector<ObjectStatus> PutAll(const std::vector<ObjectRecord>& objects) {
    std::vector<ObjectStatus> results(objects.size());
    last = store->Put(volume.volume_id, volume.epoch, objects, results);
    return results;
  }

  ObjectStatus PutOne(std::uint64_t slot, std::uint64_t version, std::size_t length = 100) {
    const std::string bytes = ObjectBytes(slot, version, length);
    return PutAll({MakeObject(slot, version, bytes)})[0];
  }

  struct Got {
    ObjectStatus status;
    std::uint64_t version;
    std::string bytes;
  };
  std::vector<Got> GetAll(const std::vector<std::uint64_t>& keys) {
    std::vector<Got> got(keys.size());
    last = store->Get(
        volume.volume_id, volume.epoch, keys,
        [&](std::size_t i, ObjectStatus status, const ObjectRecord& object) {
          got[i] = {status, object.version, std::string(object.bytes.begin(), object.bytes.end())};
        });
    return got;
  }
  Got GetOne(std::uint64_t slot) { return GetAll({slot})[0]; }

  std::uint64_t Stat(const std::string& name) const {
    for (const auto& [key, value] : store->Stats()) {
      if (key == name) return value;
    }
    throw std::runtime_error("no such value: " + name);
  }

  std::unique_ptr<PageStore> store;
  OpenedVolume volume;
  CallStatus last = CallStatus::kOk;

  PageStoreConfig config;  // of the next Reopen()

 private:
  char nonce_ = 0;
};

}  // namespace farswap::store
