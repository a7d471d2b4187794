// Vectors of floats in the compiler's own notation, 8x8 transposes, 16-bit floats, and work shared out to threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>
#if defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 12;       // of a register tile: 24 sums of 32 registers
#else
constexpr int LANES = 8, ROWS = 6;         // 12 sums of 16 registers
#endif
constexpr int WIDE = 2 * LANES;            // columns of a register tile
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef double dvec __attribute__((vector_size(LANES * 4), aligned(8), may_alias));
constexpr int DLANES = LANES / 2;

static inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
static inline void store(float* p, vec x) { *reinterpret_cast<vec*>(p) = x; }

static inline float sum(vec x) {
    float total[LANES];
    store(total, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) total[i] += total[i + half];
    return total[0];
}

static inline float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

struct bfloat16 { uint16_t bits; };
struct float16 { uint16_t bits; };

static inline double widen(double x) { return x; }
static inline float widen(float x) { return x; }
static inline float widen(uint8_t x) { return x; }
static inline float widen(bfloat16 x) { return from_bits(uint32_t(x.bits) << 16); }
static inline float widen(float16 x) {
    // shift exponent and fraction into place, then repair the exponent by a product: exact, subnormals too
    uint32_t rest = x.bits & 0x7fff, sign = uint32_t(x.bits & 0x8000) << 16;
    float size = rest >= 0x7c00 ? from_bits(rest << 13 | 0x7f800000) : from_bits(rest << 13) * 0x1p112f;
    return from_bits(to_bits(size) | sign);
}

static inline void narrow(double x, double& out) { out = x; }
static inline void narrow(float x, float& out) { out = x; }
static inline void narrow(float x, bfloat16& out) {
    uint32_t bits = to_bits(x);
    out.bits = x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}
static inline void narrow(float x, float16& out) {
    uint32_t bits = to_bits(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size >= 0x47800000)                                      // 65536 and beyond, infinite, no number
        out.bits = sign | (size > 0x7f800000 ? 0x7e00 : 0x7c00);
    else if (size < 0x38800000)                                  // subnormal: the adder rounds
        out.bits = sign | (to_bits(from_bits(size) + 0.5f) - to_bits(0.5f));
    else
        out.bits = sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13);
}

// LANES numbers of any stored type
static inline vec load(const uint8_t* p) {
    typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
    return __builtin_convertvector(*reinterpret_cast<const bytes*>(p), vec);
}
static inline vec load(const bfloat16* p) {
    typedef uint16_t halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
    typedef uint32_t words __attribute__((vector_size(LANES * 4)));
    return (vec)(__builtin_convertvector(*reinterpret_cast<const halves*>(p), words) << 16);
}
static inline vec load(const float16* p) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    vec out;
    for (int i = 0; i < LANES; i++) out[i] = widen(p[i]);
    return out;
#endif
}

// to[j * to_step + i] = from[i * from_step + j] for i, j < 8
static inline void transpose8(const float* from, long from_step, float* to, long to_step) {
#if defined(__AVX__)
    __m256 r[8], s[8];
    for (int i = 0; i < 4; i++)
        for (int half = 0; half < 2; half++)
            r[i + 4 * half] = _mm256_insertf128_ps(
                _mm256_castps128_ps256(_mm_loadu_ps(from + i * from_step + 4 * half)),
                _mm_loadu_ps(from + (i + 4) * from_step + 4 * half), 1);
    for (int half = 0; half < 8; half += 4) {
        s[half] = _mm256_unpacklo_ps(r[half], r[half + 1]), s[half + 1] = _mm256_unpackhi_ps(r[half], r[half + 1]);
        s[half + 2] = _mm256_unpacklo_ps(r[half + 2], r[half + 3]);
        s[half + 3] = _mm256_unpackhi_ps(r[half + 2], r[half + 3]);
        _mm256_storeu_ps(to + half * to_step, _mm256_shuffle_ps(s[half], s[half + 2], 0x44));
        _mm256_storeu_ps(to + (half + 1) * to_step, _mm256_shuffle_ps(s[half], s[half + 2], 0xee));
        _mm256_storeu_ps(to + (half + 2) * to_step, _mm256_shuffle_ps(s[half + 1], s[half + 3], 0x44));
        _mm256_storeu_ps(to + (half + 3) * to_step, _mm256_shuffle_ps(s[half + 1], s[half + 3], 0xee));
    }
#else
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) to[j * to_step + i] = from[i * from_step + j];
#endif
}

// Memory that calls have given back, for the next ones: fresh pages cost more than what is computed in them. At most
// 32 MB, so that a large call's memory goes back to the system.
class Kept {
    struct Piece { size_t bytes; void* place; };
    static constexpr size_t MOST = 32 << 20;
    std::mutex lock;
    std::vector<Piece> pieces;
    size_t total = 0;

public:
    static Kept& instance() {
        static Kept* kept = new Kept;      // never destroyed: a thread may still work when the process ends
        return *kept;
    }
    void* take(size_t bytes) {
        {
            std::lock_guard<std::mutex> guard(lock);
            for (auto piece = pieces.begin(); piece != pieces.end(); ++piece)
                if (piece->bytes == bytes) {
                    void* place = piece->place;
                    total -= bytes;
                    pieces.erase(piece);
                    return place;
                }
        }
        return ::operator new(bytes, std::align_val_t(64));
    }
    void give(void* place, size_t bytes) {
        std::lock_guard<std::mutex> guard(lock);
        for (; total + bytes > MOST && !pieces.empty(); pieces.erase(pieces.begin())) {
            total -= pieces.front().bytes;
            ::operator delete(pieces.front().place, std::align_val_t(64));
        }
        if (bytes > MOST) return ::operator delete(place, std::align_val_t(64));
        pieces.push_back({bytes, place});
        total += bytes;
    }
};

// Memory of one call, at a cache line's edge; what is in it is undefined.
template <class T> class Block {
    size_t bytes;
    T* place;

public:
    explicit Block(size_t n)
        : bytes(n * sizeof(T)), place(bytes ? static_cast<T*>(Kept::instance().take(bytes)) : nullptr) {}
    Block(Block&& other) : bytes(other.bytes), place(other.place) { other.place = nullptr; }
    Block(const Block&) = delete;
    ~Block() {
        if (place) Kept::instance().give(place, bytes);
    }
    operator T*() const { return place; }
};

// work(i) for i < count, each on a thread of its own; what no thread can be had for runs on the caller's.
template <class Work> void on_threads(int count, const Work& work) {
    std::vector<std::thread> others;
    others.reserve(count);
    int begun = 1;
    try {
        for (; begun < count; begun++) others.emplace_back(work, begun);
    } catch (const std::system_error&) {
    }
    for (int i = begun; i < count; i++) work(i);
    work(0);
    for (auto& other : others) other.join();
}

// Ask for large pages behind memory that is about to be written for the first time: a page fault costs a microsecond.
static inline void large_pages(void* start, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = 4096;
    uintptr_t first = (reinterpret_cast<uintptr_t>(start) + page - 1) / page * page;
    uintptr_t end = (reinterpret_cast<uintptr_t>(start) + bytes) / page * page;
    if (end > first + (4 << 20)) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}
