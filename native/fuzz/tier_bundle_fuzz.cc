// The bundle parser on any bytes, as a memory server could send them: what it accepts has exactly
// the members, versions and pages that it says, and comes out the same when it is written and read
// again.
//
// Input: a bundle object. Each is also tried with its frame replaced by a valid one for its
// members, which a fuzzer would not find by itself.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tier/bundle.h"

namespace farswap::tier {
namespace {

void Check(bool holds) {
  if (!holds) std::abort();
}

BundleWriter* Writer() {
  static auto made = BundleWriter::Create();
  Check(made.ok());
  return made.value().get();
}

void CheckPages(const BundleView& bundle, std::span<const std::byte> bytes) {
  Check(bundle.members != 0 && bundle.count() <= kBundleSlots);
  Check(bundle.frame.data() + bundle.frame.size() == bytes.data() + bytes.size());
  const auto pages = DecompressBundle(bundle);
  if (!pages) return;
  BundleWriter* const writer = Writer();
  writer->Begin();
  for (std::size_t member = 0; member < kBundleSlots; ++member) {
    if (!bundle.Has(member)) continue;
    Check(writer->Add(member, bundle.versions[member], Codec::kRaw,
                      {pages->Page(member), kPageBytes}));
  }
  const auto copy = writer->Finish(1, kBundleBytesMax);
  if (copy.empty()) return;  // another compressor made it, and ours would not
  std::vector<std::byte> first(pages->Page(0), pages->Page(0) + bundle.count() * kPageBytes);
  const auto again = ParseBundle(copy);
  Check(again && again->members == bundle.members && again->versions == bundle.versions);
  const auto pages_again = DecompressBundle(*again);
  Check(pages_again && std::memcmp(pages_again->Page(0), first.data(), first.size()) == 0);
}

/// The header of the input, if it has one, before the input's bytes as pages.
void CheckWithValidFrame(const BundleView& bundle, std::span<const std::byte> bytes) {
  BundleWriter* const writer = Writer();
  writer->Begin();
  std::vector<std::byte> page(kPageBytes);
  std::copy_n(bytes.begin(), std::min(bytes.size(), page.size()), page.begin());
  for (std::size_t member = 0; member < kBundleSlots; ++member) {
    if (bundle.Has(member)) Check(writer->Add(member, bundle.versions[member], Codec::kRaw, page));
  }
  const auto made = writer->Finish(1, kBundleBytesMax);
  if (made.empty()) return;
  const std::vector<std::byte> object(made.begin(), made.end());
  const auto valid = ParseBundle(object);
  Check(valid && valid->members == bundle.members && valid->versions == bundle.versions);
  CheckPages(*valid, object);
}

void FuzzBundle(std::span<const std::byte> input) {
  const auto bundle = ParseBundle(input);
  if (!bundle) return;
  CheckPages(*bundle, input);
  CheckWithValidFrame(*bundle, input);
}

}  // namespace
}  // namespace farswap::tier

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  farswap::tier::FuzzBundle(std::as_bytes(std::span(data, size)));
  return 0;
}
