# cmake -D OBJECT=slot_words.bpf.o -D SOURCE=object_file.cc -P embed.cmake: writes the C++ source
# that holds the object file's bytes.
file(READ "${OBJECT}" bytes HEX)
string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE "${SOURCE}" "\
#include \"bpf/object_file.h\"

namespace farswap::bpf {
namespace {
// libbpf reads ELF structures in place.
alignas(16) constexpr unsigned char kBytes[] = {
${bytes}
};
}  // namespace

std::span<const unsigned char> ObjectFile() { return kBytes; }

}  // namespace farswap::bpf
")
