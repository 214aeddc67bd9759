farswap_test(remote_test
  SOURCES remote_answer_memory_test.cc remote_chaos_proxy.cc remote_cluster_test.cc
          remote_compare_test.cc remote_crash_test.cc
          remote_fake_store.cc remote_fault_test.cc remote_hedging_test.cc
          remote_identity_test.cc remote_members_test.cc
          remote_ownership_test.cc remote_page_server_test.cc remote_queue_test.cc
          remote_repair_queue_test.cc remote_repair_test.cc remote_replica_test.cc
          remote_successor_test.cc
  LIBRARIES farswap_remote farswap_store farswap_proto)
add_executable(remote_crash_worker ${CMAKE_CURRENT_LIST_DIR}/remote_crash_worker.cc)
target_link_libraries(remote_crash_worker PRIVATE farswap_remote farswap_proto)
target_compile_definitions(remote_test
                           PRIVATE REMOTE_CRASH_WORKER="$<TARGET_FILE:remote_crash_worker>")
add_dependencies(remote_test remote_crash_worker)

# Not a test: prints the latency of fetches beside that of a raw ping-pong.
add_executable(remote_latency_bench ${CMAKE_CURRENT_LIST_DIR}/remote_fake_store.cc
                                    ${CMAKE_CURRENT_LIST_DIR}/remote_latency_bench.cc)
target_link_libraries(remote_latency_bench PRIVATE farswap_remote farswap_proto)
