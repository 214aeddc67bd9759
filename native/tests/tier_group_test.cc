// Groups of pages by cgroup: whose a page is, and cgroups that come and go.
#include <atomic>
#include <utility>

#include "tier_fixture.h"

namespace farswap::tier {
namespace {

constexpr CgroupId kA = 101;
constexpr CgroupId kB = 102;
constexpr CgroupId kChild = 103;

std::atomic<std::uint32_t> test_time{1'000'000};
std::uint32_t TestTime() { return test_time; }

class TierGroup : public TierFixture {};

TEST_F(TierGroup, PagesBelongToTheCgroupOfTheirSlotsWord) {
  StartWithWords();
  SwapOut(1, kA);
  SwapOut(2, kB);
  SwapOut(3, kA, 1, PageKind::kSameFilled);
  EXPECT_EQ(OwnerOf(1), kA);
  EXPECT_EQ(OwnerOf(2), kB);
  EXPECT_EQ(OwnerOf(3), kA);
  EXPECT_EQ(OwnerOf(4), kUnknownCgroup);
  EXPECT_EQ(GroupOf(kA).pages.local, 1u);
  EXPECT_EQ(GroupOf(kA).pages.same_filled, 1u);
  EXPECT_EQ(GroupOf(kB).pages.held(), 1u);
  EXPECT_EQ(tier_->Explain(2).cgroup, kB);
}

TEST_F(TierGroup, AnOverwriteByAnotherCgroupMovesThePage) {
  StartWithWords();
  SwapOut(1, kA);
  SwapOut(1, kB, 2);
  EXPECT_EQ(OwnerOf(1), kB);
  EXPECT_EQ(GroupOf(kA).pages.held(), 0u);
  EXPECT_EQ(GroupOf(kA).pool_bytes, 0u);
  EXPECT_EQ(CountOf(kA, Counter::overwrites), 1u);
}

TEST_F(TierGroup, WithoutAWordThatChangedTheLabelDecides) {
  StartWithWords();
  StoreKind(1, 1, PageKind::kCompressible);
  EXPECT_EQ(OwnerOf(1), kUnknownCgroup);
  EXPECT_EQ(Count(Counter::stores_unattributed), 1u);
  tier_->SetLabel(kB);
  SwapOut(2, kA);
  StoreKind(2, 2, PageKind::kCompressible);  // not seen by the kernel's hook
  EXPECT_EQ(OwnerOf(2), kB);
  tier_->UseSlotWords(nullptr);
  StoreKind(3, 1, PageKind::kCompressible);
  EXPECT_EQ(OwnerOf(3), kB);
}

TEST_F(TierGroup, WordsThatStartOverAttributeAsBefore) {
  StartWithWords();
  SwapOut(1, kA);
  SwapOut(2, kA);
  tier_->Invalidate(1, 1);
  const auto earlier = std::exchange(words_, std::vector<std::atomic<SlotWord>>(16384));
  UseWords();
  SwapOut(1, kB);
  SwapOut(2, kB, 2);
  EXPECT_EQ(OwnerOf(1), kB);
  EXPECT_EQ(OwnerOf(2), kB);
}

TEST_F(TierGroup, WordsOfAnEarlierTierAttributeWhateverTheirSequence) {
  Start();
  for (SlotIndex slot = 0; slot < 600; ++slot) {
    for (SlotIndex writes = 0; writes < slot; ++writes) KernelWrites(slot, kA);
    if (slot % 2 == 0) KernelFrees(slot);
  }
  UseWords();
  for (SlotIndex slot = 0; slot < 600; ++slot) {
    SwapOut(slot, kB);
    ASSERT_EQ(OwnerOf(slot), kB) << slot;
  }
}

TEST_F(TierGroup, AWriteOnItsWayWhenWordsComeIntoUseIsAttributed) {
  Start();
  KernelWrites(1, kA);
  UseWords();
  StoreKind(1, 1, PageKind::kCompressible);
  EXPECT_EQ(OwnerOf(1), kA);
}

TEST_F(TierGroup, OnlyStoresWithoutAnOwnerCountAsUnattributed) {
  StartWithWords();
  ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
  tier_->RemoveCgroup(kA);
  KernelWrites(0, kA);
  StoreKind(0, 1, PageKind::kRandom);  // the root group's, since the cgroup is gone
  EXPECT_EQ(Count(Counter::stores_unattributed), 0u);
  KernelWrites(1, kUnknownCgroup);
  StoreKind(1, 1, PageKind::kRandom);
  StoreKind(2, 1, PageKind::kRandom);
  EXPECT_EQ(Count(Counter::stores_unattributed), 2u);
}

TEST_F(TierGroup, FreesOfSlotsThatHoldNothingDoNotHideTheNextWrite) {
  StartWithWords();
  for (int frees = 1; frees < 600; ++frees) {  // of pages that the kernel never wrote
    KernelFrees(1);
    EXPECT_FALSE(tier_->OnSlotFree(1));
    if (frees % 256 != 255) continue;
    SwapOut(1, kA);
    ASSERT_EQ(OwnerOf(1), kA) << frees;
    KernelFrees(1);
    ASSERT_TRUE(tier_->OnSlotFree(1));
  }
}

TEST_F(TierGroup, TheRootCgroupsPagesAreTheRootGroups) {
  StartWithWords();
  ASSERT_TRUE(tier_->PlaceCgroup(1, 1));
  SwapOut(1, 1);
  ASSERT_EQ(tier_->CgroupStats().size(), 1u);
  EXPECT_EQ(tier_->CgroupStats()[0].id, 1u);
  EXPECT_EQ(tier_->CgroupStats()[0].pages.local, 1u);
  EXPECT_FALSE(tier_->PlaceCgroup(1, 7));
}

TEST_F(TierGroup, TheRootCgroupCanBeNamedAfterItsFirstPages) {
  StartWithWords();
  SwapOut(1, 1);
  EXPECT_EQ(tier_->CgroupStats().size(), 2u);
  ASSERT_TRUE(tier_->PlaceCgroup(1, 1));
  EXPECT_FALSE(tier_->PlaceCgroup(2, 2)) << "there is one root";
  EXPECT_EQ(tier_->CgroupStats().size(), 1u);
  EXPECT_EQ(OwnerOf(1), 1u);
  SwapOut(2, 1);
  EXPECT_EQ(tier_->CgroupStats()[0].pages.local, 2u);
}

TEST_F(TierGroup, CgroupsArePlacedTopDownAndOnce) {
  StartWithWords();
  EXPECT_FALSE(tier_->PlaceCgroup(kChild, kA)) << "its parent was not placed";
  SwapOut(1, kChild);
  EXPECT_FALSE(GroupOf(kChild).placed);
  ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
  ASSERT_TRUE(tier_->PlaceCgroup(kChild, kA));
  ASSERT_TRUE(tier_->PlaceCgroup(kChild, kA)) << "again";
  EXPECT_FALSE(tier_->PlaceCgroup(kChild, kUnknownCgroup)) << "it is elsewhere";
  EXPECT_EQ(GroupOf(kChild).parent, kA);
  EXPECT_EQ(GroupOf(kA).tree_pool_bytes, GroupOf(kChild).pool_bytes);
  tier_->Invalidate(1, 1);
  EXPECT_EQ(GroupOf(kA).tree_pool_bytes, 0u);
}

// --- The slot-free rule

TEST_F(TierGroup, AFreedSlotsPageIsForgotten) {
  StartWithWords();
  SwapOut(1, kA);
  KernelFrees(1);
  EXPECT_TRUE(tier_->OnSlotFree(1));
  EXPECT_EQ(StateOf(1), "empty");
  EXPECT_EQ(CountOf(kA, Counter::early_frees), 1u);
  EXPECT_FALSE(tier_->OnSlotFree(1)) << "nothing is left";
}

TEST_F(TierGroup, ANoticeThatComesAfterTheNextWriteKeepsThePage) {
  StartWithWords();
  SwapOut(1, kA);
  KernelFrees(1);
  SwapOut(1, kB, 2);
  EXPECT_FALSE(tier_->OnSlotFree(1));
  EXPECT_EQ(Read(1), MakePage(1, 2, PageKind::kCompressible));
  EXPECT_EQ(CountOf(kB, Counter::early_frees_kept), 1u);
}

TEST_F(TierGroup, ANoticeBetweenTheKernelsWriteAndOurStoreKeepsThePage) {
  StartWithWords();
  SwapOut(1, kA);
  KernelFrees(1);
  KernelWrites(1, kA);  // and its request is on its way
  EXPECT_FALSE(tier_->OnSlotFree(1));
  EXPECT_EQ(StoreKind(1, 2, PageKind::kCompressible), IoStatus::kOk);
  EXPECT_FALSE(tier_->OnSlotFree(1));
  EXPECT_EQ(Read(1), MakePage(1, 2, PageKind::kCompressible));
}

TEST_F(TierGroup, APageWhoseStoreSawTheSlotFreeAlreadyIsKept) {
  StartWithWords();
  SwapOut(1, kA);
  KernelFrees(1);
  // This write was not seen; the word does not show whether the free was before or after it.
  StoreKind(1, 2, PageKind::kCompressible);
  EXPECT_FALSE(tier_->OnSlotFree(1));
  EXPECT_EQ(Read(1), MakePage(1, 2, PageKind::kCompressible));
}

TEST_F(TierGroup, OfPagesFromBeforeTheWordsOnlyThoseFreedSinceAreForgotten) {
  Start();
  KernelWrites(1, kA);
  KernelWrites(2, kA);
  KernelFrees(2);
  for (SlotIndex slot = 1; slot <= 3; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  UseWords();
  EXPECT_FALSE(tier_->OnSlotFree(2)) << "its owner and the time of its store are unknown";
  for (SlotIndex slot = 1; slot <= 3; slot += 2) {
    EXPECT_FALSE(tier_->OnSlotFree(slot));
    KernelFrees(slot);
    EXPECT_TRUE(tier_->OnSlotFree(slot));
  }
}

TEST_F(TierGroup, FreedSlotsThatAreRemoteAreDiscarded) {
  StartWithWords();
  SwapOut(1, kA);
  WriteBack(1);
  ASSERT_TRUE(remote_.Has(1));
  EXPECT_EQ(GroupOf(kA).tree_remote_pages, 1u);
  KernelFrees(1);
  EXPECT_TRUE(tier_->OnSlotFree(1));
  EXPECT_TRUE(Eventually([&] { return !remote_.Has(1); }));
  EXPECT_EQ(GroupOf(kA).tree_remote_pages, 0u);
}

// --- Cgroups that go away

TEST_F(TierGroup, ARemovedCgroupsPagesGoToItsParent) {
  StartWithWords();
  ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
  ASSERT_TRUE(tier_->PlaceCgroup(kChild, kA));
  SwapOut(1, kA);
  SwapOut(2, kChild);
  SwapOut(3, kChild, 1, PageKind::kSameFilled);
  SwapOut(4, kChild);
  const std::uint64_t bytes = GroupOf(kA).tree_pool_bytes;
  tier_->RemoveCgroup(kChild);
  EXPECT_FALSE(Exists(kChild));
  EXPECT_EQ(GroupOf(kA).pages.local, 3u);
  EXPECT_EQ(GroupOf(kA).pages.same_filled, 1u);
  EXPECT_EQ(GroupOf(kA).pool_bytes, bytes);
  EXPECT_EQ(OwnerOf(3), kA);
  SwapOut(5, kChild);
  EXPECT_EQ(OwnerOf(5), kA) << "pages still come from a cgroup that is gone";
  WriteBack(4);
  EXPECT_EQ(GroupOf(kA).pages.remote, 4u) << "none became unreclaimable";
  tier_->RemoveCgroup(kA);
  EXPECT_EQ(OwnerOf(2), kUnknownCgroup);
  SwapOut(6, kChild);
  EXPECT_EQ(OwnerOf(6), kUnknownCgroup) << "its parent is gone too";
}

TEST_F(TierGroup, ARemovedCgroupsPagesAreTheColdestOfItsParent) {
  StartWithWords();
  ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
  ASSERT_TRUE(tier_->PlaceCgroup(kChild, kA));
  SwapOut(1, kA);
  SwapOut(2, kChild);
  SwapOut(3, kChild);
  tier_->RemoveCgroup(kChild);
  WriteBack(3);
  EXPECT_EQ(remote_.put_order(), (std::vector<SlotIndex>{2, 3, 1}));
}

TEST_F(TierGroup, APageOnItsWayWhileItsCgroupGoesArrives) {
  StartWithWords();
  ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
  for (SlotIndex slot = 0; slot < 8; ++slot) SwapOut(slot, kA);
  remote_.Hold();
  StartWriteback(8);
  remote_.WaitForHeld(1);
  tier_->RemoveCgroup(kA);
  tier_->Invalidate(0, 1);
  remote_.Release();
  ASSERT_TRUE(Eventually([&] { return tier_->ManualWritebackProgress().finished; }));
  EXPECT_EQ(tier_->CgroupStats()[0].pages.remote, 7u);
  EXPECT_EQ(tier_->CgroupStats()[0].pool_bytes, 0u);
}

TEST_F(TierGroup, AJobForACgroupThatIsGoneTouchesNothing) {
  Start();
  ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
  tier_->SetLabel(kA);
  for (SlotIndex slot = 0; slot < 20; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  tier_->RemoveCgroup(kA);
  RunJob({.bytes = 20 * kPageBytes, .cgroup = kA});
  tier_->WriteBackProactively(kA, 20, 0);
  tier_->WriteBackProactively(kUnknownCgroup, 1, 0);  // served after it
  ASSERT_TRUE(Eventually([this] { return remote_.pages() > 0; }));
  AwaitAnswers();
  EXPECT_EQ(remote_.pages(), 1u) << "its pages are the parent's now, which was not requested";
}

TEST_F(TierGroup, AnIdThatIsGivenOutAgainIsAnotherCgroup) {
  StartWithWords();
  ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
  SwapOut(1, kA);
  tier_->RemoveCgroup(kA);
  ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
  SwapOut(2, kA);
  EXPECT_EQ(OwnerOf(1), kUnknownCgroup);
  EXPECT_EQ(OwnerOf(2), kA);
}

TEST_F(TierGroup, ThousandsOfCgroupsLeaveNothingBehind) {
  constexpr CgroupId kCgroups = 6000;  // more than there are indices
  StartWithWords();
  for (CgroupId id = 1000; id < 1000 + kCgroups; ++id) {
    const auto slot = static_cast<SlotIndex>(id % 16384);
    SwapOut(slot, id);
    ASSERT_TRUE(tier_->PlaceCgroup(id, kUnknownCgroup));
    tier_->RemoveCgroup(id);
  }
  EXPECT_TRUE(Eventually([&] { return tier_->CgroupStats().size() == 1; }));
  EXPECT_EQ(tier_->CgroupStats()[0].pages.held(), kCgroups);
  // Every index can be used again.
  EXPECT_TRUE(Eventually([&] { return tier_->PlaceCgroup(500, kUnknownCgroup); }));
}

TEST_F(TierGroup, MoreCgroupsThanThereIsRoomForShareTheRootGroup) {
  StartWithWords();
  for (CgroupId id = 1000; id < 6000; ++id) SwapOut(id, id);
  EXPECT_EQ(tier_->CgroupStats().size(), 4096u);
  EXPECT_EQ(tier_->CgroupStats()[0].pages.held(), 5000u - 4095u);
  EXPECT_FALSE(tier_->PlaceCgroup(9000, kUnknownCgroup));
}

// --- Proactive writeback

class TierAge : public TierGroup {
 protected:
  TierAge() { config_.boot_seconds = &TestTime; }
};

TEST_F(TierAge, OnlyPagesThatAreOldEnoughGo) {
  StartWithWords();
  for (SlotIndex slot = 0; slot < 10; ++slot) SwapOut(slot, kA);
  test_time += 600;
  for (SlotIndex slot = 10; slot < 20; ++slot) SwapOut(slot, kA);
  RunJob({.bytes = 1 << 20, .older_than_s = 300});
  EXPECT_EQ(GroupOf(kA).pages.remote, 10u);
  EXPECT_TRUE(remote_.Has(9));
  EXPECT_FALSE(remote_.Has(10));
}

TEST_F(TierAge, AJobForACgroupTakesItsDescendantsAlone) {
  StartWithWords();
  ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
  ASSERT_TRUE(tier_->PlaceCgroup(kChild, kA));
  SwapOut(1, kA);
  SwapOut(2, kChild);
  SwapOut(3, kB);
  RunJob({.bytes = 1 << 20, .cgroup = kA});
  EXPECT_EQ(remote_.pages(), 2u);
  EXPECT_FALSE(remote_.Has(3));
}

TEST_F(TierAge, ProactiveWritebackTakesThatCgroupsOwnColdest) {
  StartWithWords();
  for (SlotIndex slot = 0; slot < 20; ++slot) SwapOut(slot, slot % 2 ? kA : kB);
  tier_->WriteBackProactively(kA, 5, 0);
  ASSERT_TRUE(Eventually([&] { return GroupOf(kA).pages.remote == 5; }));
  EXPECT_EQ(CountOf(kA, Counter::writeback_started_shrinker), 5u);
  test_time += 100;
  tier_->WriteBackProactively(kB, 100, 60);
  ASSERT_TRUE(Eventually([&] { return GroupOf(kB).pages.remote == 10; }));
  EXPECT_EQ(CountOf(kB, Counter::writeback_started_age), 10u);
  EXPECT_EQ(GroupOf(kA).pages.remote, 5u);
}

// --- Compressors

TEST_F(TierGroup, CompressorsSwitchAndOldEntriesStayReadable) {
  StartWithWords();
  SwapOut(1, kA);
  tier_->SetCompressor({Codec::kZstd, 3});
  SwapOut(2, kA);
  GroupSettings settings;
  settings.compressor = Compressor{Codec::kLz4, 8};
  ASSERT_TRUE(tier_->ConfigureCgroup(kB, settings));
  SwapOut(3, kB);
  EXPECT_EQ(tier_->Explain(1).codec, Codec::kLz4);
  EXPECT_EQ(tier_->Explain(2).codec, Codec::kZstd);
  EXPECT_EQ(tier_->Explain(3).codec, Codec::kLz4);
  for (SlotIndex slot = 1; slot <= 3; ++slot) {
    EXPECT_EQ(Read(slot), MakePage(slot, 1, PageKind::kCompressible));
  }
}

TEST_F(TierGroup, ColdEntriesAreRecompressedOnTheirWay) {
  StartWithWords();
  tier_->SetRecompression(Compressor{Codec::kZstd, 3});
  for (SlotIndex slot = 0; slot < 10; ++slot) SwapOut(slot, kA);
  const std::uint32_t local_bytes = tier_->Explain(3).size_bytes;
  WriteBack(10);
  EXPECT_EQ(Count(Counter::recompressed), 10u);
  EXPECT_EQ(tier_->Explain(3).codec, Codec::kZstd);
  EXPECT_LT(tier_->Explain(3).size_bytes, local_bytes);
  for (SlotIndex slot = 0; slot < 10; ++slot) {
    EXPECT_EQ(Read(slot), MakePage(slot, 1, PageKind::kCompressible));
  }
}

}  // namespace
}  // namespace farswap::tier
