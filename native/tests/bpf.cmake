farswap_test(bpf_test
  SOURCES bpf_free_hook_test.cc bpf_slot_attribution_test.cc
  LIBRARIES farswap_bpf PkgConfig::LIBBPF)

# Not a test: the swap device of the tests in virtual machines.
add_executable(slot_server ${CMAKE_CURRENT_LIST_DIR}/slot_server.cc
                           ${CMAKE_CURRENT_LIST_DIR}/memory_remote.cc)
target_link_libraries(slot_server PRIVATE farswap_bpf farswap_nbd)
