// Formats of weights: how a type of ggml's is in a file, and how it is packed. Included inside a namespace.
//
// Packed weights are groups of 16 rows. A group is a row of packed blocks, one for each block of columns that a file has, and
// each holds the blocks of all 16 rows. Numbers are kept in lines of 64 bytes: 4 columns of 16 rows, which is what a dot
// product of bytes takes at once; 8 lines are 32 columns. Nothing is lost: what was set can be read back, except for F16 and
// BF16, see Words.
//
//   Q8_0           8 lines of quants + 128 (the first factor of VNNI's dpbusd is unsigned); 16 scales in half precision
//   4-bit types    4 lines: columns 0 to 15 of a block in the low half of each byte, 16 to 31 in the high one
//   5-bit types    the same; then a line with the fifth bits: bit n of a byte is that of line n
//   Q6_K           the same as 4-bit types; then 2 lines with the upper bits, for 4 lines of quants each
//   scales         16 in half precision; the minima of Q4_1 and Q5_1 follow
//   of K types     blocks of 256 columns: 16 scales and minima in half precision, followed by 8 times the lines of 32 columns
//     and IQ4_XS   and their scales, 16 bytes for each number that the type has for 32 columns
//   F16, BF16      blocks of 64 columns: 32 lines of 2 columns of 16 rows, as integers of 16 bits; 16 scales in F32

// How activations are quantised for a format: 8 bits; the same and sums of half blocks; 16 bits.
enum Given { BYTES, HALVES, WORDS };

// Columns that share a scale.
constexpr int64_t block_columns(Given given) { return given == WORDS ? WORD_BLOCK : BLOCK; }

struct Format {
    int32_t type;         // of ggml
    Given given;
    int64_t columns;      // of a block
    size_t block_bytes;   // of a block in a file
    size_t packed_bytes;  // of a packed block
    // Pack or unpack the block of one of 16 rows.
    void (*pack)(const uint8_t * from, uint8_t * to, int row);
    void (*unpack)(const uint8_t * from, uint8_t * to, int row);

    size_t row_bytes(int64_t of_columns) const { return of_columns / columns * block_bytes; }
    size_t group_bytes(int64_t of_columns) const { return of_columns / columns * packed_bytes; }
};

// Where the number of a column of 32 is in its lines.
constexpr size_t in_line(int column, int row) { return column / 4 * LINE + 4 * row + column % 4; }

// Four bytes as one number: they are moved, or changed, at once.
uint32_t four_at(const uint8_t * from) {
    uint32_t four;
    std::memcpy(&four, from, sizeof four);
    return four;
}
void set_four(uint8_t * to, uint32_t four) { std::memcpy(to, &four, sizeof four); }

// --- Q8_0 -----------------------------------------------------------------------------------------------------------------

void pack_q8_0(const uint8_t * from, uint8_t * to, int row) {
    std::memcpy(to + SCALES_AT + SCALE_BYTES * row, from, SCALE_BYTES);
    for (int column = 0; column < BLOCK; column += 4) {
        set_four(to + in_line(column, row), four_at(from + SCALE_BYTES + column) ^ 0x80808080);
    }
}

void unpack_q8_0(const uint8_t * from, uint8_t * to, int row) {
    std::memcpy(to, from + SCALES_AT + SCALE_BYTES * row, SCALE_BYTES);
    for (int column = 0; column < BLOCK; column += 4) {
        set_four(to + SCALE_BYTES + column, four_at(from + in_line(column, row)) ^ 0x80808080);
    }
}

// --- types of 4, 5 and 6 bits ----------------------------------------------------------------------------------------------

// Set, and get, the numbers of BITS bits of 32 columns of a row.
template <int BITS> void set_codes(uint8_t * lines, int row, const uint8_t * codes) {
    for (int column = 0; column < BLOCK / 2; column += 4) {
        const uint32_t low = four_at(codes + column), high = four_at(codes + BLOCK / 2 + column);
        set_four(lines + in_line(column, row), (low & 0x0f0f0f0f) | (high & 0x0f0f0f0f) << 4);
    }
    uint8_t * upper = lines + 4 * LINE + 4 * row;
    if (BITS == 5) {
        uint32_t bits = 0;
        for (int line = 0; line < 8; line++) bits |= (four_at(codes + 4 * line) >> 4 & 0x01010101) << line;
        set_four(upper, bits);
    }
    for (int half = 0; BITS == 6 && half < 2; half++) {
        uint32_t bits = 0;
        for (int line = 0; line < 4; line++) bits |= (four_at(codes + 16 * half + 4 * line) >> 4 & 0x03030303) << 2 * line;
        set_four(upper + LINE * half, bits);
    }
}

