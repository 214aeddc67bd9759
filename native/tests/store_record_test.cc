// The formats on disk: their layout, and what of it is refused.
#include <gtest/gtest.h>

#include "store/record.h"
#include "store_objects.h"
#include "tier/bundle.h"

namespace farswap::store {
namespace {

TEST(Record, HeaderHasItsDocumentedLayout) {
  const std::string bytes = "xyz";
  ObjectRecord page = MakeObject(7, 0x0102030405060708, bytes);
  page.checksum = 0xAABBCCDD;
  page.stored_boot_s = 0x11223344;
  const RecordHeader header = EncodeRecordHeader(page);
  const std::string expected(
      "\x01\x02\x03\x00\xDD\xCC\xBB\xAA\x08\x07\x06\x05\x04\x03\x02\x01\x44\x33\x22\x11", 20);
  EXPECT_EQ(std::string(header.begin(), header.end()), expected);
}

TEST(Record, KeysOfAVolumeSortBySlot) {
  const RecordKey key = EncodeRecordKey(0x0102030405060708, 0x0A);
  EXPECT_EQ(std::string(key.begin(), key.end()),
            std::string("\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\0\x0A", 16));
}

TEST(Record, EveryTruncationAndExtensionIsRefused) {
  const std::string bytes = ObjectBytes(1, 1, 50);
  const ObjectRecord page = MakeObject(1, 1, bytes);
  const RecordHeader header = EncodeRecordHeader(page);
  const std::string value = std::string(header.begin(), header.end()) + bytes;
  ASSERT_TRUE(DecodeRecord(1, value));
  EXPECT_EQ(DecodeRecord(1, value)->version, 1u);
  for (std::size_t length = 0; length < value.size(); ++length) {
    EXPECT_FALSE(DecodeRecord(1, std::string_view(value).substr(0, length))) << length;
  }
  EXPECT_FALSE(DecodeRecord(1, value + "x"));
}

TEST(Record, DamagedFormatAndCodecAreRefused) {
  const std::string bytes = ObjectBytes(1, 1, 50);
  const RecordHeader header = EncodeRecordHeader(MakeObject(1, 1, bytes));
  for (const std::size_t damaged : {std::size_t{0}, std::size_t{1}}) {
    std::string value = std::string(header.begin(), header.end()) + bytes;
    value[damaged] = '\x77';
    EXPECT_FALSE(DecodeRecord(1, value));
  }
}

TEST(Record, PagesAreValidOnlyWithTheirOwnSlotCodecLengthAndChecksum) {
  const std::string bytes = ObjectBytes(3, 1, 100);
  const ObjectRecord good = MakeObject(3, 1, bytes);
  EXPECT_TRUE(IsValidObject(good));
  ObjectRecord bad = good;
  bad.key = 4;
  EXPECT_FALSE(IsValidObject(bad));
  bad = good;
  bad.codec = 3;
  EXPECT_FALSE(IsValidObject(bad));
  bad.codec = 258;
  EXPECT_FALSE(IsValidObject(bad));
  bad = good;
  bad.checksum ^= 1;
  EXPECT_FALSE(IsValidObject(bad));
}

TEST(Record, RawPagesAreWholeAndNoPageIsLongerOrEmpty) {
  const auto raw = static_cast<std::uint32_t>(tier::Codec::kRaw);
  for (const std::size_t length : {0u, 1u, 4095u, 4096u, 4097u}) {
    const std::string bytes = ObjectBytes(3, 1, length);
    ObjectRecord page = MakeObject(3, 1, bytes);
    EXPECT_EQ(IsValidObject(page), length >= 1 && length <= 4096) << length;
    page.codec = raw;
    page.checksum = tier::PageChecksum(3, tier::Codec::kRaw, std::as_bytes(std::span(bytes)));
    EXPECT_EQ(IsValidObject(page), length == 4096) << length;
  }
}

TEST(Record, BundlesHaveKeysOfTheirOwnWholeHeadersAndABound) {
  const std::uint64_t key = tier::BundleKeyOf(160);
  const std::string bytes = BundleBytes(key, 1, tier::kBundleBytesMax);
  const ObjectRecord good = MakeBundle(key, 1, bytes);
  EXPECT_TRUE(IsValidObject(good));
  const RecordHeader header = EncodeRecordHeader(good);
  const std::string value = std::string(header.begin(), header.end()) + bytes;
  const auto decoded = DecodeRecord(key, value);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->bytes.size(), tier::kBundleBytesMax);

