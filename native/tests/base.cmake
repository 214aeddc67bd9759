farswap_test(base_test
  SOURCES base_check_test.cc base_liveness_test.cc base_memory_test.cc
  LIBRARIES farswap_base)
