# The crash test kills this program while it stores.
add_executable(store_crash_writer ${CMAKE_CURRENT_LIST_DIR}/store_crash_writer.cc)
target_link_libraries(store_crash_writer PRIVATE farswap_store)
farswap_test(store_test
  SOURCES store_record_test.cc store_page_store_test.cc store_volume_test.cc store_copy_test.cc
          store_copy_fault_test.cc store_crash_test.cc store_delete_test.cc store_disk_test.cc
          store_fair_queue_test.cc store_ownership_test.cc store_quota_test.cc
          store_rate_limiter_test.cc store_scripted_source.cc store_scrub_test.cc
          store_service_test.cc store_turns_test.cc
  LIBRARIES farswap_store farswap_proto PkgConfig::ROCKSDB)
target_compile_definitions(store_test PRIVATE
  STORE_CRASH_WRITER="$<TARGET_FILE:store_crash_writer>")
add_dependencies(store_test store_crash_writer)
