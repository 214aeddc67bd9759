// The rules of identity and of opening, without servers and without a clock.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "remote/members.h"
#include "remote/opening_gate.h"

namespace farswap::remote {
namespace {

using std::chrono::milliseconds;
using Standing = Members::Standing;

ServerId Id(int number) {
  ServerId id{};
  std::memcpy(id.data(), &number, sizeof(number));
  return id;
}

constexpr milliseconds kMoveWait{10000};

class MembersTest : public ::testing::Test {
 protected:
  MembersTest() { List({"a:1", "b:1", "c:1"}); }
  std::vector<std::size_t> List(const std::vector<std::string>& addresses,
                                std::size_t sessions_max = 256) {
    return members_.List(addresses, sessions_max);
  }
  Members::Answer Claim(std::size_t session, int uuid, int run) {
    return members_.Claim(session, members_.AddressOf(session), Id(uuid), Id(run), now_);
  }
  void Silence(std::size_t session) { members_.NoteSilent(session, now_); }

  // Of a process that dies now; addresses by session.
  struct Successor {
    std::unique_ptr<Members> members;
    std::vector<MemberIndex> gone{};
    std::vector<std::string> addresses{};
  };
  Successor Die(const std::set<MemberIndex>& named) {
    Successor next{.members = std::make_unique<Members>(kMoveWait, "rack", records_)};
    auto gone = next.members->Recover(named, now_);
    EXPECT_TRUE(gone.ok());
    if (gone.ok()) next.gone = gone.value();
    for (const std::size_t session : next.members->List({}, 256)) {
      next.addresses.push_back(next.members->AddressOf(session));
    }
    return next;
  }

