// Kernels of decoders that take a row at a time, for registers of WIDTH floats. Included by compute.h.

// Divide a row, whose length is a multiple of 16, by the root of its mean square; then multiply it by the scale, if there is one.
void rms_norm(const float * from, float * to, int64_t count, float epsilon, const float * scale) {
    Floats squares[4] = {zeros(), zeros(), zeros(), zeros()};
    int64_t at = 0;
    for (; at + 4 * WIDTH <= count; at += 4 * WIDTH) {
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) {
            const Floats values = load(from + at + part * WIDTH);
            squares[part] = mul_add(values, values, squares[part]);
        }
    }
    for (; at < count; at += WIDTH) {
        const Floats values = load(from + at);
        squares[0] = mul_add(values, values, squares[0]);
    }
    const float total = sum(add(add(squares[0], squares[1]), add(squares[2], squares[3])));
    const Floats factor = all(1.0f / std::sqrt(total / count + epsilon));
    for (at = 0; at < count; at += WIDTH) {
        const Floats values = mul(load(from + at), factor);
        store(to + at, scale ? mul(values, load(scale + at)) : values);
    }
}

// x / (1 + exp(-x)).
inline Floats silu_of(Floats x) {
    return divide(x, add(all(1.0f), two_to(smaller(all(126.0f), mul(x, all(-LOG2_E))))));
}

// x / 2 (1 + erf(x / sqrt(2))); erf of Abramowitz and Stegun 7.1.26, accurate to 1.5e-7.
inline Floats gelu_erf_of(Floats x) {
    const Floats z = larger(sub(zeros(), x), x), scaled = mul(z, all(0.70710678118654752f));
    const Floats t = divide(all(1.0f), mul_add(scaled, all(0.3275911f), all(1.0f)));
    Floats y = all(1.061405429f);
    y = mul_add(y, t, all(-1.453152027f));
    y = mul_add(y, t, all(1.421413741f));
    y = mul_add(y, t, all(-0.284496736f));
    y = mul_add(y, t, all(0.254829592f));
    const Floats rest = mul(mul(y, t), two_to(mul(mul(scaled, scaled), all(-LOG2_E))));  // 1 - erf
    // For x > 0: x - z rest / 2; otherwise -z rest / 2, which is x rest / 2.
    return sub(larger(zeros(), x), mul(mul(z, rest), all(0.5f)));
}

// Gated activations: act(gate) * up. A row may have any length, and be written where it was read.
template <Floats (*act)(Floats)>
void gated(const float * gate, const float * up, float * to, int64_t count) {
    int64_t at = 0;
    for (; at + WIDTH <= count; at += WIDTH) store(to + at, mul(act(load(gate + at)), load(up + at)));
    if (at < count) {
        float one[WIDTH] = {}, other[WIDTH] = {};
        std::memcpy(one, gate + at, (count - at) * sizeof(float));
        std::memcpy(other, up + at, (count - at) * sizeof(float));
        store(one, mul(act(load(one)), load(other)));
        std::memcpy(to + at, one, (count - at) * sizeof(float));
    }
}

void glu(GluKind kind, const float * gate, const float * up, float * to, int64_t count) {
    switch (kind) {
        case SWIGLU: return gated<silu_of>(gate, up, to, count);
        case GEGLU: return gated<gelu_of>(gate, up, to, count);
        case GEGLU_ERF: return gated<gelu_erf_of>(gate, up, to, count);
    }
}

// Cosines and sines of angles, accurate to 1e-6 for angles up to 2^15.
inline void turn(Floats angle, Floats & cosine, Floats & sine) {
    const Floats n = whole(mul(angle, all(0.15915494309189535f)));  // full turns
    Floats r = mul_add(n, all(-6.28125f), angle);
    r = mul(mul_add(n, all(-1.9353071795865e-3f), r), all(0.25f));  // a quarter of the rest: at most pi / 4
    const Floats square = mul(r, r);
    Floats s = all(2.7557314e-6f);
    s = mul_add(s, square, all(-1.9841270e-4f));
    s = mul_add(s, square, all(8.3333333e-3f));
    s = mul_add(s, square, all(-1.6666667e-1f));
    s = mul(mul_add(s, square, all(1.0f)), r);
    Floats c = all(-2.7557319e-7f);
    c = mul_add(c, square, all(2.4801587e-5f));
    c = mul_add(c, square, all(-1.3888889e-3f));
    c = mul_add(c, square, all(4.1666667e-2f));
    c = mul_add(c, square, all(-0.5f));
    c = mul_add(c, square, all(1.0f));
    for (int doubled = 0; doubled < 2; doubled++) {
        const Floats both = mul(s, c);
        c = mul_add(mul(s, s), all(-2.0f), all(1.0f));
        s = add(both, both);
    }
    cosine = c;
    sine = s;
}

// Cosines and sines of a position by these frequencies, times a factor. In pairs: each twice, the first sine negative, as
// `rotate` wants them for neighbours. count: of frequencies, a multiple of 16.
void turns(float position, const float * frequencies, int64_t count, float factor, bool in_pairs, float * cosines, float * sines) {
    for (int64_t at = 0; at < count; at += WIDTH) {
        Floats cosine, sine;
        turn(mul(all(position), load(frequencies + at)), cosine, sine);
        cosine = mul(cosine, all(factor));
        sine = mul(sine, all(factor));
        if (!in_pairs) {
            store(cosines + at, cosine);
            store(sines + at, sine);
            continue;
        }
        float one[WIDTH], other[WIDTH];
        store(one, cosine);
        store(other, sine);
        for (int lane = 0; lane < WIDTH; lane++) {
            const int64_t pair = 2 * (at + lane);
            cosines[pair] = cosines[pair + 1] = one[lane];
            sines[pair] = -other[lane];
            sines[pair + 1] = other[lane];
        }
    }
}

// Rotate a row by `turns`; the numbers behind the first `count`, a multiple of 32, are copied. The row may be written where it
// was read.
void rotate(const float * from, float * to, int64_t count, int64_t length, bool in_pairs, const float * cosines,
            const float * sines) {
    if (in_pairs) {
        for (int64_t at = 0; at < count; at += WIDTH) {
            const Floats values = load(from + at);
            store(to + at, mul_add(swap_pairs(values), load(sines + at), mul(values, load(cosines + at))));
        }
    } else {
        const int64_t half = count / 2;
        for (int64_t at = 0; at < half; at += WIDTH) {
            const Floats one = load(from + at), other = load(from + half + at);
            const Floats cosine = load(cosines + at), sine = load(sines + at);
            store(to + at, sub(mul(one, cosine), mul(other, sine)));
            store(to + half + at, mul_add(one, sine, mul(other, cosine)));
        }
    }
    if (count < length && from != to) std::memmove(to + count, from + count, (length - count) * sizeof(float));
}
