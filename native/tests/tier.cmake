farswap_test(tier_test
  SOURCES tier_codec_test.cc tier_pool_test.cc tier_store_test.cc tier_writeback_test.cc
          tier_race_test.cc tier_allocation_test.cc tier_group_test.cc tier_group_edge_test.cc
          tier_group_race_test.cc tier_unit_test.cc memory_remote.cc
  LIBRARIES farswap_tier)
