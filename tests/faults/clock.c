/* Shifts the wall clock of the process that it is preloaded into by CLOCK_SHIFT_S seconds: from its start, or, with
 * CLOCK_SHIFT_WHILE, as long as a file of that name exists. A namespace cannot do that: it shifts the monotonic clock only. Waits until a time of the wall clock are shifted back, because the kernel's clock is
 * the true one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static time_t shift(void) {
  static time_t seconds;
  static const char *file;
  static int known;
  if (!known) {
    const char *text = getenv("CLOCK_SHIFT_S");
    file = getenv("CLOCK_SHIFT_WHILE");
    seconds = text ? atol(text) : 0;
    known = 1;
  }
  if (seconds && file) {
    int before = errno;
    int there = access(file, F_OK) == 0;
    errno = before;
    return there ? seconds : 0;
  }
  return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = (int)syscall(SYS_clock_gettime, clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
  return result;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec fine;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &fine);
  now->tv_sec = fine.tv_sec;
  now->tv_usec = fine.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timespec fine;
  clock_gettime(CLOCK_REALTIME, &fine);
  if (now) *now = fine.tv_sec;
  return fine.tv_sec;
}

int timespec_get(struct timespec *now, int base) {
  clock_gettime(CLOCK_REALTIME, now);
  return base;
}

/* A time since the start of the machine is no wall-clock time and stays. */
static struct timespec real(const struct timespec *until) {
  struct timespec shifted = *until;
  if (shifted.tv_sec > 1000000000) shifted.tv_sec -= shift();
  return shifted;
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until) {
  static int (*wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  struct timespec shifted = real(until);
  if (!wait) wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!wait) wait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  return wait(cond, mutex, &shifted);
}

int cnd_timedwait(cnd_t *cond, mtx_t *mutex, const struct timespec *until) {
  static int (*wait)(cnd_t *, mtx_t *, const struct timespec *);
  struct timespec shifted = real(until);
  if (!wait) wait = dlsym(RTLD_NEXT, "cnd_timedwait");
  return wait(cond, mutex, &shifted);
}