  std::vector<tier::MemberRecord> records_ = std::vector<tier::MemberRecord>(Members::kMembersMax);
  Members members_{kMoveWait, "rack", records_};
  TimePoint now_{};
};

TEST_F(MembersTest, StoresAreNumberedAsTheyAreFirstSeenAndKeepTheirNumber) {
  EXPECT_EQ(Claim(1, 7, 1).member, 0);
  EXPECT_EQ(Claim(0, 8, 2).member, 1);
  EXPECT_EQ(Claim(1, 7, 3).member, 0);
  EXPECT_EQ(members_.SessionOf(0), 1u);
  EXPECT_EQ(members_.SessionOf(1), 0u);
}

TEST_F(MembersTest, SecondNameIsADuplicateAlsoWhileTheFirstOnlyOpens) {
  Claim(0, 7, 1);
  const Members::Answer answer = Claim(1, 7, 1);
  EXPECT_EQ(answer.standing, Standing::kDuplicate);
  EXPECT_EQ(answer.other_address, "a:1");
  EXPECT_EQ(members_.SessionOf(0), 0u);
}

TEST_F(MembersTest, SilentServerThatRunsOnIsTakenAtItsOtherAddressAtOnce) {
  Claim(0, 7, 1);
  Silence(0);
  EXPECT_EQ(Claim(1, 7, 1).standing, Standing::kMoved);
  EXPECT_EQ(members_.AddressOf(0), "b:1");
  EXPECT_EQ(members_.AddressOf(1), "a:1");
  EXPECT_EQ(Claim(0, 7, 1).standing, Standing::kAccepted);
}

TEST_F(MembersTest, RestartedServerIsTakenAtAnotherAddressOnceItsFirstHasBeenSilentForAWhile) {
  Claim(0, 7, 1);
  Silence(0);
  now_ += kMoveWait - milliseconds(1);
  EXPECT_EQ(Claim(1, 7, 2).standing, Standing::kSilent);
  now_ += milliseconds(1);
  EXPECT_EQ(Claim(1, 7, 2).standing, Standing::kMoved);
}

TEST_F(MembersTest, CopyIsNeverTakenForTheStoreWhoseServerRestarts) {
  Claim(0, 7, 1);
  EXPECT_EQ(Claim(1, 7, 2).standing, Standing::kClone);
  Silence(0);
  now_ += 2 * kMoveWait;
  EXPECT_EQ(Claim(1, 7, 2).standing, Standing::kClone);
  EXPECT_EQ(Claim(0, 7, 3).standing, Standing::kAccepted);
}

TEST_F(MembersTest, AnotherStoreTakesThePlaceOfTheFirst) {
  Claim(0, 7, 1);
  const Members::Answer answer = Claim(0, 8, 2);
  EXPECT_EQ(answer.standing, Standing::kAccepted);
  EXPECT_EQ(answer.member, 1);
  EXPECT_EQ(answer.gone, 0);
  EXPECT_FALSE(members_.SessionOf(0));
  EXPECT_EQ(members_.SessionOf(1), 0u);
}

TEST_F(MembersTest, StoreThatComesBackKeepsItsNumber) {
  Claim(0, 7, 1);
  Claim(0, 8, 2);
  EXPECT_EQ(Claim(1, 7, 3).member, 0);
  EXPECT_EQ(members_.SessionOf(0), 1u);
}

TEST_F(MembersTest, TwoServersThatExchangedTheirAddressesAreBothFound) {
  Claim(0, 7, 1);
  Claim(1, 8, 1);
  Silence(0);
  Silence(1);
  EXPECT_EQ(Claim(0, 8, 1).standing, Standing::kMoved);
  EXPECT_EQ(Claim(0, 7, 1).standing, Standing::kAccepted);
  EXPECT_EQ(Claim(1, 8, 1).standing, Standing::kAccepted);
  EXPECT_EQ(members_.AddressOf(0), "b:1");
}

TEST_F(MembersTest, AnswerAtAnAddressThatTheSessionLeftCountsForNothing) {
  Claim(0, 7, 1);
  Silence(0);
  ASSERT_EQ(Claim(1, 7, 1).standing, Standing::kMoved);
  EXPECT_EQ(members_.Claim(0, "a:1", Id(9), Id(1), now_).standing, Standing::kStale);
  EXPECT_EQ(members_.SessionOf(0), 0u);
}

TEST_F(MembersTest, ThereAreAsManyMembersAsAShardCanName) {
  for (int uuid = 0; uuid < static_cast<int>(Members::kMembersMax); ++uuid) {
    ASSERT_EQ(Claim(0, uuid + 1, 1).standing, Standing::kAccepted);
  }
  EXPECT_EQ(Claim(0, 5000, 1).standing, Standing::kTooMany);
}

using Addresses = std::vector<std::string>;
using Indexes = std::vector<MemberIndex>;

TEST_F(MembersTest, SuccessorKnowsAMemberAsSoonAsItIsClaimed) {
  Claim(1, 7, 1);
  const Successor next = Die({0});
  ASSERT_EQ(next.addresses, Addresses{"b:1"});
  EXPECT_EQ(next.members->SessionOf(0), 0u);
  EXPECT_EQ(next.members->MemberOf(Id(7)), 0);
  EXPECT_FALSE(next.members->IsIdle(0));
  EXPECT_EQ(next.members->Claim(0, "b:1", Id(7), Id(2), now_).standing, Standing::kAccepted);
  EXPECT_EQ(next.members->List(Addresses{"b:1", "d:1"}, 256), std::vector<std::size_t>{1});
}

TEST_F(MembersTest, SuccessorFindsMembersWhereTheyWereLast) {
  Claim(0, 7, 1);
  Claim(1, 8, 1);
  Silence(0);
  Silence(1);
  ASSERT_EQ(Claim(0, 8, 1).standing, Standing::kMoved);
  EXPECT_EQ(Die({0, 1}).addresses, (Addresses{"b:1", "a:1"}));
  Claim(2, 9, 1);
  Silence(2);
  Silence(0);
  ASSERT_EQ(Claim(2, 7, 1).standing, Standing::kMoved);
  EXPECT_EQ(Die({0, 1, 2}).addresses, (Addresses{"c:1", "a:1", "b:1"}));
}

TEST_F(MembersTest, SuccessorHasNoSessionsForMembersWithoutShardsThatKeepTheirNumbers) {
  Claim(0, 7, 1);
  Claim(1, 8, 1);
  const Successor next = Die({1});
  ASSERT_EQ(next.addresses, Addresses{"b:1"});
  next.members->List(Addresses{"a:1"}, 256);
  EXPECT_EQ(next.members->Claim(1, "a:1", Id(7), Id(1), now_).member, 0);
  EXPECT_EQ(Die({0, 1}).gone, Indexes{});
}

TEST_F(MembersTest, SuccessorLearnsWhichStoresAreGoneOrRemoved) {
  Claim(0, 7, 1);
  Claim(0, 8, 2);
  Claim(1, 9, 1);
  Silence(1);
  members_.Remove(Id(9), true);
  const Successor next = Die({0, 1, 2});
  ASSERT_EQ(next.addresses, Addresses{"a:1"});
  EXPECT_EQ(next.gone, (Indexes{0, 2}));
  EXPECT_EQ(next.members->Claim(0, "a:1", Id(9), Id(1), now_).standing, Standing::kRemoved);
}

TEST_F(MembersTest, AShardOnAMemberThatWasNeverRecordedIsDamage) {
  Claim(0, 7, 1);
  EXPECT_FALSE(Members(kMoveWait, "rack", records_).Recover({0, 1}, now_).ok());
}

TEST_F(MembersTest, AnAddressHasOneSession) {
  using Numbers = std::vector<std::size_t>;
  EXPECT_EQ(List({"d:1", "a:1", "b:1", "c:1", "d:1"}), Numbers{3});
  EXPECT_EQ(List({"d:1", "a:1", "b:1", "c:1"}), Numbers{});
  EXPECT_EQ(Claim(3, 1, 1).member, 0);
}

TEST_F(MembersTest, SessionWithoutAMemberIsIdleWhileItsAddressIsNotListed) {
  using Numbers = std::vector<std::size_t>;
  Claim(0, 7, 1);
  EXPECT_EQ(List({"c:1"}), Numbers{});
  EXPECT_FALSE(members_.IsIdle(0)) << "it has pages";
  EXPECT_TRUE(members_.IsIdle(1));
  EXPECT_FALSE(members_.IsIdle(2));
  EXPECT_EQ(List({"a:1", "b:1", "c:1"}), Numbers{1}) << "and only it tries its address again";
  EXPECT_FALSE(members_.IsIdle(1));
}

TEST_F(MembersTest, IdleSessionTakesTheNextAddress) {
  using Numbers = std::vector<std::size_t>;
  Claim(0, 7, 1);
  EXPECT_EQ(List({"c:1", "d:1", "e:1", "f:1"}, 4), (Numbers{1, 3})) << "no room for f:1";
  EXPECT_EQ(members_.AddressOf(0), "a:1");
  EXPECT_EQ(members_.AddressOf(1), "d:1");
  EXPECT_EQ(members_.AddressOf(3), "e:1");
  EXPECT_EQ(members_.Claim(1, "b:1", Id(9), Id(1), now_).standing, Standing::kStale);
}

TEST_F(MembersTest, FormerAddressOfAServerThatIsNotListedIsNotTriedAgain) {
  Claim(0, 7, 1);
  List({"b:1", "c:1"});
  Silence(0);
  ASSERT_EQ(Claim(1, 7, 1).standing, Standing::kMoved);
  EXPECT_TRUE(members_.IsIdle(1));
  EXPECT_EQ(Claim(0, 7, 1).standing, Standing::kAccepted);
  List({});
  EXPECT_FALSE(members_.IsIdle(0));
}

TEST_F(MembersTest, FormerAddressOfAServerThatIsListedIsTriedOn) {
  Claim(0, 7, 1);
  Silence(0);
  ASSERT_EQ(Claim(1, 7, 1).standing, Standing::kMoved);
  EXPECT_FALSE(members_.IsIdle(1));
}

TEST_F(MembersTest, MembersWithOneLabelShareADomain) {
  for (int uuid = 0; uuid < 3; ++uuid) Claim(static_cast<std::size_t>(uuid), uuid + 1, 1);
  members_.NoteLabels(0, {{"rack", "r7"}, {"zone", "a"}});
  members_.NoteLabels(1, {{"zone", "r7"}});
  members_.NoteLabels(2, {{"rack", "r7"}});
  EXPECT_EQ(members_.DomainNumberOf(0), members_.DomainNumberOf(2));
  EXPECT_NE(members_.DomainNumberOf(0), members_.DomainNumberOf(1));
  EXPECT_EQ(members_.DomainOf(2), "r7");
  EXPECT_EQ(members_.DomainOf(1), Hex(Id(2)));
  members_.NoteLabels(2, {});
  EXPECT_EQ(members_.DomainOf(2), Hex(Id(3)));
  EXPECT_NE(members_.DomainNumberOf(0), members_.DomainNumberOf(2));
}

TEST_F(MembersTest, AnotherLabelToSpreadByIsAnotherSetOfDomains) {
  for (int uuid = 0; uuid < 3; ++uuid) Claim(static_cast<std::size_t>(uuid), uuid + 1, 1);
  members_.NoteLabels(0, {{"rack", "a"}, {"zone", "b"}});
  members_.NoteLabels(1, {{"rack", "b"}, {"zone", "b"}});
  members_.NoteLabels(2, {{"rack", "b"}, {"zone", "a"}});
  EXPECT_EQ(members_.DomainNumberOf(1), members_.DomainNumberOf(2));
  members_.SpreadBy("zone");
  EXPECT_EQ(members_.spread(), "zone");
  EXPECT_EQ(members_.DomainNumberOf(0), members_.DomainNumberOf(1));
  EXPECT_NE(members_.DomainNumberOf(1), members_.DomainNumberOf(2));
  EXPECT_EQ(members_.DomainOf(2), "a");
}

using Decision = OpeningGate::Decision;
constexpr milliseconds kLease{1000};
constexpr milliseconds kAnswerWait{300};

void AddTwoSessions(OpeningGate* gate) {
  gate->AddSession();
  gate->AddSession();
}

TEST(OpeningGate, OpensWhenAllHaveAnsweredAndNoneNamesAnOwner) {
  OpeningGate gate(kAnswerWait, false);
  AddTwoSessions(&gate);
  const TimePoint now{};
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now), Decision::kNone);
  EXPECT_EQ(gate.NoteAnswer(1, false, kLease, now), Decision::kOpen);
}

