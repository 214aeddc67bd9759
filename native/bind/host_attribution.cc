// HostEngine: attribution of pages to cgroups.
#include <nanobind/stl/pair.h>

#include <string>
#include <utility>

#include "bind/host_engine.h"

namespace farswap::bind {
namespace {

using DeviceNumber = std::pair<std::uint32_t, std::uint32_t>;

void BindRecord(nb::module_& m) {
  using State = AttributionState;
  nb::class_<State>(m, "Attribution", "Source of attribution.")
      .def_ro("source", &State::source)
      .def_ro("free_hook", &State::free_hook)
      .def_ro("problem", &State::problem)
      .def_prop_ro("bios", [](const State& self) { return self.counters.bios; })
      .def_prop_ro("pages", [](const State& self) { return self.counters.pages; })
      .def_prop_ro("unattributed", [](const State& self) { return self.counters.unattributed; })
      .def_prop_ro("freed", [](const State& self) { return self.counters.freed; })
      .def_prop_ro("events", [](const State& self) { return self.counters.events; })
      .def_prop_ro("ring_full", [](const State& self) { return self.counters.ring_full; })
      .def_prop_ro("notified", [](const State& self) { return self.counters.notified; })
      .def_prop_ro("notified_late", [](const State& self) { return self.counters.notified_late; });
}

}  // namespace

void BindHostAttribution(nb::module_& m, nb::class_<Engine>& engine) {
  using namespace nb::literals;
  using NoGil = nb::call_guard<nb::gil_scoped_release>;
  BindRecord(m);
  engine
      .def(
          "attribute",
          [](Engine& self, DeviceNumber device, const std::string& pin_directory, bool free_hook) {
            return self.Attribute(device.first, device.second, pin_directory, free_hook);
          },
          NoGil(), "device"_a, "pin_directory"_a, "free_hook"_a,
          "Attributes pages swapped out to the device (major, minor) by BPF from now on, and "
          "enables "
          "free notifications. If the kernel refuses, `problem` of the answer says why.")
      .def("attribution", &Engine::attribution, NoGil(), "Source in use.")
      .def("stop_attribution", &Engine::StopAttribution, NoGil(),
           "Removes the programs from the kernel. Idempotent.")
      .def("set_label", &Engine::SetLabel, NoGil(), "id"_a,
           "Cgroup of pages that BPF does not attribute; 0: the root group.");
}

}  // namespace farswap::bind
