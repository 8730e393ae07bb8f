// One tick of all sources: due windows are resampled and gathered, and new samples go to the rings, in one launch.
//
// The new samples of a tick are read where they were uploaded and not from the rings. The rings have room for them
// beyond every sample that a window of this tick may read. So no block waits for another.

constexpr int LEADS = 12;
constexpr int DERIVED = -2;
constexpr int III = 2, AVL = 4, AVF = 5;

struct Source {
    long long ring_at, taps_at;  // first sample of its ring, first tap of its rate
    long long up, down;          // an output sample is down / up input samples
    int capacity, leads;         // the ring is [leads, capacity]
    int half, phases;            // the taps are [phases, 2 * half + 1]
    int row[LEADS];              // of the ring, for each standard lead; -1 absent, DERIVED from I and II
};

struct Row {
    long long source;
    long long start;          // the window's first output sample; -1: no window, but samples to keep
    long long before, fed;    // input samples up to the tick before, and up to this one
    long long fresh_at;       // the samples between these two, [leads, fed - before]
};

// Where one lead of one source lies, counted from the oldest sample that the ring still holds.
struct Lead {
    const float *ring, *fresh;
    int capacity, newest, turn, oldest;  // newest: first of the new ones; turn: place of sample 0; oldest: the stream's first

    __device__ float at(int sample) const {
        sample = sample < oldest ? oldest : sample < capacity ? sample : capacity - 1;
        if (sample >= newest) return fresh[sample - newest];
        const int place = sample + turn;
        return ring[place < capacity ? place : place - capacity];
    }
};

__device__ Lead lead_of(const Source &source, const Row &row, int lead, const float *fresh, const float *rings) {
    const long long held_from = row.fed - source.capacity;
    const int turn = (int)(row.fed % source.capacity);
    const int newest = (int)(row.before - held_from);
    const float *new_ones = fresh + row.fresh_at + lead * (row.fed - row.before);
    const float *ring = rings + source.ring_at + (long long)lead * source.capacity;
    return {ring, new_ones, source.capacity, newest, turn, held_from < 0 ? (int)-held_from : 0};
}

__device__ void gather(const Source &source, const Row &row, const float *fresh, const float *rings, const float *taps,
                       float *window, int samples, int at) {
    const long long position = (row.start + at) * source.down;
    const int first = (int)(position / source.up - source.half - (row.fed - source.capacity));
    const int count = 2 * source.half + 1;
    const float *tap = taps + source.taps_at + position % source.up * source.phases / source.up * count;
    float lead_i = 0.0f, lead_ii = 0.0f;
    for (int lead = 0; lead < LEADS; lead++) {
        const int measured = source.row[lead];
        float sum = measured < 0 ? nanf("") : 0.0f;
        if (measured >= 0) {
            const Lead from = lead_of(source, row, measured, fresh, rings);
            for (int k = 0; k < count; k++) sum += tap[k] * from.at(first + k);
        }
        if (measured == DERIVED) {
            const float of_i = lead == III ? -1.0f : lead == AVL ? 1.0f : -0.5f;
            const float of_ii = lead == III || lead == AVF ? 1.0f : -0.5f;
            sum = of_i * lead_i + of_ii * lead_ii;
        }
        if (lead == 0) lead_i = sum;
        if (lead == 1) lead_ii = sum;
        window[(long long)lead * samples + at] = sum;
    }
}

__device__ void keep(const Source &source, const Row &row, const float *fresh, float *rings, int at, int threads) {
    const long long count = row.fed - row.before;
    for (long long i = at; i < count * source.leads; i += threads) {
        const long long lead = i / count, sample = i % count;
        rings[source.ring_at + lead * source.capacity + (row.before + sample) % source.capacity] = fresh[row.fresh_at + i];
    }
}

// `tiles` blocks for each row. The windows are [due, LEADS, samples], in the order of the rows, which come first.
extern "C" __global__ void slide(const Source *sources, const Row *rows, const float *fresh, float *rings, const float *taps,
                                 float *windows, int samples, int tiles) {
    const long long number = blockIdx.x / tiles;
    const int at = (int)(blockIdx.x % tiles * blockDim.x + threadIdx.x);
    const Row row = rows[number];
    const Source &source = sources[row.source];
    if (row.start < 0)
        keep(source, row, fresh, rings, at, tiles * (int)blockDim.x);
    else if (at < samples)
        gather(source, row, fresh, rings, taps, windows + number * LEADS * samples, samples, at);
}
