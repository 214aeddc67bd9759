#include "bind/page_server.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "store/page_server.h"

namespace nb = nanobind;

namespace farswap::bind {
namespace {

std::unique_ptr<store::PageServer> CreateServer(
    const std::string& listen, const std::string& path, std::uint64_t capacity_bytes,
    std::uint64_t reserve_bytes, std::optional<std::uint64_t> quota_default,
    std::uint64_t block_cache_bytes, std::uint32_t keepalive_ms, std::uint32_t owner_lease_ms,
    std::uint64_t expire_after_ms, std::uint64_t scrub_interval_ms,
    const std::map<std::string, std::string>& labels) {
  auto server = [&] {
    nb::gil_scoped_release unlocked;
    return store::PageServer::Create(
        {.listen = listen,
         .path = path,
         .capacity_bytes = capacity_bytes,
         .block_cache_bytes = block_cache_bytes,
         .labels = labels,
         .keepalive = std::chrono::milliseconds(keepalive_ms),
         .leases = {.owner_lease = std::chrono::milliseconds(owner_lease_ms),
                    .expire_after = std::chrono::milliseconds(expire_after_ms)},
         .reserve_bytes = reserve_bytes,
         .quota_default = quota_default.value_or(store::kNoQuota),
         .scrub = {.interval = std::chrono::milliseconds(scrub_interval_ms)}});
  }();
  if (!server.ok()) throw std::runtime_error(server.error().message);
  return std::move(server.value());
}

nb::dict Stats(const store::PageServer& server) {
  const auto stats = [&] {
    nb::gil_scoped_release unlocked;
    return server.Stats();
  }();
  nb::dict by_name;
  for (const auto& [name, value] : stats) by_name[name.c_str()] = value;
  return by_name;
}

// Calls a method of the server without the GIL. Raises RuntimeError.
template <typename Method, typename... Arguments>
auto Call(Method method, Arguments... arguments) {
  auto result = [&] {
    nb::gil_scoped_release unlocked;
    return std::invoke(method, arguments...);
  }();
  if (!result.ok()) throw std::runtime_error(result.error().message);
  return std::move(result.value());
}

std::uint64_t CountShards(const store::PageServer& server, std::uint64_t volume_id) {
  return Call(&store::PageServer::CountShards, &server, volume_id);
}

void SetDraining(store::PageServer& server, bool draining) {
  Call(&store::PageServer::SetDraining, &server, draining);
}

void RemoveServer(store::PageServer& server, const nb::bytes& uuid) {
  store::Id id;
  if (uuid.size() != id.size()) throw std::runtime_error("a uuid has 16 bytes");
  std::memcpy(id.data(), uuid.data(), id.size());
  Call(&store::PageServer::RemoveServer, &server, id);
}
void Scrub(store::PageServer& server) { Call(&store::PageServer::Scrub, &server); }

store::VolumeInfo DeleteVolume(store::PageServer& server, const std::string& host_id,
                               const std::string& device, bool force) {
  return Call(&store::PageServer::DeleteVolume, &server, host_id, device, force);
}

void SetQuota(store::PageServer& server, const std::string& host_id, const std::string& device,
              std::optional<std::uint64_t> quota_bytes) {
  Call(&store::PageServer::SetQuota, &server, host_id, device, quota_bytes);
}

nb::bytes Bytes(const store::Id& id) { return nb::bytes(id.data(), id.size()); }

std::optional<std::int64_t> ExpiresInMs(const store::VolumeInfo& volume) {
  return volume.expires_in ? std::optional(volume.expires_in->count()) : std::nullopt;
}

const char* KindOf(const store::OwnerEvent& event) {
  switch (event.kind) {
    case store::OwnerEvent::Kind::kDisplaced:
      return "displaced";
    case store::OwnerEvent::Kind::kSucceeded:
      return "succeeded";
    case store::OwnerEvent::Kind::kExpired:
      return "expired";
  }
  return "";
}

void BindVolumes(nb::module_& m) {
  nb::class_<store::AwayServer>(m, "AwayServer", "A server that a host cannot reach.")
      .def_prop_ro("uuid", [](const store::AwayServer& it) { return Bytes(it.uuid); })
      .def_ro("address", &store::AwayServer::address)
      .def_ro("shards", &store::AwayServer::shards, "With a replica there.")
      .def_ro("last_shards", &store::AwayServer::last_shards,
              "Of these, without a current replica elsewhere.");
  nb::class_<store::Owner>(m, "Owner", "A run of a host daemon that has a volume open.")
      .def_ro("host_name", &store::Owner::host_name)
      .def_ro("address", &store::Owner::address);
  nb::class_<store::VolumePlacement>(m, "VolumePlacement", "How the host places its shards.")
      .def_ro("replicas_wanted", &store::VolumePlacement::replicas)
      .def_ro("replication_debt_shards", &store::VolumePlacement::debt)
      .def_ro("lost_shards", &store::VolumePlacement::lost)
      .def_ro("replica_copies", &store::VolumePlacement::copies)
      .def_ro("replicas_here", &store::VolumePlacement::here)
      .def_ro("fetch_p99_us", &store::VolumePlacement::fetch_p99_us)
      .def_ro("away", &store::VolumePlacement::away);
  nb::class_<store::VolumeInfo>(m, "Volume", "A host's device on this server.")
      .def_ro("volume_id", &store::VolumeInfo::volume_id)
      .def_ro("host_id", &store::VolumeInfo::host_id)
      .def_ro("device", &store::VolumeInfo::device)
      .def_prop_ro("incarnation", [](const store::VolumeInfo& it) { return Bytes(it.incarnation); })
      .def_ro("epoch", &store::VolumeInfo::epoch)
      .def_ro("pages", &store::VolumeInfo::pages)
      .def_ro("bytes", &store::VolumeInfo::bytes)
      .def_ro("quota_bytes", &store::VolumeInfo::quota_bytes, "None: no quota.")
      .def_ro("at_quota", &store::VolumeInfo::at_quota, "Whether the quota refuses pages.")
      .def_ro("garbage", &store::VolumeInfo::garbage, "Being deleted in the background.")
      .def_ro("intact", &store::VolumeInfo::intact,
              "False: pages may be missing, and the owner was not yet informed.")
      .def_ro("owner", &store::VolumeInfo::owner)
      .def_ro("live", &store::VolumeInfo::live, "Whether the owner was heard within the lease.")
      .def_prop_ro(
          "silent_ms", [](const store::VolumeInfo& it) { return it.silence.count(); },
          "Time since the owner was heard, while servers ran.")
      .def_prop_ro("expires_in_ms", &ExpiresInMs, "None: never.")
      .def_ro("placement", &store::VolumeInfo::placement,
              "Of the owner's last heartbeat; None: none came since the server started.");
  nb::class_<store::OwnerEvent>(m, "OwnerEvent", "A change of a volume's owner.")
      .def_prop_ro("kind", &KindOf, "displaced, succeeded or expired")
      .def_ro("host_id", &store::OwnerEvent::host_id)
      .def_ro("device", &store::OwnerEvent::device)
      .def_ro("before", &store::OwnerEvent::before)
      .def_ro("after", &store::OwnerEvent::after);
}

}  // namespace

void BindPageServer(nb::module_& m) {
  BindVolumes(m);
  nb::class_<store::PageServer>(m, "PageServer",
                                "A page store and its gRPC service, with their threads. "
                                "RuntimeError if it cannot open the store or cannot listen.")
      .def(nb::new_(&CreateServer), nb::kw_only(), nb::arg("listen"), nb::arg("path"),
           nb::arg("capacity_bytes"), nb::arg("reserve_bytes"), nb::arg("quota_default").none(),
           nb::arg("block_cache_bytes"), nb::arg("keepalive_ms"), nb::arg("owner_lease_ms"),
           nb::arg("expire_after_ms"), nb::arg("scrub_interval_ms"), nb::arg("labels"))
      .def_prop_ro("port", &store::PageServer::port, "Bound port.")
      .def_prop_ro("uuid", [](const store::PageServer& it) { return Bytes(it.uuid()); })
      .def_prop_ro("run_id", [](const store::PageServer& it) { return Bytes(it.run_id()); })
      .def_prop_ro(
          "state", [](const store::PageServer& it) { return static_cast<int>(it.State()); },
          "A ServerState of the page protocol.")
      .def("watch_owners", &store::PageServer::WatchOwners,
           nb::call_guard<nb::gil_scoped_release>(),
           "Deletes volumes of hosts that are silent for too long; returns changes of owners since "
           "the last call.")
      .def("stats", &Stats, nb::sig("def stats(self) -> dict[str, int]"),
           "Gauges and counters, by name.")
      .def("disk_problem", &store::PageServer::DiskProblem,
           nb::call_guard<nb::gil_scoped_release>(),
           "Why the store refuses pages; empty if it accepts them.")
      .def("volumes", &store::PageServer::Volumes, nb::call_guard<nb::gil_scoped_release>())
      .def("count_shards", &CountShards, nb::arg("volume_id"),
           "Number of the volume's shards of which an object is kept. RuntimeError.")
      .def("delete_volume", &DeleteVolume, nb::kw_only(), nb::arg("host_id"), nb::arg("device"),
           nb::arg("force"),
           "Makes the device's volume garbage; returns its last state. RuntimeError if there is "
           "none, or if its owner is live, unless `force`.")
      .def(
          "set_quota", &SetQuota, nb::kw_only(), nb::arg("host_id"), nb::arg("device"),
          nb::arg("quota_bytes").none(),
          "Limits the device's volumes; NO_QUOTA: no limit, None: the default. RuntimeError if the "
          "device was never open here.")
      .def_ro_static("NO_QUOTA", &store::kNoQuota)
      .def("set_draining", &SetDraining, nb::arg("draining"),
           "Starts or ends a drain, on the disk first. RuntimeError if it cannot be written.")
      .def("remove_server", &RemoveServer, nb::arg("uuid"),
           "Tells hosts that another server's store never comes back, on the disk first. "
           "RuntimeError if it is this one, or cannot be written.")
      .def("set_admin_address", &store::PageServer::SetAdminAddress, nb::arg("address"),
           "Of the admin service, for operators on other machines; empty: there is none.")
      .def("scrub", &Scrub,
           "Begins a pass of the scrub now. RuntimeError if the store is read-only.")
      .def(
          "stop",
          [](store::PageServer& server, std::uint32_t grace_ms) {
            server.Stop(std::chrono::milliseconds(grace_ms));
          },
          nb::arg("grace_ms"), nb::call_guard<nb::gil_scoped_release>(),
          "Ends streams, flushes and closes the store. Idempotent.");
}

}  // namespace farswap::bind
