/* Calls of the C library that read or write files below one folder: counted, and one made to fail.

   Loaded with LD_PRELOAD. What to do is in a file that all processes map, whose layout
   `calls.py` has too: $FAULTS_CALLS names it. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READS = 1, WRITES = 2, GROWS = 4 };              /* what a call does; what grows takes room */
enum { COUNT, KILL, INTERRUPT, FAIL };                  /* what is done at the chosen call */
enum { ONCE, WHAT_GROWS_LATER, ALL_LATER };             /* which later calls fail too */
enum { NOTED = 4096, DIE = -1 };

struct plan {
    _Atomic int count;      /* how many calls there have been */
    int at, action, error, lasting, sides;
    char root[240];
    struct { char call[16], path[240]; } noted[NOTED];
};

static struct plan *plan;

void faults_follow(const char *file)
{
    int descriptor = file ? (int)openat(AT_FDCWD, file, O_RDWR | O_CLOEXEC) : -1;
    void *mapped = descriptor < 0 ? MAP_FAILED
        : mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (descriptor >= 0) close(descriptor);
    plan = mapped == MAP_FAILED ? NULL : mapped;
}

__attribute__((constructor)) static void start(void) { faults_follow(getenv("FAULTS_CALLS")); }

/* Write the absolute path of a file, or of the file of a descriptor if there is no path. */
static void locate(int folder, const char *path, char *out, size_t size)
{
    char link[64];
    ssize_t length = 0;
    if (!path || path[0] != '/') {
        if (folder == AT_FDCWD) strcpy(link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        length = readlink(link, out, size - 1);
        if (length < 0) length = 0;
    }
    snprintf(out + length, size - length, "%s%s", length && path ? "/" : "", path ? path : "");
}

/* Return the error that a call is to have, 0 for none, or DIE after a part of its work. */
static int judge(int does, const char *call, int folder, const char *path)
{
    if (!plan || !(plan->sides & does)) return 0;
    int before = errno;
    char found[PATH_MAX];
    locate(folder, path, found, sizeof found);
    size_t length = strlen(plan->root);
    errno = before;
    if (!length || strncmp(found, plan->root, length)) return 0;
    int number = atomic_fetch_add(&plan->count, 1);
    if (number < NOTED) {
        snprintf(plan->noted[number].call, sizeof plan->noted->call, "%s", call);
        snprintf(plan->noted[number].path, sizeof plan->noted->path, "%s", found + length);
    }
    if (number < plan->at || plan->action == COUNT) return 0;
    if (number > plan->at) {
        int lasts = plan->lasting == ALL_LATER || (plan->lasting == WHAT_GROWS_LATER && does & GROWS);
        return lasts ? plan->error : 0;
    }
    if (plan->action == INTERRUPT) kill(getpid(), SIGINT);
    if (plan->action == KILL && !strstr(call, "write")) kill(getpid(), SIGKILL);
    return plan->action == KILL ? DIE : plan->action == FAIL ? plan->error : 0;
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

#define PART(count) ((count) / 2)
#define REFUSE(fault, failed) if (fault) { errno = fault; return failed; }

/* A call that writes: killed in the middle of it, half is written. */
#define WRITING(type, name, parameters, part, whole) \
    type name parameters { \
        int fault = judge(WRITES | GROWS, #name, file, NULL); \
        if (fault == DIE) { (void)!REAL(name) part; kill(getpid(), SIGKILL); } \
        REFUSE(fault, (type)-1) \
        return REAL(name) whole; \
    }
WRITING(ssize_t, write, (int file, const void *data, size_t size), (file, data, PART(size)), (file, data, size))
WRITING(ssize_t, pwrite, (int file, const void *data, size_t size, off_t at),
        (file, data, PART(size), at), (file, data, size, at))
WRITING(ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t at),
        (file, data, PART(size), at), (file, data, size, at))
WRITING(ssize_t, writev, (int file, const struct iovec *data, int count),
        (file, data, PART(count)), (file, data, count))

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream)
{
    int fault = judge(WRITES | GROWS, "fwrite", fileno(stream), NULL);
    if (fault == DIE) {
        REAL(fwrite)(data, size, PART(count), stream);
        fflush(stream);
        kill(getpid(), SIGKILL);
    }
    REFUSE(fault, 0)
    return REAL(fwrite)(data, size, count, stream);
}

/* A call that fails before it does anything. */
#define CALL(type, name, does, folder, path, parameters, arguments) \
    type name parameters { \
        int fault = judge(does, #name, folder, path); \
        REFUSE(fault, (type)-1) \
        return REAL(name) arguments; \
    }
CALL(ssize_t, read, READS, file, NULL, (int file, void *data, size_t size), (file, data, size))
CALL(ssize_t, pread, READS, file, NULL, (int file, void *data, size_t size, off_t at), (file, data, size, at))
CALL(ssize_t, pread64, READS, file, NULL, (int file, void *data, size_t size, off64_t at), (file, data, size, at))
CALL(ssize_t, readv, READS, file, NULL, (int file, const struct iovec *data, int count), (file, data, count))
CALL(int, ftruncate, WRITES | GROWS, file, NULL, (int file, off_t size), (file, size))
CALL(int, ftruncate64, WRITES | GROWS, file, NULL, (int file, off64_t size), (file, size))
CALL(int, truncate, WRITES | GROWS, AT_FDCWD, path, (const char *path, off_t size), (path, size))
CALL(int, truncate64, WRITES | GROWS, AT_FDCWD, path, (const char *path, off64_t size), (path, size))
CALL(int, fsync, WRITES, file, NULL, (int file), (file))
CALL(int, fdatasync, WRITES, file, NULL, (int file), (file))
CALL(int, flock, WRITES, file, NULL, (int file, int how), (file, how))
CALL(int, rename, WRITES, AT_FDCWD, path, (const char *path, const char *to), (path, to))
CALL(int, renameat, WRITES, folder, path, (int folder, const char *path, int other, const char *to),
     (folder, path, other, to))
CALL(int, renameat2, WRITES, folder, path,
     (int folder, const char *path, int other, const char *to, unsigned flags),
     (folder, path, other, to, flags))
CALL(int, mkdir, WRITES | GROWS, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
CALL(int, mkdirat, WRITES | GROWS, folder, path, (int folder, const char *path, mode_t mode), (folder, path, mode))
CALL(int, rmdir, WRITES, AT_FDCWD, path, (const char *path), (path))
CALL(int, unlink, WRITES, AT_FDCWD, path, (const char *path), (path))
CALL(int, unlinkat, WRITES, folder, path, (int folder, const char *path, int flags), (folder, path, flags))
CALL(int, symlink, WRITES | GROWS, AT_FDCWD, path, (const char *to, const char *path), (to, path))
CALL(int, symlinkat, WRITES | GROWS, folder, path, (const char *to, int folder, const char *path), (to, folder, path))
CALL(int, link, WRITES | GROWS, AT_FDCWD, path, (const char *to, const char *path), (to, path))
CALL(int, chmod, WRITES, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
CALL(int, fchmod, WRITES, file, NULL, (int file, mode_t mode), (file, mode))
CALL(int, fchmodat, WRITES, folder, path, (int folder, const char *path, mode_t mode, int flags),
     (folder, path, mode, flags))
CALL(int, utimensat, WRITES, folder, path,
     (int folder, const char *path, const struct timespec times[2], int flags),
     (folder, path, times, flags))
CALL(ssize_t, copy_file_range, WRITES | GROWS, to, NULL,
     (int from, off64_t *begin, int to, off64_t *at, size_t size, unsigned flags),
     (from, begin, to, at, size, flags))
CALL(ssize_t, sendfile64, WRITES | GROWS, to, NULL, (int to, int from, off64_t *at, size_t size),
     (to, from, at, size))

int posix_fallocate64(int file, off64_t at, off64_t size)
{
    int fault = judge(WRITES | GROWS, "posix_fallocate", file, NULL);
    return fault ? fault : REAL(posix_fallocate64)(file, at, size);
}

int close(int file)
{
    /* The system may find out only now that what was written is lost; the file is closed anyway. */
    int flags = plan ? fcntl(file, F_GETFL) : -1;
    int fault = flags >= 0 && flags & (O_WRONLY | O_RDWR) ? judge(WRITES, "close", file, NULL) : 0;
    int result = REAL(close)(file);
    REFUSE(fault, -1)
    return result;
}

static int side_of(int flags)
{
    if (flags & O_CREAT) return WRITES | GROWS;
    return flags & (O_WRONLY | O_RDWR | O_TRUNC) ? WRITES : READS;
}

#define OPENING(name, folder, parameters, arguments) \
    int name parameters { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        int fault = judge(side_of(flags), #name, folder, path); \
        REFUSE(fault, -1) \
        return REAL(name) arguments; \
    }
OPENING(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENING(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENING(openat, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPENING(openat64, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

FILE *fopen64(const char *path, const char *mode)
{
    int fault = judge(mode[0] == 'r' ? READS : WRITES | GROWS, "fopen", AT_FDCWD, path);
    REFUSE(fault, NULL)
    return REAL(fopen64)(path, mode);
}

DIR *opendir(const char *path)
{
    int fault = judge(READS, "opendir", AT_FDCWD, path);
    REFUSE(fault, NULL)
    return REAL(opendir)(path);
}

struct dirent64 *readdir64(DIR *folder)
{
    int fault = judge(READS, "readdir", dirfd(folder), NULL);
    REFUSE(fault, NULL)
    return REAL(readdir64)(folder);
}

void *mmap64(void *at, size_t size, int protection, int flags, int file, off64_t offset)
{
    int fault = file < 0 ? 0 : judge(READS, "mmap", file, NULL);
    REFUSE(fault, MAP_FAILED)
    return REAL(mmap64)(at, size, protection, flags, file, offset);
}
