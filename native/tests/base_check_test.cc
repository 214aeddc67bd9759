// A violated invariant ends the process in every build.
#include <gtest/gtest.h>

#include "base/check.h"

namespace farswap {
namespace {

TEST(Check, ThatHoldsIsEvaluatedOnce) {
  int evaluated = 0;
  FARSWAP_CHECK(++evaluated == 1);
  EXPECT_EQ(evaluated, 1);
}

TEST(CheckDeathTest, ThatFailsNamesFileLineAndExpressionAndAborts) {
  const int pages = 3;
  EXPECT_DEATH(FARSWAP_CHECK(pages < 2), "base_check_test.cc:[0-9]+: check failed: pages < 2");
}

}  // namespace
}  // namespace farswap
