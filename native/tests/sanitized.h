// Whether a sanitizer watches, which makes each step many times as dear and finds most of what
// there is to find in the first ones.
#pragma once

namespace farswap {

#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define FARSWAP_SANITIZED
#endif
#endif

#ifdef FARSWAP_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace farswap
