// Inner products and weighted sums of T tasks' gradients over lists of tensors; gramian.py and combine.py call them.
//
// A column is one parameter's gradients, one after the other in memory, an address a row or null where there is none.

#include "vectors.h"

namespace {

enum Stored { FLOAT32, BFLOAT16, FLOAT16, FLOAT64 };
constexpr long PIECE = 1 << 15;            // numbers of a column that one sum is made of, and one thread's least
constexpr long WINDOW = 512;               // numbers that are widened at a time: eight tasks' fit the first cache
constexpr int SIDE = 3;                    // tasks of a tile of pairs: 9 sums of 16 registers

struct Piece { long column, first, length; };

dvec load_wide(const double* p) { return *reinterpret_cast<const dvec*>(p); }
dvec load_wide(const float* p) {
    typedef float half __attribute__((vector_size(DLANES * 4), aligned(4), may_alias));
    return __builtin_convertvector(*reinterpret_cast<const half*>(p), dvec);
}

double sum(dvec x) {
    double total[DLANES];
    std::memcpy(total, &x, sizeof x);
    for (int half = DLANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) total[i] += total[i + half];
    return total[0];
}

// have the window after this one fetched: the processor's own guess ends with a page, and rows take turns
template <class X> void fetch_next(const X* p) {
    for (size_t i = 0; i < WINDOW * sizeof(X); i += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(p + WINDOW) + i, 0, 2);
}

// sums[i * step + j] += <left i, right j> for i < R, j < C (j <= i on the diagonal); n is a multiple of DLANES
template <int R, int C, bool DIAGONAL, class X>
void tile(const X* const* left, const X* const* right, long n, double* sums, long step) {
    dvec total[R][C];
    for (auto& row : total)
        for (auto& x : row) x = dvec{};
    for (long k = 0; k < n; k += DLANES) {
        dvec a[R], b[C];
        for (int i = 0; i < R; i++) a[i] = load_wide(left[i] + k);
        for (int j = 0; j < C; j++) b[j] = DIAGONAL ? a[j] : load_wide(right[j] + k);
        for (int i = 0; i < R; i++)
            for (int j = 0; j < (DIAGONAL ? i + 1 : C); j++) total[i][j] += a[i] * b[j];
    }
    for (int i = 0; i < R; i++)
        for (int j = 0; j < (DIAGONAL ? i + 1 : C); j++) sums[i * step + j] += sum(total[i][j]);
}

template <int R, int C, class X>
void tile_of(int rows, int columns, const X* const* left, const X* const* right, long n, double* sums, long step) {
    if constexpr (R > 1)
        if (rows < R) return tile_of<R - 1, C>(rows, columns, left, right, n, sums, step);
    if constexpr (C > 1)
        if (columns < C) return tile_of<R, C - 1>(rows, columns, left, right, n, sums, step);
    if constexpr (R == C)
        if (left == right) return tile<R, C, true>(left, right, n, sums, step);
    tile<R, C, false>(left, right, n, sums, step);
}

// every pair of `count` rows, the lower triangle; sums (count, count)
template <class X> void pairs(const X* const* rows, int count, long n, double* sums) {
    for (int i = 0; i < count; i += SIDE)
        for (int j = 0; j <= i; j += SIDE)
            tile_of<SIDE, SIDE>(std::min(SIDE, count - i), std::min(SIDE, count - j), rows + i, rows + j, n,
                                sums + i * count + j, count);
}

// the same of rows in any type, by way of a window of doubles
template <class X> void widened_pairs(const X* const* rows, int count, long n, double* window, double* sums) {
    std::vector<const double*> wide(count);
    for (int i = 0; i < count; i++) wide[i] = window + i * WINDOW;
    for (long first = 0; first < n; first += WINDOW) {
        const long length = std::min(WINDOW, n - first), whole = (length + DLANES - 1) / DLANES * DLANES;
        for (int i = 0; i < count; i++) {
            double* to = window + i * WINDOW;
            fetch_next(rows[i] + first);
            for (long k = 0; k < length; k++) to[k] = widen(rows[i][first + k]);
            for (long k = length; k < whole; k++) to[k] = 0;
        }
        pairs(wide.data(), count, whole, sums);
    }
}

template <class X> void pairs_of_piece(const void* const* held, int count, const Piece& piece, double* window,
                                       double* sums) {
    std::vector<const X*> rows(count);
    for (int i = 0; i < count; i++) rows[i] = static_cast<const X*>(held[i]) + piece.first;
    long whole = 0;
    if constexpr (sizeof(X) >= 4)          // few tasks read every number once: nothing to keep
        if (count <= SIDE) {
            whole = piece.length / DLANES * DLANES;
            for (long k = 0; k < whole; k += WINDOW) {
                pairs(rows.data(), count, std::min(WINDOW, whole - k), sums);
                for (auto& row : rows) row += std::min(WINDOW, whole - k);
            }
        }
    widened_pairs(rows.data(), count, piece.length - whole, window, sums);
}

std::vector<Piece> pieces_of(const long* sizes, long columns) {
    std::vector<Piece> pieces;
    for (long i = 0; i < columns; i++)
        for (long first = 0; first < sizes[i]; first += PIECE)
            pieces.push_back({i, first, std::min(PIECE, sizes[i] - first)});
    return pieces;
}

// work(thread, piece) for every piece; a thread takes pieces that follow each other, about as many numbers as any other
template <class Work> void share(const std::vector<Piece>& pieces, long threads, const Work& work) {
    std::vector<size_t> begin(threads + 1, pieces.size());
    long all = 0, before = 0;
    for (auto& piece : pieces) all += piece.length;
    for (size_t i = 0, thread = 0; i < pieces.size(); before += pieces[i++].length)
        while (thread <= size_t(threads) && before >= all * long(thread) / threads) begin[thread++] = i;
    begin[threads] = pieces.size();
    on_threads(threads, [&](long thread) {
        for (size_t i = begin[thread]; i < begin[thread + 1]; i++) work(thread, pieces[i]);
    });
}

// target = factors[0] target + factors[1] others[0] + ..., summed in Sum
template <class X, class Sum>
void weigh(X* target, const X* const* others, const Sum* factors, int count, long n) {
    Sum window[WINDOW];
    for (long first = 0; first < n; first += WINDOW) {
        const long length = std::min(WINDOW, n - first);
        fetch_next(target + first);
        for (long k = 0; k < length; k++) window[k] = factors[0] * Sum(widen(target[first + k]));
        for (int i = 0; i < count; i++) {
            const X* from = others[i] + first;
            const Sum factor = factors[i + 1];
            fetch_next(from);
            for (long k = 0; k < length; k++) window[k] += factor * Sum(widen(from[k]));
        }
        for (long k = 0; k < length; k++) narrow(window[k], target[first + k]);
    }
}

template <class X, class Sum>
void weigh_piece(void* const* column, const double* factors, long rows, const Piece& piece) {
    X* target = nullptr;
    std::vector<const X*> others;
    std::vector<Sum> used;
    for (long i = 0; i < rows; i++)
        if (column[i]) {
            X* here = static_cast<X*>(column[i]) + piece.first;
            target ? others.push_back(here) : void(target = here);
            used.push_back(Sum(factors[i]));
        }
    weigh<X, Sum>(target, others.data(), used.data(), others.size(), piece.length);
}

}  // namespace

