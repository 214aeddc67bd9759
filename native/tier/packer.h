// Packer: makes the copies of a batch smaller before they are sent. Neighbours become one bundle
// (bundle.h), other pages are recompressed, each as far as it is switched on. The entries in the
// pool stay as they are until the servers have what is sent.
//
// A bundle is made only while no slot of it has its page in a bundle. So its object is replaced as
// a whole or not at all, and the in_bundle bits of the slots say which pages it holds. All slots of
// a bundle share one lock. Bundle versions count the bundles ever sent:
//
//   while a bundle is written                       what happens
//   a member is overwritten                         it leaves the bundle; the others go on
//   all members are overwritten                     the bundle is discarded when its write ends
//   another bundle of the same slots is sent        servers keep the higher version
//   that bundle overtakes a discard                 the version of the discard is lower
//   the write fails                                 members are local again; the bundle is
//   discarded,
//                                                   since a server may have it
//
// Threads: one thread calls Pack(); any thread changes the settings.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "tier/bundle.h"
#include "tier/codec.h"
#include "tier/pages.h"

namespace farswap::tier {

class Packer {
 public:
  /// `pages` outlives it.
  explicit Packer(Pages* pages) : pages_(*pages) {}

  /// See Tier::SetPacking() and Tier::SetRecompression().
  Outcome SetPacking(bool on);
  void SetRecompression(const std::optional<Compressor>& compressor);
  bool packing() const { return packing_.load(std::memory_order_acquire); }

  /// Pages of a batch that are neighbours, by slot.
  struct Run {
    std::size_t first;
    std::size_t count;
  };
  /// Packs the runs, which are in order, and recompresses other pages. The copy of the page i is in
  /// arena + i * kPageBytes, and so are the objects made of it. Returns the number of objects,
  /// which take the place of the pages.
  std::size_t Pack(std::span<Object> pages, std::span<const Run> runs, std::byte* arena);

 private:
  bool PackRun(std::span<const Object> pages, std::byte* copy, Object* bundle);
  void RecompressPage(Object* page, std::byte* copy);

  Pages& pages_;
  std::atomic<int> recompress_level_{0};  // of zstd; 0: off
  std::atomic<bool> packing_{false};
  std::mutex mutex_;                      // of SetPacking()
  std::unique_ptr<BundleWriter> writer_;  // made once, before packing_ is set
};

}  // namespace farswap::tier
