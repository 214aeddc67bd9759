farswap_test(bpf_test
  SOURCES bpf_free_hook_test.cc bpf_slot_attribution_test.cc
  LIBRARIES farswap_bpf PkgConfig::LIBBPF)