template <int BITS> void get_codes(const uint8_t * lines, int row, uint8_t * codes) {
    for (int column = 0; column < BLOCK / 2; column++) {
        codes[column] = lines[in_line(column, row)] & 0xf;
        codes[column + BLOCK / 2] = lines[in_line(column, row)] >> 4;
    }
    const uint8_t * upper = lines + 4 * LINE;
    for (int column = 0; BITS == 5 && column < BLOCK; column++) {
        codes[column] |= (upper[4 * row + column % 4] >> column / 4 & 1) << 4;
    }
    for (int column = 0; BITS == 6 && column < BLOCK; column++) {
        codes[column] |= (upper[column / 16 * LINE + 4 * row + column % 4] >> column % 16 / 4 * 2 & 3) << 4;
    }
}

constexpr size_t lines_bytes(int bits) { return bits * LINE; }

// Blocks of 32 columns: HALVES_BEFORE scales in half precision, the fifth bits if there are any, 16 bytes of two codes each.
template <int BITS, int NUMBERS> struct Small {
    static constexpr size_t BEFORE = NUMBERS * SCALE_BYTES, UPPER = BITS == 5 ? 4 : 0;
    static constexpr size_t BYTES = BEFORE + UPPER + BLOCK / 2, PACKED = lines_bytes(BITS) + GROUP * BEFORE;

    static void pack(const uint8_t * from, uint8_t * to, int row) {
        const uint8_t * quants = from + BEFORE + UPPER;
        uint32_t fifth = 0;
        std::memcpy(&fifth, from + BEFORE, UPPER);
        uint8_t codes[BLOCK];
        for (int at = 0; at < 16; at++) {
            codes[at] = quants[at] & 0xf;
            codes[at + 16] = quants[at] >> 4;
        }
        // The product has the lowest four bits of a number in bytes of their own.
        for (int column = 0; BITS == 5 && column < BLOCK; column += 4) {
            const uint32_t bits = (fifth >> column & 0xf) * 0x00204081 & 0x01010101;
            set_four(codes + column, four_at(codes + column) | bits << 4);
        }
        set_codes<BITS>(to, row, codes);
        for (int number = 0; number < NUMBERS; number++) {
            std::memcpy(to + lines_bytes(BITS) + SCALE_BYTES * (GROUP * number + row), from + SCALE_BYTES * number, SCALE_BYTES);
        }
    }

    static void unpack(const uint8_t * from, uint8_t * to, int row) {
        uint8_t codes[BLOCK];
        get_codes<BITS>(from, row, codes);
        uint32_t fifth = 0;
        for (int column = 0; column < BLOCK; column++) fifth |= static_cast<uint32_t>(codes[column] >> 4) << column;
        std::memcpy(to + BEFORE, &fifth, UPPER);
        for (int at = 0; at < 16; at++) to[BEFORE + UPPER + at] = (codes[at] & 0xf) | (codes[at + 16] & 0xf) << 4;
        for (int number = 0; number < NUMBERS; number++) {
            std::memcpy(to + SCALE_BYTES * number, from + lines_bytes(BITS) + SCALE_BYTES * (GROUP * number + row), SCALE_BYTES);
        }
    }
};

