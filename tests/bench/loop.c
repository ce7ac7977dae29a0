/* SPDX-License-Identifier: Apache-2.0
   What the machine allows: the measured operations with no Python between the calls. */

#include <fcntl.h>
#include <semaphore.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void pairs(sem_t *s, long n)
{
    while (n--) {
        while (sem_wait(s)) {
        }
        sem_post(s);
    }
}

void tries(sem_t *s, long n)
{
    while (n--)
        sem_trywait(s);
}

void values(sem_t *s, long n)
{
    int value;
    while (n--)
        sem_getvalue(s, &value);
}

void creations(const char *name, long n)
{
    while (n--) {
        sem_t *s = sem_open(name, O_CREAT | O_EXCL, 0600, 1u);
        sem_close(s);
        sem_unlink(name);
    }
}

void links(const char *name, long n)
{
    while (n--)
        sem_close(sem_open(name, 0));
}

void uses(const char *name, long n)
{
    while (n--) {
        sem_t *s = sem_open(name, 0);
        pairs(s, 1);
        sem_close(s);
    }
}

void ping(sem_t *there, sem_t *back, long n)
{
    while (n--) {
        sem_post(there);
        while (sem_wait(back)) {
        }
    }
}

void pong(sem_t *there, sem_t *back, long n)
{
    while (n--) {
        while (sem_wait(there)) {
        }
        sem_post(back);
    }
}

double post(sem_t *s)
{
    double t = now();
    sem_post(s);
    return t;
}

void stamp(sem_t *s, double *stamps, long n)
{
    for (long i = 0; i < n; i++) {
        while (sem_wait(s)) {
        }
        stamps[i] = now();
    }
}

long hammer(sem_t *s, const volatile char *stop)
{
    long n = 0;
    while (!*stop) {
        while (sem_wait(s)) {
        }
        sem_post(s);
        n++;
    }
    return n;
}
