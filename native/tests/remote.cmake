farswap_test(remote_test
  SOURCES remote_chaos_proxy.cc remote_cluster_test.cc remote_fake_store.cc remote_fault_test.cc
          remote_shard_map_test.cc
  LIBRARIES farswap_remote farswap_proto)
