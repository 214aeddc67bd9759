farswap_test(placement_test
  SOURCES placement_away_test.cc placement_copysets_test.cc placement_domain_test.cc
          placement_planner_test.cc placement_random_test.cc placement_rest_test.cc
  LIBRARIES farswap_placement_steps)