TEST(OpeningGate, WaitsForSilentServersForABoundedTime) {
  OpeningGate gate(kAnswerWait, false);
  AddTwoSessions(&gate);
  const TimePoint now{};
  EXPECT_EQ(gate.answers_until(), kNever);
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now), Decision::kNone);
  EXPECT_EQ(gate.answers_until(), now + kAnswerWait);
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now + kAnswerWait), Decision::kOpen);
}

TEST(OpeningGate, RefusesWhenAnOwnerIsNamedForThreeLeases) {
  OpeningGate gate(kAnswerWait, false);
  AddTwoSessions(&gate);
  TimePoint now{};
  gate.NoteAnswer(0, false, kLease, now);
  EXPECT_EQ(gate.NoteAnswer(1, true, kLease, now), Decision::kNone);
  now += kLeasesToWait * kLease - milliseconds(1);
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now), Decision::kNone);
  EXPECT_EQ(gate.NoteAnswer(1, true, kLease, now + milliseconds(1)), Decision::kRefused);
  EXPECT_EQ(gate.NoteAnswer(1, false, kLease, now + kLease), Decision::kRefused) << "for good";
}

TEST(OpeningGate, OwnerThatIsGoneIsForgotten) {
  OpeningGate gate(kAnswerWait, false);
  AddTwoSessions(&gate);
  const TimePoint now{};
  gate.NoteAnswer(0, false, kLease, now);
  gate.NoteAnswer(1, true, kLease, now);
  EXPECT_EQ(gate.NoteAnswer(1, false, kLease, now + kLease), Decision::kOpen);
}

TEST(OpeningGate, ServerThatNamedAnOwnerAndWentSilentIsWaitedForNoLonger) {
  OpeningGate gate(kAnswerWait, false);
  AddTwoSessions(&gate);
  const TimePoint now{};
  gate.NoteAnswer(1, true, kLease, now);
  gate.NoteSilent(1);
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now), Decision::kNone);
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now + kAnswerWait), Decision::kOpen);
}

TEST(OpeningGate, OperatorsWordOpensAtOnce) {
  OpeningGate gate(kAnswerWait, true);
  EXPECT_EQ(gate.decision(), Decision::kOpen);
}

}  // namespace
}  // namespace farswap::remote
