/* A shim for LD_PRELOAD: the k-th operation that would change a file under a folder fails, or kills its process.

   faults_arm(root, k, kind) begins to count, faults_count() says how many operations there were. Counted are opens for
   writing, writes, truncations, syncs, renames, links, new folders and removals. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, ENOSPC_ONCE, EIO_ONCE, SHORT_WRITE, FULL, KILL };

static char root[PATH_MAX];
static long counter, target;
static int kind, armed, full;
static unsigned char tracked[1 << 16];

void faults_arm(const char *folder, long k, int what) {
  snprintf(root, sizeof root, "%s/", folder);
  counter = 0;
  target = k;
  kind = what;
  full = 0;
  armed = 1;
}

long faults_count(void) { return counter; }

/* 0: go on; 1: fail with errno set; 2: write a half. `grows` says whether it needs room on the disk. */
static int fault(int writes, int grows) {
  if (!armed) return 0;
  long now = __sync_add_and_fetch(&counter, 1);
  if (full && grows) {
    errno = ENOSPC;
    if (kind == SHORT_WRITE) full = 0;
    return 1;
  }
  if (now != target) return 0;
  switch (kind) {
  case ENOSPC_ONCE: errno = ENOSPC; return 1;
  case EIO_ONCE: errno = EIO; return 1;
  case FULL: full = 1; if (!grows) return 0; errno = ENOSPC; return 1;
  case SHORT_WRITE: full = 1; return writes ? 2 : 0;
  case KILL: kill(getpid(), SIGKILL);
  }
  return 0;
}

static int under(int at, const char *path) {
  char whole[2 * PATH_MAX];
  if (!armed || !path) return 0;
  if (path[0] == '/') {
    snprintf(whole, sizeof whole, "%s", path);
  } else {
    char link[64], place[PATH_MAX];
    if (at == AT_FDCWD) {
      if (!getcwd(place, sizeof place)) return 0;
    } else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", at);
      ssize_t length = readlink(link, place, sizeof place - 1);
      if (length < 0) return 0;
      place[length] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", place, path);
  }
  size_t length = strlen(root);
  return strncmp(whole, root, length) == 0 || (strlen(whole) == length - 1 && strncmp(whole, root, length - 1) == 0);
}

static int is_tracked(int fd) { return armed && fd >= 0 && fd < (int)sizeof tracked && tracked[fd]; }

#define REAL(type, name, ...)                                   \
  static type (*real)(__VA_ARGS__);                             \
  if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(NAME, AT, PATH, PARAMETERS, TYPES, ARGUMENTS)      \
  int NAME PARAMETERS {                                         \
    mode_t mode = 0;                                            \
    if (flags & (O_CREAT | O_TMPFILE)) {                        \
      va_list rest;                                             \
      va_start(rest, flags);                                    \
      mode = va_arg(rest, mode_t);                              \
      va_end(rest);                                             \
    }                                                           \
    REAL(int, #NAME, TYPES);                                    \
    int writes = (flags & O_ACCMODE) != O_RDONLY && under(AT, PATH); \
    if (writes && fault(0, flags & O_CREAT)) return -1;         \
    int fd = real ARGUMENTS;                                    \
    if (fd >= 0 && fd < (int)sizeof tracked) tracked[fd] = writes; \
    return fd;                                                  \
  }

#define COMMA ,
OPEN(open, AT_FDCWD, path, (const char *path, int flags, ...), const char * COMMA int COMMA ..., (path, flags, mode))
OPEN(open64, AT_FDCWD, path, (const char *path, int flags, ...), const char * COMMA int COMMA ..., (path, flags, mode))
OPEN(openat, at, path, (int at, const char *path, int flags, ...), int COMMA const char * COMMA int COMMA ...,
     (at, path, flags, mode))
OPEN(openat64, at, path, (int at, const char *path, int flags, ...), int COMMA const char * COMMA int COMMA ...,
     (at, path, flags, mode))

int close(int fd) {
  REAL(int, "close", int);
  if (fd >= 0 && fd < (int)sizeof tracked) tracked[fd] = 0;
  return real(fd);
}

ssize_t write(int fd, const void *data, size_t size) {
  REAL(ssize_t, "write", int, const void *, size_t);
  if (is_tracked(fd)) switch (fault(1, 1)) {
    case 1: return -1;
    case 2: size = (size + 1) / 2;
    }
  return real(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
  if (is_tracked(fd)) switch (fault(1, 1)) {
    case 1: return -1;
    case 2: size = (size + 1) / 2;
    }
  return real(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(ssize_t, "writev", int, const struct iovec *, int);
  if (is_tracked(fd) && fault(0, 1)) return -1;
  return real(fd, parts, count);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
  REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
  if (is_tracked(out) && fault(0, 1)) return -1;
  return real(in, from, out, to, size, flags);
}

ssize_t sendfile64(int out, int in, off64_t *from, size_t size) {
  REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
  if (is_tracked(out) && fault(0, 1)) return -1;
  return real(out, in, from, size);
}

#define ON_FD(NAME, PARAMETERS, TYPES, ARGUMENTS, GROWS)        \
  int NAME PARAMETERS {                                         \
    REAL(int, #NAME, TYPES);                                    \
    if (is_tracked(fd) && fault(0, GROWS)) return -1;           \
    return real ARGUMENTS;                                      \
  }
ON_FD(ftruncate64, (int fd, off64_t size), int COMMA off64_t, (fd, size), 0)
ON_FD(ftruncate, (int fd, off_t size), int COMMA off_t, (fd, size), 0)
ON_FD(fsync, (int fd), int, (fd), 0)
ON_FD(fdatasync, (int fd), int, (fd), 0)

#define ON_PATH(NAME, AT, PATH, PARAMETERS, TYPES, ARGUMENTS, GROWS) \
  int NAME PARAMETERS {                                         \
    REAL(int, #NAME, TYPES);                                    \
    if (under(AT, PATH) && fault(0, GROWS)) return -1;          \
    return real ARGUMENTS;                                      \
  }
ON_PATH(rename, AT_FDCWD, to, (const char *from, const char *to), const char * COMMA const char *, (from, to), 0)
ON_PATH(renameat, b, to, (int a, const char *from, int b, const char *to),
        int COMMA const char * COMMA int COMMA const char *, (a, from, b, to), 0)
ON_PATH(link, AT_FDCWD, to, (const char *from, const char *to), const char * COMMA const char *, (from, to), 1)
ON_PATH(symlink, AT_FDCWD, to, (const char *from, const char *to), const char * COMMA const char *, (from, to), 1)
ON_PATH(mkdir, AT_FDCWD, path, (const char *path, mode_t mode), const char * COMMA mode_t, (path, mode), 1)
ON_PATH(mkdirat, at, path, (int at, const char *path, mode_t mode), int COMMA const char * COMMA mode_t,
        (at, path, mode), 1)
ON_PATH(unlink, AT_FDCWD, path, (const char *path), const char *, (path), 0)
ON_PATH(unlinkat, at, path, (int at, const char *path, int flags), int COMMA const char * COMMA int,
        (at, path, flags), 0)
ON_PATH(rmdir, AT_FDCWD, path, (const char *path), const char *, (path), 0)
