// nbd_takeover_worker KIND NUMBER KIND NUMBER SOCKET RING [STEP COUNT]: waits until no other worker
// serves, then takes over the tier whose state is in the first memory and the connection that is in
// the second, and serves until it is killed; by itself when it has come to that step so many times.
// RING -1: without one. Exit code 1, and why on standard error, if it cannot; 2: the connection has
// ended.
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "base/step.h"
#include "hang_guard.h"
#include "nbd/connection.h"
#include "nbd/ring_socket.h"
#include "nbd_takeover_world.h"
#include "surviving.h"
#include "tier/state.h"
#include "tier/tier.h"

namespace farswap {

namespace nbd {
namespace {

Step last_step = Step::kCount;
std::atomic<int> steps_left{0};

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::_Exit(1);
}

[[noreturn]] void Die() {
  kill(getpid(), SIGKILL);
  while (true) pause();
}

/// The tier, with a slot that is deadly to read.
class Device final : public tier::PageDevice {
 public:
  Device(tier::PageDevice* tier, tier::CrashRemote* remote, const TakeoverWorld& world)
      : tier_(*tier), remote_(*remote), world_(world) {}

  tier::IoStatus TryStore(tier::SlotIndex slot, const std::byte* page,
                          tier::PendingStore* store) override {
    remote_.NoteOperation();
    return tier_.TryStore(slot, page, store);
  }
  bool CancelStore(tier::PendingStore* store) override { return tier_.CancelStore(store); }
  LoadResult Load(tier::SlotIndex slot, std::byte* out) override {
    remote_.NoteOperation();
    if (slot == kPoisonedSlot && world_.poisoned) Die();
    return tier_.Load(slot, out);
  }
  void Fetch(tier::PageFetch* fetch) override { tier_.Fetch(fetch); }
  void Invalidate(tier::SlotIndex first, std::uint64_t count) override {
    tier_.Invalidate(first, count);
  }
  std::uint64_t slots() const override { return tier_.slots(); }

 private:
  tier::PageDevice& tier_;
  tier::CrashRemote& remote_;
  const TakeoverWorld& world_;
};

void Count(TakeoverCounts* counts, ConnectionState& state, const StreamPosition& written) {
  const ConnectionState::Record& record = state.record();
  const std::uint64_t sent = state.stream.sent - record.stream.sent;
  const bool ready = record.ready;
  counts->takeovers += 1;
  counts->behind +=
      written.received != state.stream.received || written.sent != state.stream.sent ? 1 : 0;
  counts->received += !ready && state.stream.received != record.stream.received ? 1 : 0;
  counts->ready += ready ? 1 : 0;
  counts->partly_sent += ready && sent > 0 && sent < record.reply_bytes ? 1 : 0;
  counts->parked_reads += record.reads.Any() ? 1 : 0;
  counts->parked_writes += record.writes.Any() ? 1 : 0;
  counts->half_writes += record.parser.within == RequestParser::Position::Within::kPayload ? 1 : 0;
}

template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) Fail(result.error().message);
  return std::move(result.value());
}

int Run(char** arguments) {
  auto memory = Must(Memory::Adopt(HandleOf(arguments[1], arguments[2])));
  const auto world_memory = Must(Memory::Adopt(HandleOf(arguments[3], arguments[4])));
  auto& world = *reinterpret_cast<TakeoverWorld*>(world_memory->data());
  const int socket = std::atoi(arguments[5]);
  const int ring = std::atoi(arguments[6]);

  world.liveness.Serve();
  world.serving = getpid();
  ConnectionState* const state = &world.connection;
  const StreamPosition written = state->stream;
  std::unique_ptr<StreamSocket> stream;
  if (ring < 0) {
    stream = std::make_unique<StreamSocket>(socket, &state->stream);
  } else {
    stream = Must(RingSocket::Create(socket, ring, world.ring, &state->stream));
  }
  Count(&world.counts, *state, written);

  tier::CrashRemote remote(&world.servers);
  tier::TierConfig config;
  config.slots = tier::kCrashSlots;
  config.pool_bytes_max = tier::kCrashPoolBytes;
  config.store_wait = kHangGuard;
  auto pages = Must(tier::State::Adopt(std::move(memory), config.slots, config.pool_bytes_max));
  pages->TakeOver();
  const auto tier = Must(tier::Tier::Create(config, &remote, std::move(pages)));
  if (const Outcome packs = tier->SetPacking(true); !packs.ok()) Fail(packs.error().message);
  Device device(tier.get(), &remote, world);
  const auto connection =
      Must(Connection::Resume(&device, config.slots * tier::kPageBytes, state, std::move(stream)));
  connection->Run();
  std::fprintf(stderr, "the connection has ended: %s\n", connection->last_refusal());
  std::_Exit(2);
}

}  // namespace
}  // namespace nbd

void Reach(Step step) {
  if (step == nbd::last_step && --nbd::steps_left == 0) nbd::Die();
}

}  // namespace farswap

int main(int argc, char** argv) {
  using namespace farswap::nbd;
  if (argc != 7 && argc != 9) return 1;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argc == 9) {
    last_step = static_cast<farswap::Step>(std::atoi(argv[7]));
    steps_left = std::atoi(argv[8]);
  }
  return Run(argv);
}