// Blocks of 256 columns in 8 blocks of 32, each of which has lines, and NUMBERS bytes of scales for each row. Parts: how the
// type keeps them in a file. HALVES_BEFORE: scales in half precision that the whole block has.
template <int BITS, int NUMBERS, int HALVES_BEFORE, typename Parts> struct Large {
    static constexpr size_t PART = lines_bytes(BITS) + NUMBERS * GROUP;  // of 32 columns, packed
    static constexpr size_t BEFORE = HALVES_BEFORE * SCALE_BYTES, PACKED = GROUP * BEFORE + LARGE / BLOCK * PART;

    static void pack(const uint8_t * from, uint8_t * to, int row) {
        for (int number = 0; number < HALVES_BEFORE; number++) {
            std::memcpy(to + SCALE_BYTES * (GROUP * number + row), from + Parts::halves_at(number), SCALE_BYTES);
        }
        to += GROUP * BEFORE;
        uint8_t codes[LARGE], scales[NUMBERS * LARGE / BLOCK];
        Parts::read(from, codes, scales);
        for (int block = 0; block < LARGE / BLOCK; block++, to += PART) {
            set_codes<BITS>(to, row, codes + block * BLOCK);
            for (int number = 0; number < NUMBERS; number++) {
                to[lines_bytes(BITS) + GROUP * number + row] = scales[NUMBERS * block + number];
            }
        }
    }

    static void unpack(const uint8_t * from, uint8_t * to, int row) {
        for (int number = 0; number < HALVES_BEFORE; number++) {
            std::memcpy(to + Parts::halves_at(number), from + SCALE_BYTES * (GROUP * number + row), SCALE_BYTES);
        }
        from += GROUP * BEFORE;
        uint8_t codes[LARGE], scales[NUMBERS * LARGE / BLOCK];
        for (int block = 0; block < LARGE / BLOCK; block++, from += PART) {
            get_codes<BITS>(from, row, codes + block * BLOCK);
            for (int number = 0; number < NUMBERS; number++) {
                scales[NUMBERS * block + number] = from[lines_bytes(BITS) + GROUP * number + row];
            }
        }
        Parts::write(to, codes, scales);
    }
};

// Q4_K and Q5_K: two halves, 12 bytes of scales and minima of 6 bits, the fifth bits, codes of 64 columns in 32 bytes.
template <int BITS> struct PartsOfK {
    static constexpr int SCALES = 4, FIFTH = 16, CODES = BITS == 5 ? 48 : 16, BYTES = CODES + 128;

    static int halves_at(int number) { return 2 * number; }

    // scales: a scale and a minimum of each block of 32.
    static void read(const uint8_t * from, uint8_t * codes, uint8_t * scales) {
        const uint8_t * bits = from + SCALES;
        for (int block = 0; block < 4; block++) {
            scales[2 * block] = bits[block] & 63;
            scales[2 * block + 1] = bits[block + 4] & 63;
            scales[2 * (block + 4)] = (bits[block + 8] & 0xf) | bits[block] >> 6 << 4;
            scales[2 * (block + 4) + 1] = bits[block + 8] >> 4 | bits[block + 4] >> 6 << 4;
        }
        for (int half = 0; half < 8; half++, codes += 32) {
            for (int at = 0; at < 32; at++) {
                codes[at] = from[CODES + half / 2 * 32 + at] >> half % 2 * 4 & 0xf;
                if (BITS == 5) codes[at] |= (from[FIFTH + at] >> half & 1) << 4;
            }
        }
    }

    static void write(uint8_t * to, const uint8_t * codes, const uint8_t * scales) {
        uint8_t * bits = to + SCALES;
        for (int block = 0; block < 4; block++) {
            bits[block] = (scales[2 * block] & 63) | scales[2 * (block + 4)] >> 4 << 6;
            bits[block + 4] = (scales[2 * block + 1] & 63) | scales[2 * (block + 4) + 1] >> 4 << 6;
            bits[block + 8] = (scales[2 * (block + 4)] & 0xf) | scales[2 * (block + 4) + 1] << 4;
        }
        std::memset(to + SCALES + 12, 0, BYTES - SCALES - 12);
        for (int column = 0; column < LARGE; column++) {
            const int half = column / 32, at = column % 32;
            to[CODES + half / 2 * 32 + at] |= (codes[column] & 0xf) << half % 2 * 4;
            if (BITS == 5) to[FIFTH + at] |= codes[column] >> 4 << half;
        }
    }
};

// Q6_K: 128 bytes of lower and 64 of upper bits, 16 signed scales, one half.
struct PartsOfQ6K {
    static constexpr int UPPER = 128, SCALES = 192, BYTES = 210;

    static int halves_at(int) { return 208; }

    static void read(const uint8_t * from, uint8_t * codes, uint8_t * scales) {
        std::memcpy(scales, from + SCALES, 16);
        for (int block = 0; block < 8; block++, codes += 32) {
            const int half = block / 4, quarter = block % 4;
            for (int at = 0; at < 32; at++) {
                const int lower = from[64 * half + 32 * (quarter % 2) + at] >> quarter / 2 * 4 & 0xf;
                codes[at] = lower | (from[UPPER + 32 * half + at] >> 2 * quarter & 3) << 4;
            }
        }
    }

