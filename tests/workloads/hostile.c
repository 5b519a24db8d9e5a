/* Processes that make work for whoever looks at them. The first argument says what:
 *   mappings   as many executable mappings as the kernel allows
 *   map        code made at run time, and a /tmp/perf-PID.map of 1 GiB that is one line to begin with
 *   files ...  maps all further arguments as code
 *   children   children that come and go, a hundred at a time
 * Each does what it does in main -> drive -> part_busy meanwhile. */
#include "truth.h"
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

FRAME uint64_t part_busy(uint64_t x) { return churn(x, ROUNDS); }

static int open_file(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) truth_fail(path);
    return file;
}

/* The same page of a file again and again: two of them never become one mapping. */
static void map_all(void) {
    int file = open_file("/proc/self/exe");
    int count = 0;
    while (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) != MAP_FAILED) count++;
    /* Room for what libc and the kernel still need. */
    void *last = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (last != MAP_FAILED) munmap(last, 4096);
    printf("%d mappings\n", count);
}

static char map_path[64];

static void write_map(void) {
    snprintf(map_path, sizeof map_path, "/tmp/perf-%d.map", (int)getpid());
    int file = open(map_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) truth_fail(map_path);
    enum { LINE = 2 << 20 };
    char *line = malloc(LINE);
    if (!line) truth_fail("room for a line");
    memset(line, 'x', LINE);
    if (write(file, line, LINE) != LINE || ftruncate(file, 1 << 30)) truth_fail(map_path);
    free(line);
    close(file);
}

/* push %rbp; mov %rsp,%rbp; 1: dec %rdi; jnz 1b; pop %rbp; ret */
static const unsigned char spin[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xff, 0xcf, 0x75, 0xfb, 0x5d, 0xc3};

static void (*make_code(void))(uint64_t) {
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) truth_fail("mmap");
    memcpy(memory, spin, sizeof spin);
    if (mprotect(memory, 4096, PROT_READ | PROT_EXEC)) truth_fail("mprotect");
    return (void (*)(uint64_t))memory;
}

static void map_files(char **paths) {
    for (; *paths; paths++) {
        int file = open_file(*paths);
        struct stat about;
        if (fstat(file, &about)) truth_fail(*paths);
        size_t length = about.st_size > 4096 ? (size_t)about.st_size : 4096;
        if (mmap(NULL, length, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED) truth_fail(*paths);
        close(file);
    }
}

static void keep_children(void) {
    static int alive;
    while (waitpid(-1, NULL, WNOHANG) > 0) alive--;
    while (alive < 100) {
        pid_t pid = fork();
        if (pid == 0) {
            prctl(PR_SET_NAME, "hostile_child");
            truth_sink ^= part_busy(1);
            _exit(0);
        }
        if (pid < 0) truth_fail("fork");
        alive++;
    }
}

static FRAME void drive(void (*code)(uint64_t), int children) {
    while (!truth_stopped()) {
        span_begin("part_busy");
        truth_sink ^= part_busy(truth_sink);
        span_end(0);
        if (code) code(ROUNDS);
        if (children) keep_children();
    }
    truth_sink ^= 1;
}

int main(int count, char **arguments) {
    const char *kind = count > 1 ? arguments[1] : "";
    void (*code)(uint64_t) = NULL;
    truth_begin("hostile");
    if (!strcmp(kind, "mappings")) map_all();
    if (!strcmp(kind, "map")) {
        write_map();
        code = make_code();
    }
    if (!strcmp(kind, "files")) map_files(arguments + 2);
    truth_ready();
    drive(code, !strcmp(kind, "children"));
    while (wait(NULL) > 0) continue;
    truth_thread_end();
    truth_write();
    if (*map_path) unlink(map_path);
    return 0;
}
