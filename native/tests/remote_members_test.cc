// The rules of identity and of opening, without servers and without a clock.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <string>

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
  Members::Answer Claim(std::size_t session, int uuid, int run) {
    return members_.Claim(session, members_.AddressOf(session), Id(uuid), Id(run), now_);
  }
  void Silence(std::size_t session) { members_.NoteSilent(session, now_); }

  Members members_{{"a:1", "b:1", "c:1"}, kMoveWait};
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

using Decision = OpeningGate::Decision;
constexpr milliseconds kLease{1000};
constexpr milliseconds kAnswerWait{300};

TEST(OpeningGate, OpensWhenAllHaveAnsweredAndNoneNamesAnOwner) {
  OpeningGate gate(2, kAnswerWait, false);
  const TimePoint now{};
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now), Decision::kNone);
  EXPECT_EQ(gate.NoteAnswer(1, false, kLease, now), Decision::kOpen);
}

TEST(OpeningGate, WaitsForSilentServersForABoundedTime) {
  OpeningGate gate(2, kAnswerWait, false);
  const TimePoint now{};
  EXPECT_EQ(gate.answers_until(), kNever);
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now), Decision::kNone);
  EXPECT_EQ(gate.answers_until(), now + kAnswerWait);
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now + kAnswerWait), Decision::kOpen);
}

TEST(OpeningGate, RefusesWhenAnOwnerIsNamedForThreeLeases) {
  OpeningGate gate(2, kAnswerWait, false);
  TimePoint now{};
  gate.NoteAnswer(0, false, kLease, now);
  EXPECT_EQ(gate.NoteAnswer(1, true, kLease, now), Decision::kNone);
  now += kLeasesToWait * kLease - milliseconds(1);
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now), Decision::kNone);
  EXPECT_EQ(gate.NoteAnswer(1, true, kLease, now + milliseconds(1)), Decision::kRefused);
  EXPECT_EQ(gate.NoteAnswer(1, false, kLease, now + kLease), Decision::kRefused) << "for good";
}

TEST(OpeningGate, OwnerThatIsGoneIsForgotten) {
  OpeningGate gate(2, kAnswerWait, false);
  const TimePoint now{};
  gate.NoteAnswer(0, false, kLease, now);
  gate.NoteAnswer(1, true, kLease, now);
  EXPECT_EQ(gate.NoteAnswer(1, false, kLease, now + kLease), Decision::kOpen);
}

TEST(OpeningGate, ServerThatNamedAnOwnerAndWentSilentIsWaitedForNoLonger) {
  OpeningGate gate(2, kAnswerWait, false);
  const TimePoint now{};
  gate.NoteAnswer(1, true, kLease, now);
  gate.NoteSilent(1);
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now), Decision::kNone);
  EXPECT_EQ(gate.NoteAnswer(0, false, kLease, now + kAnswerWait), Decision::kOpen);
}

TEST(OpeningGate, OperatorsWordOpensAtOnce) {
  OpeningGate gate(2, kAnswerWait, true);
  EXPECT_EQ(gate.decision(), Decision::kOpen);
}

}  // namespace
}  // namespace farswap::remote
