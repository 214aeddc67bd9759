#include "store/info_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <ctime>
#include <mutex>

namespace farswap::store {
namespace {

constexpr std::size_t kFileBytesMax = std::size_t{1} << 20;

class InfoLog final : public rocksdb::Logger {
 public:
  explicit InfoLog(const std::string& path)
      : Logger(rocksdb::WARN_LEVEL), path_(path + "/LOG"), file_(OpenFile()) {}
  ~InfoLog() override {
    if (file_ >= 0) close(file_);
  }

  using Logger::Logv;
  void Logv(const char* format, va_list arguments) override {
    std::array<char, 2048> line;
    const std::time_t now = std::time(nullptr);
    std::tm calendar{};
    localtime_r(&now, &calendar);
    std::size_t used = std::strftime(line.data(), line.size(), "%F %T ", &calendar);
    const int length = std::vsnprintf(line.data() + used, line.size() - used, format, arguments);
    used = std::min(used + static_cast<std::size_t>(std::max(length, 0)), line.size() - 1);
    line[used++] = '\n';
    const std::lock_guard lock(mutex_);
    if (file_ < 0 || lseek(file_, 0, SEEK_CUR) > static_cast<off_t>(kFileBytesMax)) Rotate();
    if (file_ >= 0 && write(file_, line.data(), used) < 0) {
      return;  // the line is lost
    }
  }

 private:
  int OpenFile() const {
    return open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  }
  void Rotate() {
    if (file_ >= 0) {
      close(file_);
      rename(path_.c_str(), (path_ + ".old").c_str());
    }
    file_ = OpenFile();
  }

  const std::string path_;
  std::mutex mutex_;
  int file_;
};

}  // namespace

std::shared_ptr<rocksdb::Logger> MakeInfoLog(const std::string& path) {
  return std::make_shared<InfoLog>(path);
}

}  // namespace farswap::store
