add_executable(nbd_takeover_worker ${CMAKE_CURRENT_LIST_DIR}/nbd_takeover_worker.cc)
target_link_libraries(nbd_takeover_worker PRIVATE farswap_nbd_steps)

farswap_test(nbd_test
  SOURCES nbd_parser_test.cc nbd_connection_test.cc nbd_parked_read_test.cc
          nbd_parked_write_test.cc nbd_store_wait_test.cc nbd_connection_set_test.cc
          nbd_mixed_request_test.cc nbd_takeover_test.cc memory_remote.cc
  LIBRARIES farswap_nbd)
target_compile_definitions(nbd_test PRIVATE
                           NBD_TAKEOVER_WORKER="$<TARGET_FILE:nbd_takeover_worker>")
add_dependencies(nbd_test nbd_takeover_worker)
