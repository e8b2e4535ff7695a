// Compares declarations that describe the same thing with different names of types.
#pragma once

#include <string_view>
#include <type_traits>

// The kind of a type: 'v' void, 'p' pointer or reference, 'b' bool, 'f' float, 's' structure, or its size for numbers and
// enumerations.
template <typename T> constexpr char kind_of() {
    if constexpr (std::is_void_v<T>) {
        return 'v';
    } else if constexpr (std::is_pointer_v<T> || std::is_reference_v<T>) {
        return 'p';
    } else if constexpr (std::is_same_v<T, bool>) {
        return 'b';
    } else if constexpr (std::is_floating_point_v<T>) {
        return 'f';
    } else if constexpr (std::is_class_v<T>) {
        return 's';
    } else {
        static_assert(std::is_integral_v<T> || std::is_enum_v<T>, "a type that has no kind yet");
        return '0' + sizeof(T);
    }
}

// The kinds of a function's result and arguments.
template <typename T> struct Kinds;
template <typename Result, typename... Arguments> struct Kinds<Result (*)(Arguments...)> {
    static constexpr char text[] = {kind_of<Result>(), kind_of<Arguments>()..., '\0'};
};
template <typename Class, typename Result, typename... Arguments> struct Kinds<Result (Class::*)(Arguments...)> {
    static constexpr char text[] = {kind_of<Result>(), kind_of<Arguments>()..., '\0'};
};

template <typename T> constexpr std::string_view kinds_of(T) { return Kinds<T>::text; }
