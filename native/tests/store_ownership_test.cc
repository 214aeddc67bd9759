// The rules for opening a volume, as a table and over restarts of a store with its own clock.
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "store/ownership.h"
#include "store_objects.h"

namespace farswap::store {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::nanoseconds;
using std::chrono::seconds;

// --- The rules ----------------------------------------------------------------------------------

struct Case {
  const char* claim;
  OpenRequest request;
  Claim known;
  OpenDecision expected;
};

// The owner is incarnation 'a' with nonce 'n' and the given takeover_count.
Claim OwnedBy(std::uint32_t takeover_count, bool live) {
  Claim claim;
  claim.open = true;
  claim.incarnation = MakeOpen('a', 'n').incarnation;
  claim.owner = MakeOpen('a', 'n').owner;
  claim.owner.takeover_count = takeover_count;
  claim.live = live;
  return claim;
}

OpenRequest Ask(char incarnation, char nonce, std::uint32_t takeover_count = 0,
                bool take_over = false) {
  OpenRequest request = MakeOpen(incarnation, nonce);
  request.owner.takeover_count = takeover_count;
  request.take_over = take_over;
  return request;
}

Claim Retired(Claim claim) {
  claim.retired = true;
  return claim;
}

OpenRequest At(std::uint64_t boot_ms, OpenRequest request) {
  request.boot_ms = boot_ms;
  return request;
}

Claim Heard(std::uint64_t boot_ms, Claim claim) {
  claim.boot_ms = boot_ms;
  return claim;
}

OpenRequest Speaking(OpenRequest request, std::uint32_t min, std::uint32_t max) {
  request.protocol_min = min;
  request.protocol_max = max;
  return request;
}

TEST(Ownership, RulesAsATable) {
  using enum OpenDecision;
  const std::vector<Case> cases = {
      {"no host has it", Ask('a', 'n'), {}, kNew},
      {"no host has it, but it was closed", Ask('a', 'n'), Retired({}), kFenced},
      {"the owner comes again", Ask('a', 'n'), OwnedBy(0, true), kSame},
      {"the owner comes again after its lease", Ask('a', 'n'), OwnedBy(0, false), kSame},
      {"the owner insists", Ask('a', 'n', 0, true), OwnedBy(0, true), kSame},
      {"another process, owner live", Ask('a', 'm'), OwnedBy(0, true), kAlreadyOpen},
      {"another process, owner silent", Ask('a', 'm'), OwnedBy(0, false), kNewNonce},
      {"another process by an operator", Ask('a', 'm', 0, true), OwnedBy(0, true), kNewNonce},
      {"the standby, owner live", Ask('a', 'm', 1), OwnedBy(0, true), kNewNonce},
      {"the standby, owner silent", Ask('a', 'm', 1), OwnedBy(0, false), kNewNonce},
      {"who was adopted, adopter live", Ask('a', 'm', 1), OwnedBy(2, true), kFenced},
      {"who was adopted, adopter silent", Ask('a', 'm', 1), OwnedBy(2, false), kFenced},
      {"who was adopted, insisting", Ask('a', 'm', 1, true), OwnedBy(2, true), kFenced},
      {"the highest count again", Ask('a', 'm', UINT32_MAX), OwnedBy(UINT32_MAX, true),
       kAlreadyOpen},
      {"a count that wrapped", Ask('a', 'm', 0), OwnedBy(UINT32_MAX, true), kFenced},
      {"another incarnation, owner live", Ask('b', 'm'), OwnedBy(0, true), kAlreadyOpen},
      {"another with the same nonce", Ask('b', 'n'), OwnedBy(0, true), kAlreadyOpen},
      {"another with a higher count", Ask('b', 'm', 9), OwnedBy(0, true), kAlreadyOpen},
      {"another incarnation, owner silent", Ask('b', 'm'), OwnedBy(0, false), kNew},
      {"another by an operator", Ask('b', 'm', 0, true), OwnedBy(0, true), kNew},
      {"a retired one", Ask('b', 'm'), Retired(OwnedBy(0, false)), kFenced},
      {"a retired one by an operator", Ask('b', 'm', 9, true), Retired(OwnedBy(0, true)), kFenced},
      {"no version in common", Speaking(Ask('a', 'n'), 3, 9), OwnedBy(0, true), kProtocol},
      {"an earlier host", Speaking(Ask('a', 'n'), 0, 0), {}, kProtocol},
      {"an earlier host, retired", Speaking(Ask('a', 'n'), 0, 1), Retired({}), kProtocol},
      {"a range upside down", Speaking(Ask('a', 'n'), 3, 1), {}, kProtocol},
      {"the owner of an earlier moment", At(5, Ask('a', 'n')), Heard(60'000, OwnedBy(0, true)),
       kPast},
      {"the owner, overtaken by itself", At(59'000, Ask('a', 'n')), Heard(60'000, OwnedBy(0, true)),
       kSame},
      {"another process after a boot", At(5, Ask('a', 'm')), Heard(60'000, OwnedBy(0, false)),
       kNewNonce},
      {"a wide range", Speaking(Ask('a', 'n'), 1, 9), {}, kNew},
  };
  for (const Case& one : cases) {
    EXPECT_EQ(DecideOpen(one.request, one.known), one.expected) << one.claim;
  }
}

// --- The clock ----------------------------------------------------------------------------------

TEST(RunningClock, CountsTicksButNotTheTimeInWhichTheServerStoodStill) {
  nanoseconds now{seconds(1000)};
  RunningClock clock([&] { return now; });
  EXPECT_EQ(clock.Now(), milliseconds(0));
  for (int i = 0; i < 10; ++i) {
    now += RunningClock::kTickEvery;
    clock.Tick();
  }
  EXPECT_EQ(clock.Now(), 10 * RunningClock::kTickEvery);
  now += hours(5);
  clock.Tick();
  EXPECT_EQ(clock.Now(), 10 * RunningClock::kTickEvery + RunningClock::kStepMax);
  now -= hours(5);
  clock.Tick();
  EXPECT_EQ(clock.Now(), 10 * RunningClock::kTickEvery + RunningClock::kStepMax);
}

// --- Owners in a store --------------------------------------------------------------------------

class OwnerTest : public ::testing::Test {
 protected:
  OwnerTest() {
    Boot("boot-1");
    Reopen();
  }

  void Boot(const std::string& id) { std::ofstream(boot_id_path_) << id << "\n"; }

  PageStoreConfig Config() {
    return {.path = directory_.Path("s"),
            .capacity_bytes = 64 * kMiB,
            .block_cache_bytes = kMiB,
            .collect_garbage = false,
            .leases = {.owner_lease = seconds(10), .expire_after = minutes(60)},
            .clock = [this] { return now_; },
            .boot_id_path = boot_id_path_};
  }

  // The server runs for that long, looking after its volumes.
  void Run(nanoseconds span) {
    for (nanoseconds left = span; left.count() > 0; left -= RunningClock::kStepMax) {
      now_ += std::min<nanoseconds>(left, RunningClock::kStepMax);
      opened_->store->Tick();
    }
    opened_->store->ExpireSilent();
  }

  // Ends the server as SIGKILL does, as far as its store is concerned: a copy of its files.
  void Crash() {
    const std::string copy = directory_.Path("copy");
    std::filesystem::copy(directory_.Path("s"), copy);
    opened_.reset();
    std::filesystem::remove_all(directory_.Path("s"));
    std::filesystem::rename(copy, directory_.Path("s"));
  }

  void Reopen() {
    opened_.reset();
    opened_ = std::make_unique<OpenedStore>(Config());
  }

  VolumeInfo Info() { return opened_->store->Volumes().at(0); }

  ScratchDirectory directory_;
  const std::string boot_id_path_ = directory_.Path("boot_id");
  nanoseconds now_{seconds(1)};
  std::unique_ptr<OpenedStore> opened_;
};

TEST_F(OwnerTest, SameNonceGetsTheSameEpochAlsoFromAnotherRunOfTheServer) {
  const OpenedVolume first = opened_->Open(MakeOpen('a', 'n'));
  EXPECT_EQ(opened_->Open(MakeOpen('a', 'n')).epoch, first.epoch);
  Reopen();
  const OpenedVolume again = opened_->Open(MakeOpen('a', 'n'));
  EXPECT_EQ(again.status, OpenStatus::kOk);
  EXPECT_EQ(again.epoch, first.epoch);
  EXPECT_EQ(again.volume_id, first.volume_id);
}

TEST_F(OwnerTest, CloneIsRefusedWhileTheOwnerIsHeardAndServedWhenItIsSilent) {
  const OpenedVolume owner = opened_->Open(MakeOpen('a', 'n'));
  for (int i = 0; i < 5; ++i) {
    Run(seconds(9));
    EXPECT_EQ(opened_->store->Hear(owner.volume_id, owner.epoch, {}), CallStatus::kOk);
    const OpenedVolume refused = opened_->store->OpenVolume(MakeOpen('b', 'm'));
    EXPECT_EQ(refused.status, OpenStatus::kAlreadyOpen);
    EXPECT_TRUE(refused.has_other);
    EXPECT_EQ(refused.other.host_name, "host.example");
  }
  Run(seconds(11));
  const OpenedVolume clone = opened_->store->OpenVolume(MakeOpen('b', 'm'));
  EXPECT_EQ(clone.status, OpenStatus::kOk);
  EXPECT_FALSE(clone.has_other);
  EXPECT_NE(opened_->store->Hear(owner.volume_id, owner.epoch, {}), CallStatus::kOk);
  EXPECT_EQ(opened_->store->OpenVolume(MakeOpen('a', 'n')).status, OpenStatus::kFenced);
}

// Two machines run from one snapshot, or one runs from a snapshot again: the nonce is the same.
TEST_F(OwnerTest, MachineThatWasResumedFromASnapshotIsFencedAndTheOtherOneIsNot) {
  OpenRequest now = MakeOpen('a', 'n');
  now.boot_ms = 600'000;
  const OpenedVolume owner = opened_->Open(now);
  EXPECT_EQ(opened_->store->Hear(owner.volume_id, owner.epoch, {.boot_ms = 700'000}),
            CallStatus::kOk);
  OpenRequest resumed = MakeOpen('a', 'n');
  resumed.boot_ms = 650'000;
  EXPECT_EQ(opened_->store->OpenVolume(resumed).status, OpenStatus::kFenced);
  EXPECT_EQ(opened_->store->Hear(owner.volume_id, owner.epoch, {.boot_ms = 650'000}),
            CallStatus::kFenced);
  EXPECT_EQ(opened_->store->Hear(owner.volume_id, owner.epoch, {.boot_ms = 702'000}),
            CallStatus::kOk);
  now.boot_ms = 704'000;
  EXPECT_EQ(opened_->Open(now).epoch, owner.epoch);
}

TEST_F(OwnerTest, MachineThatBootedAgainIsOfNoPast) {
  OpenRequest before = MakeOpen('a', 'n');
  before.boot_ms = 600'000;
  opened_->Open(before);
  Run(seconds(11));
  OpenRequest after = MakeOpen('b', 'm');
  after.boot_ms = 20'000;
  const OpenedVolume owner = opened_->Open(after);
  EXPECT_EQ(opened_->store->Hear(owner.volume_id, owner.epoch, {.boot_ms = 22'000}),
            CallStatus::kOk);
}

TEST_F(OwnerTest, PageCallsAndProbesKeepNoOwnerAlive) {
  opened_->Open(MakeOpen('a', 'n'));
  OpenRequest probe = MakeOpen('a', 'n');
  probe.probe = true;
  for (int i = 0; i < 6; ++i) {
    Run(seconds(2));
    opened_->PutOne(1, static_cast<std::uint64_t>(i + 1));
    EXPECT_EQ(opened_->store->OpenVolume(probe).status, OpenStatus::kOk);
  }
  EXPECT_EQ(opened_->store->OpenVolume(MakeOpen('b', 'm')).status, OpenStatus::kOk);
}

TEST_F(OwnerTest, FrozenServerEmptiesNoLease) {
  opened_->Open(MakeOpen('a', 'n'));
  now_ += hours(3);
  opened_->store->Tick();
  EXPECT_EQ(opened_->store->OpenVolume(MakeOpen('b', 'm')).status, OpenStatus::kAlreadyOpen);
}

TEST_F(OwnerTest, EveryOwnerCountsAsHeardWhenTheServerStarts) {
  opened_->Open(MakeOpen('a', 'n'));
  Run(seconds(60));
  Reopen();
  const OpenedVolume refused = opened_->store->OpenVolume(MakeOpen('b', 'm'));
  EXPECT_EQ(refused.status, OpenStatus::kAlreadyOpen);
  EXPECT_EQ(refused.other.address, "10.0.0.7");
  Run(seconds(11));
  EXPECT_EQ(opened_->store->OpenVolume(MakeOpen('b', 'm')).status, OpenStatus::kOk);
}

TEST_F(OwnerTest, ProbeAnswersAsAnOpenWouldAndChangesNothing) {
  const auto probe = [&](OpenRequest request) {
    request.probe = true;
    return opened_->store->OpenVolume(request);
  };
  EXPECT_EQ(probe(MakeOpen('a', 'n')).status, OpenStatus::kOk);
  EXPECT_TRUE(opened_->store->Volumes().empty());
  const OpenedVolume owner = opened_->Open(MakeOpen('a', 'n'));
  EXPECT_EQ(probe(MakeOpen('b', 'm')).status, OpenStatus::kAlreadyOpen);
  OpenRequest take_over = MakeOpen('b', 'm');
  take_over.take_over = true;
  const OpenedVolume would = probe(take_over);
  EXPECT_EQ(would.status, OpenStatus::kOk);
  EXPECT_TRUE(would.has_other) << "whom it would displace";
  EXPECT_EQ(opened_->store->Hear(owner.volume_id, owner.epoch, {}), CallStatus::kOk);
  EXPECT_EQ(opened_->store->Volumes().size(), 1u);
  EXPECT_TRUE(opened_->store->TakeOwnerEvents().empty());
}

TEST_F(OwnerTest, TakeOverIsReportedWithBothNames) {
  opened_->Open(MakeOpen('a', 'n'));
  OpenRequest take_over = MakeOpen('b', 'm');
  take_over.take_over = true;
  take_over.owner.host_name = "other.example";
  EXPECT_EQ(opened_->store->OpenVolume(take_over).status, OpenStatus::kOk);
  const std::vector<OwnerEvent> events = opened_->store->TakeOwnerEvents();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, OwnerEvent::Kind::kDisplaced);
  EXPECT_EQ(events[0].before.host_name, "host.example");
  EXPECT_EQ(events[0].after.host_name, "other.example");
  EXPECT_TRUE(opened_->store->TakeOwnerEvents().empty());
}

TEST_F(OwnerTest, StandbyWithAHigherCountKeepsThePagesAndFencesTheFirstForGood) {
  const OpenedVolume first = opened_->Open(MakeOpen('a', 'n'));
  opened_->PutOne(1, 1);
  OpenRequest standby = MakeOpen('a', 'm');
  EXPECT_EQ(opened_->store->OpenVolume(standby).status, OpenStatus::kAlreadyOpen);
  standby.owner.takeover_count = 1;
  const OpenedVolume second = opened_->Open(standby);
  EXPECT_GT(second.epoch, first.epoch);
  EXPECT_EQ(second.volume_id, first.volume_id);
  EXPECT_EQ(opened_->GetOne(1).status, ObjectStatus::kOk);
  Reopen();
  Run(seconds(11));
  EXPECT_EQ(opened_->store->OpenVolume(MakeOpen('a', 'n')).status, OpenStatus::kFenced);
}

TEST_F(OwnerTest, ClosedVolumeIsFreeForAnotherIncarnationAtOnce) {
  const OpenedVolume owner = opened_->Open(MakeOpen('a', 'n'));
  opened_->store->CloseVolume(owner.volume_id, owner.epoch).ok();
  EXPECT_EQ(opened_->store->OpenVolume(MakeOpen('b', 'm')).status, OpenStatus::kOk);
}

// --- Silence ------------------------------------------------------------------------------------

TEST_F(OwnerTest, VolumeOfASilentHostExpiresByTheTimeThatServersRan) {
  opened_->Open(MakeOpen('a', 'n'));
  opened_->PutOne(1, 1);
  Run(minutes(30));
  EXPECT_EQ(Info().expires_in, minutes(30));
  now_ += hours(1000);  // the machine is off
  Crash();
  Reopen();
  EXPECT_EQ(Info().silence, minutes(30));
  Run(minutes(29));
  EXPECT_FALSE(Info().garbage);
  EXPECT_TRUE(opened_->store->TakeOwnerEvents().empty());
  Run(minutes(1));
  EXPECT_TRUE(Info().garbage);
  EXPECT_EQ(opened_->store->used_bytes(), 0u);
  EXPECT_EQ(opened_->Stat("volumes_expired"), 1u);
  const std::vector<OwnerEvent> events = opened_->store->TakeOwnerEvents();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, OwnerEvent::Kind::kExpired);
  EXPECT_EQ(events[0].before.host_name, "host.example");
  EXPECT_EQ(opened_->store->OpenVolume(MakeOpen('a', 'n')).status, OpenStatus::kFenced);
}

TEST_F(OwnerTest, HeardHostStartsItsSilenceFromZeroAlsoForTheNextRun) {
  const OpenedVolume owner = opened_->Open(MakeOpen('a', 'n'));
  Run(minutes(50));
  Reopen();
  EXPECT_EQ(opened_->store->Hear(owner.volume_id, owner.epoch, {}), CallStatus::kOk);
  EXPECT_EQ(Info().silence, milliseconds(0));
  Run(seconds(1));
  Reopen();
  EXPECT_EQ(Info().silence, milliseconds(0));
}

TEST_F(OwnerTest, WithoutExpiryASilentVolumeStays) {
  PageStoreConfig config = Config();
  config.leases.expire_after = minutes(0);
  opened_.reset();
  opened_ = std::make_unique<OpenedStore>(config);
  opened_->Open(MakeOpen('a', 'n'));
  Run(hours(100));
  EXPECT_FALSE(Info().garbage);
  EXPECT_FALSE(Info().expires_in);
}

// --- Identity -----------------------------------------------------------------------------------

TEST_F(OwnerTest, StoreKeepsItsUuidAndEachRunHasItsOwnId) {
  const Id uuid = opened_->store->uuid();
  const Id run_id = opened_->store->run_id();
  EXPECT_NE(uuid, run_id);
  Reopen();
  EXPECT_EQ(opened_->store->uuid(), uuid);
  EXPECT_NE(opened_->store->run_id(), run_id);
}

TEST_F(OwnerTest, PagesMayBeMissingOnlyIfTheMachineRestartedWithoutAClose) {
  opened_->Open(MakeOpen('a', 'n'));
  Crash();
  Reopen();
  EXPECT_TRUE(opened_->Open(MakeOpen('a', 'n')).intact) << "the process alone crashed";
  Boot("boot-2");
  Reopen();
  EXPECT_TRUE(opened_->Open(MakeOpen('a', 'n')).intact) << "it was closed";
  Crash();
  Boot("boot-3");
  Reopen();
  EXPECT_FALSE(opened_->Open(MakeOpen('a', 'n')).intact);
}

TEST_F(OwnerTest, NoBootIsTheSameAsOneThatIsNotKnown) {
  opened_->Open(MakeOpen('a', 'n'));
  Boot("");
  Crash();
  Reopen();
  EXPECT_FALSE(opened_->Open(MakeOpen('a', 'n')).intact);
  Crash();
  Reopen();
  EXPECT_FALSE(opened_->Open(MakeOpen('a', 'n')).intact);
}

TEST_F(OwnerTest, MissingPagesAreReportedUntilTheOwnerIsHeardAfterIt) {
  const OpenedVolume owner = opened_->Open(MakeOpen('a', 'n'));
  Crash();
  Boot("boot-2");
  Reopen();
  Reopen();  // closed and started again, before the host came
  OpenRequest probe = MakeOpen('a', 'n');
  probe.probe = true;
  EXPECT_FALSE(opened_->store->OpenVolume(probe).intact);
  EXPECT_EQ(opened_->store->Hear(owner.volume_id, owner.epoch, {}), CallStatus::kOk);
  EXPECT_FALSE(opened_->Open(MakeOpen('a', 'n')).intact) << "the owner was not yet informed";
  EXPECT_FALSE(opened_->Open(MakeOpen('a', 'n')).intact) << "the answer may be lost";
  EXPECT_EQ(opened_->store->Hear(owner.volume_id, owner.epoch, {}), CallStatus::kOk);
  EXPECT_TRUE(opened_->Open(MakeOpen('a', 'n')).intact);
  Reopen();
  EXPECT_TRUE(opened_->Open(MakeOpen('a', 'n')).intact);
}

TEST_F(OwnerTest, NewIncarnationMissesNothing) {
  opened_->Open(MakeOpen('a', 'n'));
  Crash();
  Boot("boot-2");
  Reopen();
  Run(seconds(11));
  EXPECT_TRUE(opened_->Open(MakeOpen('b', 'm')).intact);
}

}  // namespace
}  // namespace farswap::store
