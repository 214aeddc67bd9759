add_executable(tier_crash_worker ${CMAKE_CURRENT_LIST_DIR}/tier_crash_worker.cc)
target_link_libraries(tier_crash_worker PRIVATE farswap_tier_steps)

farswap_test(tier_test
  SOURCES tier_codec_test.cc tier_pool_test.cc tier_store_test.cc tier_writeback_test.cc
          tier_race_test.cc tier_allocation_test.cc tier_group_test.cc tier_limit_test.cc
          tier_group_race_test.cc tier_bundle_test.cc tier_packing_test.cc tier_bundle_fetch_test.cc
          tier_damaged_pool_test.cc tier_packer_test.cc tier_version_test.cc tier_replica_test.cc
          tier_batch_test.cc tier_store_wait_test.cc tier_superseded_store_test.cc
          tier_store_wait_race_test.cc tier_stored_objects_test.cc
          tier_crash_test.cc tier_state_test.cc memory_remote.cc
  LIBRARIES farswap_tier)
target_compile_definitions(tier_test PRIVATE TIER_CRASH_WORKER="$<TARGET_FILE:tier_crash_worker>")
add_dependencies(tier_test tier_crash_worker)

# Not a test: prints how long a successor takes to recover.
add_executable(tier_recovery_bench ${CMAKE_CURRENT_LIST_DIR}/tier_recovery_bench.cc)
target_link_libraries(tier_recovery_bench PRIVATE farswap_tier)

# The tier as a Python module, for the state machine of tests/property. Not in the wheel.
if(FARSWAP_PYTHON)
  find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
  find_package(nanobind CONFIG REQUIRED)
  # In a domain of its own: it shows some types that `native` shows as well.
  nanobind_add_module(tier_model NB_STATIC NOMINSIZE NB_DOMAIN tier_model tier_model_module.cc
                      memory_remote.cc)
  target_include_directories(
    tier_model SYSTEM PRIVATE $<TARGET_PROPERTY:nanobind-static,INTERFACE_INCLUDE_DIRECTORIES>)
  target_link_libraries(tier_model PRIVATE farswap_tier)
endif()