    static void write(uint8_t * to, const uint8_t * codes, const uint8_t * scales) {
        std::memset(to, 0, SCALES);
        std::memcpy(to + SCALES, scales, 16);
        for (int column = 0; column < LARGE; column++) {
            const int half = column / 128, quarter = column % 128 / 32, at = column % 32;
            to[64 * half + 32 * (quarter % 2) + at] |= (codes[column] & 0xf) << quarter / 2 * 4;
            to[UPPER + 32 * half + at] |= codes[column] >> 4 << 2 * quarter;
        }
    }
};

// IQ4_XS: a half, the upper 2 bits of 8 scales, their lower 4 bits, codes of 32 columns in 16 bytes. Scales are above their
// value by 32.
struct PartsOfIQ4XS {
    static constexpr int UPPER = 2, SCALES = 4, CODES = 8, BYTES = 136;

    static int halves_at(int) { return 0; }

    static void read(const uint8_t * from, uint8_t * codes, uint8_t * scales) {
        uint16_t upper;
        std::memcpy(&upper, from + UPPER, sizeof upper);
        for (int block = 0; block < 8; block++) {
            scales[block] = (from[SCALES + block / 2] >> block % 2 * 4 & 0xf) | (upper >> 2 * block & 3) << 4;
        }
        for (int block = 0; block < 8; block++, codes += 32) {
            for (int at = 0; at < 16; at++) {
                codes[at] = from[CODES + 16 * block + at] & 0xf;
                codes[at + 16] = from[CODES + 16 * block + at] >> 4;
            }
        }
    }

    static void write(uint8_t * to, const uint8_t * codes, const uint8_t * scales) {
        std::memset(to + SCALES, 0, BYTES - SCALES);
        uint16_t upper = 0;
        for (int block = 0; block < 8; block++) {
            to[SCALES + block / 2] |= (scales[block] & 0xf) << block % 2 * 4;
            upper |= static_cast<uint16_t>((scales[block] >> 4 & 3) << 2 * block);
        }
        std::memcpy(to + UPPER, &upper, sizeof upper);
        for (int column = 0; column < LARGE; column++) {
            to[CODES + column / 32 * 16 + column % 16] |= (codes[column] & 0xf) << column % 32 / 16 * 4;
        }
    }
};

// --- F16 and BF16 ---------------------------------------------------------------------------------------------------------

// Without branches, so that compilers vectorise it: the bits are right but for the bias of the exponent, which a multiplication
// corrects, also of subnormal numbers.
float float_of_f16(uint16_t bits) {
    const uint32_t size = static_cast<uint32_t>(bits & 0x7fff) << 13, sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    float value;
    std::memcpy(&value, &size, sizeof value);
    value *= 0x1p112f;
    uint32_t found;
    std::memcpy(&found, &value, sizeof found);
    found |= sign | (size >= 31u << 23 ? 255u << 23 : 0);  // infinity, NaN
    std::memcpy(&value, &found, sizeof value);
    return value;
}

float float_of_bf16(uint16_t bits) {
    const uint32_t found = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &found, sizeof value);
    return value;
}

// Nearest, ties to even; NaN stays NaN.
uint16_t f16_of_float(float value) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float size = std::fabs(value);
    if (std::isnan(value)) return 0x7e00;
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(size * 0x1p24f));
    uint32_t bits;
    std::memcpy(&bits, &size, sizeof bits);
    bits += 0xfff + (bits >> 13 & 1);
    return sign | static_cast<uint16_t>((bits >> 13) - (112 << 10));
}

uint16_t bf16_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 64);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Where the number of a column is in the lines of a block.
constexpr size_t in_words(int column, int row) { return column / 2 * LINE + 4 * row + column % 2 * 2; }

