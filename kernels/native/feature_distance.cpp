// The feature distance with every gradient in one pass: ../README.md has the algebra, feature_distance.py the call.
//
// A thread takes chunks of CHUNK pixels. A chunk's student pixels s (pixels, C) are copied as rows, and then
//     a  = s W'           W = all T tasks' adaptors, one below the other: (T D, C)
//     da = alpha g + beta a, row by row, in the place of a; the distances
//     ds = da W,  dA += da' s
// by register tiles of ROWS x WIDE sums. Columns are padded with zeros: D to LANES a task, the rest to WIDE.

#include "products.h"

namespace {

constexpr float EPSILON = 1e-6f;
constexpr long CHUNK = 192;                // pixels: 144 to 288 are alike, 96 is 8 % slower and so is 512
constexpr long BLOCK = 16;                 // pixels whose rows stay in the first cache between their three passes

enum Stored { FLOAT32, BFLOAT16, FLOAT16, UINT8 };

long up(long n, long step) { return (n + step - 1) / step * step; }
long stride(long n) { return up(n, 16) + (up(n, 16) / 16 % 2 ? 0 : 16); }      // an odd number of cache lines

}  // namespace

// What one call works on; feature_distance.py fills it in, in this order.
struct Call {
    const void* student;                   // images x pixels x C in strides of numbers
    long images, pixels, C, image_step, pixel_step, channel_step;
    void* by_student;                      // the same, or null; in the student's type
    long by_image_step, by_pixel_step, by_channel_step, teacher_image_step, teacher_pixel_step, teacher_channel_step;
    long student_type, tasks, D, teacher_type, threads;
    const float* const* adaptors;          // T of (D, C), or null for the identity
    const void* const* teachers;           // T of images x pixels x D, all in the same strides
    const float* weights;                  // T of them, -2 lambda / pixels in all
    float* by_adaptors;                    // (T, D, C), or null
    double* distances;                     // T sums over pixels, without |g|^2
};

namespace {

// Sizes with their padding, and both orders of the stacked adaptors.
struct Plan {
    const Call& call;
    long Dp, TD, Cp, s_row, a_row, per_image, chunk, chunks;
    bool whole;                            // no padding
    Block<float> forward, backward;        // W' in panels of WIDE tasks' channels; W in panels of WIDE channels

    explicit Plan(const Call& c)
        : call(c), Dp(up(c.D, LANES)), TD(up(c.tasks * Dp, WIDE)), Cp(up(c.C, WIDE)), s_row(stride(Cp)),
          a_row(stride(TD)), per_image((c.pixels + CHUNK - 1) / CHUNK),
          chunk(std::min(CHUNK, up((c.pixels + per_image - 1) / per_image, ROWS))), chunks(c.images * per_image),
          whole(TD == c.tasks * c.D && Cp == c.C), forward(c.adaptors ? TD * Cp : 0),
          backward(c.adaptors ? TD * Cp : 0) {}

    bool trained() const { return call.adaptors && call.by_adaptors; }

    // eight rows of the stack from r on: where they lie, and how many of them are no padding
    const float* eight(long r, long& there) const {
        const long t = r / Dp, d = r % Dp;
        there = t < call.tasks ? std::max(0L, std::min(8L, call.D - d)) : 0;
        return there ? call.adaptors[t] + d * call.C : nullptr;
    }

    // WIDE rows of the stack from r on, turned: (C, WIDE); padding is zero
    void pack_forward(long first, float* panel) const {
        for (long r = first; r < first + WIDE; r += 8) {
            long there, c = 0;
            const float* from = eight(r, there);
            float* to = panel + r - first;
            for (; there == 8 && c + 8 <= call.C; c += 8) transpose8(from + c, call.C, to + c * WIDE, WIDE);
            for (; c < call.C; c++)
                for (long i = 0; i < 8; i++) to[c * WIDE + i] = i < there ? from[i * call.C + c] : 0;
        }
    }

    // rows [first, last) of the stack, of whole panels, in both orders
    void pack(long first, long last) {
        for (long r = first; r < last; r += WIDE) pack_forward(r, forward + r * call.C);
        for (long r = first; r < last; r += 8) {
            long there;
            const float* from = eight(r, there);
            for (long j = 0; j < Cp; j += WIDE)
                for (long i = 0; i < 8; i++) {
                    float* panel = backward + j * TD + (r + i) * WIDE;
                    const long held = i < there ? std::max(0L, std::min<long>(WIDE, call.C - j)) : 0;
                    std::copy_n(from + i * call.C + j, held, panel);
                    std::fill(panel + held, panel + WIDE, 0.0f);
                }
        }
    }
};

struct Worker {
    const Plan& plan;
    const Call& call;
    float* sums;                           // of the adaptors' gradient, in place if one worker makes it whole
    Block<float> s, a, ds, g, group, panels, own;  // g: one teacher; group, panels: a and s, copied
    std::unique_ptr<Block<double>> total;  // of `sums`, if in float32 they would grow too long
    std::vector<double> distances;
    long added = 0;                        // chunks in `sums`
    static constexpr long MOST = 16;       // of them

