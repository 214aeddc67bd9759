#include "tier/state.h"

#include <sys/random.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "tier/pool.h"

namespace farswap::tier {
namespace {

constexpr std::array<char, 8> kMagic{'f', 'a', 'r', 's', 'w', 'a', 'p', '\0'};
/// Raised by every change of what the memory means that the sizes below do not show.
constexpr std::uint64_t kLayoutVersion = 3;
constexpr std::size_t kAlignBytes = std::size_t{2} << 20;  // of the parts: huge pages

constexpr std::size_t RoundUp(std::size_t bytes) {
  return (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
}

std::uint64_t HashOf(const void* bytes, std::size_t count) { return XXH3_64bits(bytes, count); }

Error Refused(const std::string& why) { return Error{"the kept memory " + why}; }

/// Of processes that understand each other's memory.
std::uint64_t LayoutHash() {
  const std::array<std::uint64_t, 10> sizes{kLayoutVersion,     sizeof(SlotRecord),   sizeof(Entry),
                                            Pool::kSlabBytes,   kShardSlots,          kBundleSlots,
                                            Groups::kGroupsMax, sizeof(MemberRecord), kMembersMax,
                                            Pool::LayoutHash()};
  return HashOf(sizes.data(), sizeof(sizes));
}

}  // namespace

struct State::Header {
  // Written once.
  struct Fixed {
    std::array<char, 8> magic;
    std::uint64_t layout;
    std::uint64_t slots;
    std::uint64_t pool_bytes;
    Incarnation incarnation;
  } fixed;
  std::uint64_t checksum;  // of `fixed`

  Liveness liveness;
  std::atomic<std::uint32_t> takeovers;
  std::atomic<std::uint32_t> version_wraps;
  std::atomic<ObjectVersion> bundle_version;
  std::array<std::atomic<CgroupId>, Groups::kGroupsMax> group_ids;
  // Two notes that take turns; this one is in force.
  std::atomic<std::uint32_t> note;
  struct Note {
    std::uint32_t size;
    std::array<std::byte, kNoteBytesMax> bytes;
  };
  std::array<Note, 2> notes;
  std::array<MemberRecord, kMembersMax> members;
  // The shard words follow.

  static std::uint64_t Shards(std::uint64_t slots) {
    return (slots + kShardSlots - 1) / kShardSlots;
  }
  std::size_t TableAt() const { return TableAt(fixed.slots); }
  std::size_t PoolAt() const { return PoolAt(fixed.slots); }
  static std::size_t TableAt(std::uint64_t slots) {
    return RoundUp(sizeof(Header) + Shards(slots) * sizeof(std::atomic<std::uint64_t>));
  }
  static std::size_t PoolAt(std::uint64_t slots) {
    return TableAt(slots) + RoundUp(slots * sizeof(SlotRecord));
  }
};

State::State(std::unique_ptr<Memory> memory) : memory_(std::move(memory)) {}

State::Header& State::header() const { return *reinterpret_cast<Header*>(memory_->data()); }

Result<std::unique_ptr<State>> State::Create(std::uint64_t slots, std::uint64_t pool_bytes,
                                             MemoryKind kind) {
  if (const Outcome fits = SlotTable::CheckSize(slots); !fits.ok()) return fits.error();
  if (const Outcome fits = Pool::CheckSize(pool_bytes); !fits.ok()) return fits.error();
  auto memory = Memory::Create(Header::PoolAt(slots) + pool_bytes, "pages", kind);
  if (!memory.ok()) return memory.error();
  auto* const header = new (memory.value()->data()) Header{};
  header->fixed = {kMagic, LayoutHash(), slots, pool_bytes, {}};
  Incarnation& incarnation = header->fixed.incarnation;
  if (getrandom(incarnation.data(), incarnation.size(), 0) !=
      static_cast<ssize_t>(incarnation.size())) {
    return Error{std::string("failed to get random bytes for the incarnation: ") +
                 std::strerror(errno)};
  }
  header->liveness.Init();
  header->checksum = HashOf(&header->fixed, sizeof(header->fixed));
  return std::unique_ptr<State>(new State(std::move(memory.value())));
}

Result<std::unique_ptr<State>> State::Inspect(std::unique_ptr<Memory> memory) {
  std::unique_ptr<State> state(new State(std::move(memory)));
  if (state->memory().bytes() < sizeof(Header)) return Refused("is too small for a device");
  const Header& header = state->header();
  const Header::Fixed& fixed = header.fixed;
  if (fixed.magic != kMagic) return Refused("is not farswap's");
  if (header.checksum != HashOf(&fixed, sizeof(fixed))) return Refused("has a damaged header");
  if (fixed.layout != LayoutHash()) return Refused("has the layout of another version");
  if (state->memory().bytes() < header.PoolAt() + fixed.pool_bytes) return Refused("is cut off");
  return state;
}

Result<std::unique_ptr<State>> State::Adopt(std::unique_ptr<Memory> memory, std::uint64_t slots,
                                            std::uint64_t pool_bytes) {
  auto state = Inspect(std::move(memory));
  if (!state.ok()) return state;
  const Header::Fixed& fixed = state.value()->header().fixed;
  const auto differs = [&](const char* what, std::uint64_t has, std::uint64_t wanted) {
    return Refused("is of a device of " + std::to_string(has) + " " + what + ", not of " +
                   std::to_string(wanted));
  };
  if (fixed.slots != slots) return differs("pages", fixed.slots, slots);
  if (fixed.pool_bytes != pool_bytes) return differs("bytes of pool", fixed.pool_bytes, pool_bytes);
  state.value()->adopted_ = true;
  return state;
}

Liveness& State::liveness() const { return header().liveness; }
void State::TakeOver() { ++header().takeovers; }

State::Incarnation State::incarnation() const { return header().fixed.incarnation; }
std::uint32_t State::takeovers() const { return header().takeovers; }

std::span<SlotRecord> State::slots() const {
  return {reinterpret_cast<SlotRecord*>(memory_->data() + header().TableAt()),
          header().fixed.slots};
}

std::span<std::byte> State::pool() const {
  return {memory_->data() + header().PoolAt(), header().fixed.pool_bytes};
}

std::span<std::atomic<CgroupId>, Groups::kGroupsMax> State::group_ids() const {
  return header().group_ids;
}

std::span<std::atomic<std::uint64_t>> State::shard_words() const {
  return {reinterpret_cast<std::atomic<std::uint64_t>*>(memory_->data() + sizeof(Header)),
          Header::Shards(header().fixed.slots)};
}

std::span<MemberRecord> State::members() const { return header().members; }

std::atomic<std::uint32_t>& State::version_wraps() const { return header().version_wraps; }
std::atomic<ObjectVersion>& State::bundle_version() const { return header().bundle_version; }

bool State::Note(std::span<const std::byte> bytes) {
  if (bytes.size() > kNoteBytesMax) return false;
  const std::uint32_t next = 1 - header().note;
  Header::Note& note = header().notes[next];
  note.size = static_cast<std::uint32_t>(bytes.size());
  std::ranges::copy(bytes, note.bytes.begin());
  header().note.store(next, std::memory_order_release);
  return true;
}

std::span<const std::byte> State::note() const {
  const Header::Note& note = header().notes[header().note];
  return std::span(note.bytes).first(note.size);
}

}  // namespace farswap::tier
