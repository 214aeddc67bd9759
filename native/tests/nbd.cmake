farswap_test(nbd_test
  SOURCES nbd_parser_test.cc nbd_connection_test.cc nbd_parked_read_test.cc
          nbd_parked_write_test.cc nbd_store_wait_test.cc nbd_connection_set_test.cc
          nbd_mixed_request_test.cc memory_remote.cc
  LIBRARIES farswap_nbd)