// sums (tasks, tasks), the lower triangle, of addresses (columns, tasks); sizes and types a column.
// 0, or 1 if there is no memory.
extern "C" int gramian(const void* const* addresses, const long* sizes, const long* types, long columns, long tasks,
                       long threads, double* sums) {
    try {
        std::vector<Block<double>> windows, totals;
        for (long i = 0; i < threads; i++) {
            windows.emplace_back(tasks * WINDOW);
            totals.emplace_back(tasks * tasks);
            std::fill_n(static_cast<double*>(totals[i]), tasks * tasks, 0.0);
        }
        share(pieces_of(sizes, columns), threads, [&](long thread, const Piece& piece) {
            std::vector<const void*> held;
            std::vector<long> there;
            for (long t = 0; t < tasks; t++)
                if (const void* row = addresses[piece.column * tasks + t]) held.push_back(row), there.push_back(t);
            const int count = held.size();
            std::vector<double> part(count * count, 0.0);
            const auto add = [&](auto number) {
                pairs_of_piece<decltype(number)>(held.data(), count, piece, windows[thread], part.data());
            };
            switch (types[piece.column]) {
                case FLOAT32: add(float()); break;
                case BFLOAT16: add(bfloat16()); break;
                case FLOAT16: add(float16()); break;
                default: add(double());
            }
            for (int i = 0; i < count; i++)
                for (int j = 0; j <= i; j++) totals[thread][there[i] * tasks + there[j]] += part[i * count + j];
        });
        for (long i = 0; i < tasks * tasks; i++) {
            sums[i] = 0;
            for (auto& total : totals) sums[i] += total[i];
        }
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// The first there is of a column's addresses (columns, rows) becomes the sum of all, each times its row's factor.
// 0, or 1 if there is no memory.
extern "C" int combine(void* const* addresses, const long* sizes, const long* types, long columns, long rows,
                       const double* factors, long threads) {
    try {
        share(pieces_of(sizes, columns), threads, [&](long, const Piece& piece) {
            void* const* column = addresses + piece.column * rows;
            switch (types[piece.column]) {
                case FLOAT32: return weigh_piece<float, float>(column, factors, rows, piece);
                case BFLOAT16: return weigh_piece<bfloat16, float>(column, factors, rows, piece);
                case FLOAT16: return weigh_piece<float16, float>(column, factors, rows, piece);
                default: weigh_piece<double, double>(column, factors, rows, piece);
            }
        });
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