// The numbers of a block of a row as integers of 16 bits with one scale. A dot product of a block must not overflow, so their
// sum is limited. The weights that are read back are rounded, to 1/4000 of the largest of a block or finer.
template <float (*to_float)(uint16_t), uint16_t (*of_float)(float)> struct Words {
    static constexpr size_t BYTES = 2 * WORD_BLOCK, LINES = WORD_BLOCK / 2, PACKED = LINES * LINE + GROUP * sizeof(float);

    static void pack(const uint8_t * from, uint8_t * to, int row) {
        float values[WORD_BLOCK], tops[4] = {}, sums[4] = {};
        for (int column = 0; column < WORD_BLOCK; column++) {
            uint16_t bits;
            std::memcpy(&bits, from + 2 * column, sizeof bits);
            values[column] = to_float(bits);
        }
        for (int column = 0; column < WORD_BLOCK; column += 4) {
            for (int lane = 0; lane < 4; lane++) {
                const float size = std::fabs(values[column + lane]);
                tops[lane] = tops[lane] < size ? size : tops[lane];
                sums[lane] += size;
            }
        }
        const float most = *std::max_element(tops, tops + 4), sum = sums[0] + sums[1] + sums[2] + sums[3];
        const float unit = std::max(most / MOST_WORD, sum / MOST_SUM_OF_WORDS);
        // Where a number is NaN or infinite, so is the sum.
        const float scale = std::isfinite(sum) ? unit : std::numeric_limits<float>::quiet_NaN();
        const float inverse = std::isfinite(sum) && std::isfinite(1.0f / unit) ? 1.0f / unit : 0.0f;
        int16_t words[WORD_BLOCK];
        for (int column = 0; column < WORD_BLOCK; column++) {
            // A float of this size has no fraction: adding it rounds, to even numbers in the middle.
            constexpr float WHOLE = 0x1.8p23f;
            const float word = inverse > 0 ? values[column] * inverse : 0.0f;  // infinity and NaN have no word
            words[column] = static_cast<int16_t>(static_cast<int32_t>(word + WHOLE - WHOLE));
        }
        for (int column = 0; column < WORD_BLOCK; column += 2) std::memcpy(to + in_words(column, row), words + column, 4);
        std::memcpy(to + LINES * LINE + sizeof(float) * row, &scale, sizeof scale);
    }

    static void unpack(const uint8_t * from, uint8_t * to, int row) {
        float scale;
        std::memcpy(&scale, from + LINES * LINE + sizeof(float) * row, sizeof scale);
        for (int column = 0; column < WORD_BLOCK; column++) {
            int16_t word;
            std::memcpy(&word, from + in_words(column, row), sizeof word);
            const uint16_t bits = of_float(word * scale);
            std::memcpy(to + 2 * column, &bits, sizeof bits);
        }
    }
};

// --- all of them ----------------------------------------------------------------------------------------------------------

// The place of a format in FORMATS, and of its kernel in Kernels::multiply.
enum FormatNumber {
    Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, F16, BF16,
    FORMATS_COUNT,
};

template <typename Packing> constexpr Format small(int32_t type, Given given) {
    return {type, given, BLOCK, Packing::BYTES, Packing::PACKED, Packing::pack, Packing::unpack};
}
template <int BITS, int NUMBERS, int HALVES_BEFORE, typename Parts> constexpr Format large(int32_t type, Given given) {
    using Packing = Large<BITS, NUMBERS, HALVES_BEFORE, Parts>;
    return {type, given, LARGE, Parts::BYTES, Packing::PACKED, Packing::pack, Packing::unpack};
}
template <typename Packing> constexpr Format words(int32_t type) {
    return {type, WORDS, WORD_BLOCK, Packing::BYTES, Packing::PACKED, Packing::pack, Packing::unpack};
}

constexpr Format FORMATS[FORMATS_COUNT] = {
    {TYPE_Q8_0, BYTES, BLOCK, BLOCK_BYTES, GROUP_BYTES, pack_q8_0, unpack_q8_0},
    small<Small<4, 1>>(TYPE_Q4_0, BYTES),
    small<Small<4, 2>>(TYPE_Q4_1, BYTES),
    small<Small<5, 1>>(TYPE_Q5_0, BYTES),
    small<Small<5, 2>>(TYPE_Q5_1, BYTES),
    large<4, 2, 2, PartsOfK<4>>(TYPE_Q4_K, BYTES),
    large<5, 2, 2, PartsOfK<5>>(TYPE_Q5_K, BYTES),
    large<6, 2, 1, PartsOfQ6K>(TYPE_Q6_K, HALVES),
    small<Small<4, 1>>(TYPE_IQ4_NL, BYTES),
    large<4, 1, 1, PartsOfIQ4XS>(TYPE_IQ4_XS, BYTES),
    words<Words<float_of_f16, f16_of_float>>(TYPE_F16),
    words<Words<float_of_bf16, bf16_of_float>>(TYPE_BF16),
};

// The format of a type of ggml's; FORMATS_COUNT if there is none.
int format_of(int32_t type) {
    int found = 0;
    while (found < FORMATS_COUNT && FORMATS[found].type != type) found++;
    return found;
}
