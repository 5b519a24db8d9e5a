/* Looks like Python 3.10 to a profiler, and lies: all that it says of its interpreters, threads, frames and names is
 * wrong in one of the ways below, each for some milliseconds in turn. Exports what an interpreter exports: link with
 * -rdynamic. */
#include "truth.h"

#define EXPORT __attribute__((visibility("default")))

struct text {
    uint64_t references, type, length, hash;
    uint32_t state;
    char pad[12];
    char ascii[24];
    char other[64];
};

struct code {
    uint64_t references, type;
    char pad_0[24];
    int32_t first_line;
    char pad_1[60];
    void *file, *name, *lines;
    char pad_2[64];
};

struct bytes {
    uint64_t references, type, size, hash;
    char data[64];
};

struct frame {
    uint64_t references, type, size;
    void *back, *code;
    char pad[56];
    int32_t instruction;
    char rest[64];
};

struct thread {
    void *previous, *next, *interpreter, *frame;
    char pad[144];
    uint64_t id;
    char rest[64];
};

struct interpreter {
    void *next, *threads;
    char rest[64];
};

struct runtime {
    char pad[32];
    void *interpreters;
    char rest[64];
};

EXPORT struct runtime _PyRuntime;
EXPORT char PyCode_Type[64];
EXPORT void PyIter_Send(void) {}

static struct interpreter interpreters[2];
static struct thread threads[2];
static struct frame frames[2];
/* The last of them is for lies: what was told of a code object is not asked for again. */
static struct code codes[3];
static struct text texts[3];
static struct bytes lines[3];

/* Everything as it should be: one interpreter, one thread, two frames. */
static void be_honest(void) {
    memset(interpreters, 0, sizeof interpreters);
    memset(threads, 0, sizeof threads);
    memset(frames, 0, sizeof frames);
    memset(codes, 0, sizeof codes);
    memset(texts, 0, sizeof texts);
    _PyRuntime.interpreters = &interpreters[0];
    interpreters[0].threads = &threads[0];
    threads[0].id = (uint64_t)pthread_self();
    threads[0].frame = &frames[0];
    frames[0].back = &frames[1];
    frames[0].code = &codes[0];
    frames[1].code = &codes[1];
    for (int i = 0; i < 3; i++) {
        codes[i].type = (uint64_t)PyCode_Type;
        codes[i].first_line = i + 1;
        codes[i].file = codes[i].name = &texts[i];
        codes[i].lines = &lines[i];
        lines[i] = (struct bytes){1, 0, 2, 0, {100, 1}};
        texts[i].length = 6;
        /* Bytes of a character 1, compact, all ASCII. */
        texts[i].state = 1 << 2 | 1 << 5 | 1 << 6;
        strcpy(texts[i].ascii, (const char *[]){"inner_", "outer_", "false_"}[i]);
    }
}

static void *const nowhere = (void *)0x10;
static void *const not_canonical = (void *)0x8000000000000000u;

static void lie(unsigned how) {
    frames[0].code = &codes[2];
    switch (how) {
    case 0: _PyRuntime.interpreters = nowhere; break;
    case 1: _PyRuntime.interpreters = not_canonical; break;
    case 2: interpreters[0].next = &interpreters[0]; break;
    case 3: interpreters[0].threads = nowhere; break;
    case 4: threads[0].id++, threads[0].next = &threads[0]; break;
    case 5: threads[0].id++, threads[0].next = &threads[1], threads[1].next = &threads[0]; break;
    case 6: threads[0].frame = not_canonical; break;
    case 7: frames[1].back = &frames[0]; break;
    case 8: frames[0].back = &frames[0]; break;
    case 9: frames[1].back = nowhere; break;
    case 10: codes[2].type = 1; break;
    case 11: frames[0].code = nowhere; break;
    case 12: codes[2].name = nowhere; break;
    case 13: codes[2].name = not_canonical; break;
    case 14: texts[2].length = UINT64_MAX; break;
    case 15: texts[2].length = (uint64_t)1 << 62; break;
    case 16: texts[2].state = UINT32_MAX; break;
    case 17: texts[2].state = 4 << 2 | 1 << 5, texts[2].length = (uint64_t)1 << 62; break;
    case 18: lines[2].size = UINT64_MAX; break;
    case 19: codes[2].lines = nowhere; break;
    case 20: frames[0].instruction = INT32_MIN; break;
    case 21: codes[2].first_line = -1; break;
    case 22: memset(frames, 0xff, sizeof frames); break;
    case 23: memset(codes, 0xff, sizeof codes); break;
    case 24: memset(interpreters, 0xff, sizeof interpreters); break;
    default: break;
    }
}

#define LIES 25

/* The name by which a profiler knows the function that runs Python's code. */
EXPORT FRAME uint64_t _PyEval_EvalFrameDefault(void) { return churn(truth_sink, 4 * ROUNDS) + 1; }

static FRAME uint64_t honest(void) { return _PyEval_EvalFrameDefault() + 1; }

/* Not the same as the one above, or the compiler makes them one. */
static FRAME uint64_t lying(void) { return _PyEval_EvalFrameDefault() + 2; }

int main(void) {
    truth_begin("false_python");
    be_honest();
    truth_ready();
    for (unsigned how = 0; !truth_stopped(); how = (how + 1) % LIES) {
        be_honest();
        span_begin("honest");
        truth_sink = honest();
        span_end(0);
        lie(how);
        span_begin("lying");
        truth_sink = lying();
        span_end(0);
    }
    truth_thread_end();
    truth_write();
    return 0;
}