    Worker(const Plan& p, long chunks, bool in_place)
        : plan(p), call(p.call), s(p.chunk * p.s_row), a(p.chunk * p.a_row), ds(p.chunk * p.Cp),
          g(call.teacher_channel_step == 1 ? 0 : p.chunk * p.Dp), group(p.trained() ? p.chunk * GROUP : 0),
          panels(p.trained() ? p.chunk * p.Cp : 0), own(p.trained() && !in_place ? p.TD * p.Cp : 0),
          distances(call.tasks, 0.0) {
        sums = in_place ? call.by_adaptors : static_cast<float*>(own);
        std::memset(s, 0, sizeof(float) * p.chunk * p.s_row);
        if (p.trained() && chunks > MOST) {
            total = std::make_unique<Block<double>>(p.TD * p.Cp);
            std::memset(*total, 0, sizeof(double) * p.TD * p.Cp);
        }
    }

    template <class S, class G> void work(long chunk_number) {
        const long image = chunk_number / plan.per_image, first = chunk_number % plan.per_image * plan.chunk;
        const long n = std::min(plan.chunk, call.pixels - first);
        gather(static_cast<const S*>(call.student) + image * call.image_step + first * call.pixel_step,
               call.pixel_step, call.channel_step, n, call.C, s, plan.s_row);
        if (call.adaptors) product(n, plan.TD, call.C, s, plan.s_row, plan.forward, a, plan.a_row);
        for (long t = 0; t < call.tasks; t++) {
            const G* teacher = static_cast<const G*>(call.teachers[t]) + image * call.teacher_image_step
                               + first * call.teacher_pixel_step;
            if (call.teacher_channel_step == 1) {
                rows<std::is_same_v<G, uint8_t>>(t, n, teacher, call.teacher_pixel_step);
            } else {
                gather(teacher, call.teacher_pixel_step, call.teacher_channel_step, n, call.D, g, plan.Dp);
                rows<std::is_same_v<G, uint8_t>>(t, n, static_cast<const float*>(g), plan.Dp);
            }
        }
        if (call.adaptors && call.by_student) product(n, plan.Cp, plan.TD, a, plan.a_row, plan.backward, ds, plan.Cp);
        if (plan.trained()) add(n);
        if (call.by_student)
            scatter(ds, plan.Cp, n, call.C,
                    static_cast<S*>(call.by_student) + image * call.by_image_step + first * call.by_pixel_step,
                    call.by_pixel_step, call.by_channel_step);
    }

    // distances of one task's pixels, and da: in the place of a, or added up in ds if there are no adaptors
    template <bool BYTES, class G> void rows(long t, long n, const G* teacher, long next) {
        const bool identity = !call.adaptors, wanted = call.by_student || plan.trained();
        const float* from = identity ? s : a + t * plan.Dp;
        float* out = identity ? ds : a + t * plan.Dp;
        const long row = identity ? plan.s_row : plan.a_row, out_row = identity ? plan.Cp : plan.a_row;
        double distance = 0;
        for (long first = 0; first < n; first += BLOCK) {
            const long count = std::min(BLOCK, n - first);
            float norm2[BLOCK] = {}, dot[BLOCK] = {}, length2[BLOCK] = {}, alpha[BLOCK], beta[BLOCK];
            for (long p = 0; p < count; p++)
                inner<BYTES>(from + (first + p) * row, teacher + (first + p) * next, norm2[p], dot[p], length2[p]);
            for (long p = 0; p < BLOCK; p++) {
                const float root = 1 / std::sqrt(norm2[p] + EPSILON), root2 = root * root;
                // bytes hold no length: the vector is made a unit one here
                const float unit = BYTES ? 1 / std::sqrt(std::max(length2[p], 1e-12f)) : 1;
                const float d = root * dot[p] * unit, weight = call.weights[t] * root;
                alpha[p] = weight * unit;
                beta[p] = -weight * root * (d + EPSILON * root2);
                norm2[p] = norm2[p] * root2 - 2 * d;
            }
            for (long p = 0; p < count; p++) distance += norm2[p];
            for (long p = 0; wanted && p < count; p++)
                combine(from + (first + p) * row, teacher + (first + p) * next, alpha[p], beta[p],
                        out + (first + p) * out_row, identity && t > 0);
        }
        distances[t] += distance;
    }

