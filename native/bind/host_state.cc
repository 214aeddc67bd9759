// The memory of a device for Python, as State.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "bind/host_engine.h"
#include "tier/state.h"

namespace farswap::bind {

MemoryKind KindOf(const std::string& name) {
  for (const MemoryKind kind : kSurvivingKinds) {
    if (name == NameOf(kind)) return kind;
  }
  throw nb::value_error("no such kind of memory");
}

namespace {

using tier::State;
using SharedState = std::shared_ptr<State>;

SharedState Made(Result<std::unique_ptr<State>> made) {
  if (!made.ok()) throw std::runtime_error(made.error().message);
  return std::move(made.value());
}

SharedState Create(std::uint64_t slots, std::uint64_t pool_bytes) {
  nb::gil_scoped_release release;
  return Made(State::Create(slots, pool_bytes));
}

SharedState CreateToSurvive(std::uint64_t slots, std::uint64_t pool_bytes) {
  nb::gil_scoped_release release;
  std::string refusals;
  for (const MemoryKind kind : kSurvivingKinds) {
    auto made = State::Create(slots, pool_bytes, kind);
    if (made.ok()) return std::move(made.value());
    refusals +=
        std::string(refusals.empty() ? "" : "; ") + NameOf(kind) + ": " + made.error().message;
  }
  throw std::runtime_error("no memory outlives the daemon: " + refusals);
}

SharedState Adopt(const std::string& kind, int number, std::uint64_t slots,
                  std::uint64_t pool_bytes) {
  const Memory::Handle handle{KindOf(kind), number};
  nb::gil_scoped_release release;
  auto memory = Memory::Adopt(handle);
  if (!memory.ok()) throw std::runtime_error(memory.error().message);
  return Made(State::Adopt(std::move(memory.value()), slots, pool_bytes));
}

SharedState Inspect(const std::string& kind, int number) {
  const Memory::Handle handle{KindOf(kind), number};
  nb::gil_scoped_release release;
  auto memory = Memory::Adopt(handle);
  if (!memory.ok()) throw std::runtime_error(memory.error().message);
  return Made(State::Inspect(std::move(memory.value())));
}

std::pair<std::string, int> MemoryOf(const State& self) {
  const Memory::Handle& handle = self.memory().handle();
  return {NameOf(handle.kind), handle.number};
}

void Serve(const SharedState& self) {
  nb::gil_scoped_release release;
  // The kernel looks for mutexes that a dead thread holds, so they must not be unmapped.
  static_cast<void>(new SharedState(self));
  self->liveness().Serve();
  if (self->adopted()) self->TakeOver();
}

nb::bytes Incarnation(const State& self) {
  const State::Incarnation incarnation = self.incarnation();
  return nb::bytes(incarnation.data(), incarnation.size());
}

nb::bytes NoteOf(const State& self) {
  const std::span<const std::byte> note = self.note();
  return nb::bytes(note.data(), note.size());
}

bool NoteDown(State& self, const nb::bytes& note) {
  return self.Note({reinterpret_cast<const std::byte*>(note.c_str()), note.size()});
}

}  // namespace

void BindHostState(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<State>(m, "State", "The memory of a device: its pages, and what a successor needs.")
      .def_static("create", &Create, "slots"_a, "pool_bytes"_a,
                  "In memory that ends with the process. RuntimeError.")
      .def_static("create_to_survive", &CreateToSurvive, "slots"_a, "pool_bytes"_a,
                  "In memory that outlives the process, of the best kind that the machine has. "
                  "RuntimeError.")
      .def_static("adopt", &Adopt, "kind"_a, "number"_a, "slots"_a, "pool_bytes"_a,
                  "Of another process: a kind, and a descriptor, which is always taken over, or an "
                  "id. Does not wait for that process's end. RuntimeError if it does not fit.")
      .def_static("inspect", &Inspect, "kind"_a, "number"_a, "As adopt(), of any size, to look at.")
      .def_prop_ro(
          "slots", [](const State& self) { return self.slots().size(); }, "Size of the device.")
      .def_prop_ro(
          "pool_bytes", [](const State& self) { return self.pool().size(); }, "Size of the pool.")
      .def("serve", &Serve,
           "Waits until no other process serves the device. This thread must live as long as the "
           "process, and the state is never unmapped.")
      .def_prop_ro("memory", &MemoryOf,
                   "Kind of the memory, and its descriptor or id. Of the kind private it ends with "
                   "the process.")
      .def_prop_ro("incarnation", &Incarnation, "16 random bytes that identify the slot table.")
      .def_prop_ro("takeovers", &State::takeovers, "How often a process has adopted it.")
      .def_prop_ro("note", &NoteOf, "What note_down() kept, maybe of an earlier process.")
      .def("note_down", &NoteDown, "note"_a, "Replaces `note`; False if it is larger than 64 KiB.")
      .def(
          "remove", [](State& self) { self.memory().Remove(); },
          "No other process can adopt it any more. Before the process ends.");
}

}  // namespace farswap::bind
