// The unit parser on any bytes, as a memory server could send them: what it accepts has exactly the
// members, versions and pages that it says, and comes out the same when it is written and read
// again.
//
// Input: a unit object. Each is also tried with its frame replaced by a valid one for its members,
// which a fuzzer would not find by itself.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tier/unit.h"

namespace farswap::tier {
namespace {

void Check(bool holds) {
  if (!holds) std::abort();
}

UnitWriter* Writer() {
  static auto made = UnitWriter::Create();
  Check(made.ok());
  return made.value().get();
}

void CheckPages(const UnitView& unit, std::span<const std::byte> bytes) {
  Check(unit.members != 0 && unit.count() <= kUnitSlots);
  Check(unit.frame.data() + unit.frame.size() == bytes.data() + bytes.size());
  const auto pages = DecompressUnit(unit);
  if (!pages) return;
  UnitWriter* const writer = Writer();
  writer->Begin();
  for (std::size_t member = 0; member < kUnitSlots; ++member) {
    if (!unit.Has(member)) continue;
    Check(
        writer->Add(member, unit.versions[member], Codec::kRaw, {pages->Page(member), kPageBytes}));
  }
  const auto copy = writer->Finish(1, kUnitBytesMax);
  if (copy.empty()) return;  // another compressor made it, and ours would not
  std::vector<std::byte> first(pages->Page(0), pages->Page(0) + unit.count() * kPageBytes);
  const auto again = ParseUnit(copy);
  Check(again && again->members == unit.members && again->versions == unit.versions);
  const auto pages_again = DecompressUnit(*again);
  Check(pages_again && std::memcmp(pages_again->Page(0), first.data(), first.size()) == 0);
}

/// The header of the input, if it has one, before the input's bytes as pages.
void CheckWithValidFrame(const UnitView& unit, std::span<const std::byte> bytes) {
  UnitWriter* const writer = Writer();
  writer->Begin();
  std::vector<std::byte> page(kPageBytes);
  std::copy_n(bytes.begin(), std::min(bytes.size(), page.size()), page.begin());
  for (std::size_t member = 0; member < kUnitSlots; ++member) {
    if (unit.Has(member)) Check(writer->Add(member, unit.versions[member], Codec::kRaw, page));
  }
  const auto made = writer->Finish(1, kUnitBytesMax);
  if (made.empty()) return;
  const std::vector<std::byte> object(made.begin(), made.end());
  const auto valid = ParseUnit(object);
  Check(valid && valid->members == unit.members && valid->versions == unit.versions);
  CheckPages(*valid, object);
}

void FuzzUnit(std::span<const std::byte> input) {
  const auto unit = ParseUnit(input);
  if (!unit) return;
  CheckPages(*unit, input);
  CheckWithValidFrame(*unit, input);
}

}  // namespace
}  // namespace farswap::tier

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  farswap::tier::FuzzUnit(std::as_bytes(std::span(data, size)));
  return 0;
}