    template <bool BYTES, class G> void inner(const float* a, const G* g, float& norm2, float& dot, float& length2) {
        vec squares = {}, products = {}, lengths = {};
        each(g, [&](long d, vec x) {
            const vec y = load(a + d);
            squares += y * y;
            products += y * x;
            if (BYTES) lengths += x * x;
        });
        norm2 = sum(squares), dot = sum(products);
        if (BYTES) length2 = sum(lengths);
    }

    template <class G> void combine(const float* a, const G* g, float alpha, float beta, float* out, bool more) {
        each(g, [&](long d, vec x) {
            const vec y = alpha * x + beta * load(a + d);
            store(out + d, more ? load(out + d) + y : y);
        });
    }

    // visit a teacher's pixel in vectors of LANES, the last one filled up with zeros
    template <class G, class Visit> void each(const G* g, const Visit& visit) {
        long d = 0;
        for (; d + LANES <= call.D; d += LANES) visit(d, load(g + d));
        if (d < call.D) {
            G rest[LANES] = {};
            std::memcpy(rest, g + d, (call.D - d) * sizeof(G));
            visit(d, load(rest));
        }
    }

    void add(long n) {
        for (long c = 0; c < plan.Cp; c += LANES)
            for (long p = 0; p < n; p++)
                store(panels + c / WIDE * WIDE * n + p * WIDE + c % WIDE, load(s + p * plan.s_row + c));
        turned_product(plan.TD, plan.Cp, n, a, plan.a_row, panels, sums, added > 0, group);
        if (++added == MOST && total) flush();
    }

    void flush() {
        for (long i = 0; added && i < plan.TD * plan.Cp; i++) (*total)[i] += sums[i];
        added = 0;
    }
};

// Chunks of a worker follow each other, and workers' sums are added in their order: equal calls, equal bits.
template <class S, class G> void run(const Call& call) {
    Plan plan(call);
    const long threads = std::max(1L, std::min(call.threads, plan.chunks));
    const long helpers = plan.TD * call.C > (1 << 16) ? threads : 1;
    const auto share = [&](long all, long i) { return all * i / helpers; };
    if (call.adaptors)
        on_threads(helpers, [&](long i) {
            plan.pack(share(plan.TD / WIDE, i) * WIDE, share(plan.TD / WIDE, i + 1) * WIDE);
        });
    const bool in_place = plan.trained() && plan.whole && threads == 1 && plan.chunks <= Worker::MOST;
    std::vector<std::unique_ptr<Worker>> workers(threads);
    for (long i = 0; i < threads; i++)
        workers[i] = std::make_unique<Worker>(plan, plan.chunks * (i + 1) / threads - plan.chunks * i / threads,
                                              in_place);
    on_threads(threads, [&](long i) {
        for (long c = plan.chunks * i / threads; c < plan.chunks * (i + 1) / threads; c++)
            workers[i]->template work<S, G>(c);
        if (workers[i]->total) workers[i]->flush();
    });
    for (long t = 0; t < call.tasks; t++) {
        call.distances[t] = 0;
        for (auto& worker : workers) call.distances[t] += worker->distances[t];
    }
    if (!plan.trained() || in_place) return;
    const auto collect = [&](long first, long last) {
        std::vector<double> row(call.C);
        for (long r = first; r < last; r++) {
            const long from = (r / call.D * plan.Dp + r % call.D) * plan.Cp;
            std::fill_n(row.begin(), call.C, 0.0);
            for (auto& worker : workers)
                for (long c = 0; c < call.C; c++)
                    row[c] += worker->total ? (*worker->total)[from + c] : worker->sums[from + c];
            std::copy_n(row.begin(), call.C, call.by_adaptors + r * call.C);
        }
    };
    const long all = call.tasks * call.D;
    on_threads(helpers, [&](long i) { collect(share(all, i), share(all, i + 1)); });
}

template <class S> void run(const Call& call) {
    if (call.teacher_type == UINT8) return run<S, uint8_t>(call);
    if (call.teacher_type == FLOAT16) return run<S, float16>(call);
    run<S, float>(call);
}

}  // namespace

// 0, or 1 if there is no memory
extern "C" int feature_distance(const Call* call) {
    try {
        if (call->by_student)
            large_pages(call->by_student, call->images * call->pixels * call->C * (call->student_type ? 2 : 4));
        call->student_type == BFLOAT16 ? run<bfloat16>(*call) : run<float>(*call);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