  EXPECT_FALSE(DecodeRecord(10, value)) << "a bundle is no page";
  EXPECT_FALSE(IsValidObject(MakeBundle(10, 1, bytes)));
  EXPECT_FALSE(IsValidObject(MakeObject(key, 1, ObjectBytes(key, 1, 100))))
      << "a page is no bundle";
  EXPECT_FALSE(IsValidObject(MakeBundle(key, 1, bytes + "x")));
  EXPECT_FALSE(IsValidObject(MakeBundle(key, 1, "")));
  EXPECT_FALSE(IsValidObject(MakeBundle(key, 1, BundleBytes(key, 1, 68)))) << "a header alone";
  std::string reserved = bytes;
  reserved[3] = 1;
  EXPECT_FALSE(IsValidObject(MakeBundle(key, 1, reserved)));
  EXPECT_FALSE(IsValidObject(MakeObject(std::uint64_t{1} << 32, 1, ObjectBytes(0, 1, 100))));
}

TEST(Record, VolumeAndDeviceRecordsSurviveAndRefuseTruncation) {
  VolumeRecord volume;
  volume.garbage = true;
  volume.intact = false;
  volume.incarnation = {1, 2, 3};
  volume.owner = {{4, 5}, 6, "host.example", "10.0.0.7"};
  volume.silent_minutes = 7;
  volume.host_id = "host";
  volume.device = "swap0";
  const std::string value = EncodeVolumeRecord(volume);
  const auto again = DecodeVolumeRecord(value);
  ASSERT_TRUE(again);
  EXPECT_EQ(EncodeVolumeRecord(*again), value);
  EXPECT_EQ(again->device, "swap0");
  EXPECT_TRUE(again->garbage);
  EXPECT_FALSE(again->intact);
  EXPECT_EQ(again->owner.address, "10.0.0.7");
  const DeviceRecord device{9, {Incarnation{7}, Incarnation{8}}};
  const std::string device_value = EncodeDeviceRecord(device);
  ASSERT_TRUE(DecodeDeviceRecord(device_value));
  EXPECT_EQ(DecodeDeviceRecord(device_value)->retired, device.retired);
  for (std::size_t length = 0; length < value.size(); ++length) {
    EXPECT_FALSE(DecodeVolumeRecord(std::string_view(value).substr(0, length)));
  }
  for (std::size_t length = 0; length < device_value.size(); ++length) {
    EXPECT_FALSE(DecodeDeviceRecord(std::string_view(device_value).substr(0, length)));
  }
}

TEST(Record, StoreOfAnotherFormatIsRefusedWithWhatToDo) {
  const StoreRecord store{{1, 2, 3}, "boot", true};
  const std::string value = EncodeStoreRecord(store);
  Result<StoreRecord> again = DecodeStoreRecord(value);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(EncodeStoreRecord(again.value()), value);
  const auto first = DecodeStoreRecord("\x01");
  ASSERT_FALSE(first.ok());
  EXPECT_NE(first.error().message.find("format is 1, this release reads format 2"),
            std::string::npos);
  for (std::size_t length = 0; length < value.size(); ++length) {
    EXPECT_FALSE(DecodeStoreRecord(std::string_view(value).substr(0, length)).ok());
  }
}

}  // namespace
}  // namespace farswap::store
