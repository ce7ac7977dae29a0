/* pair.c: the C side of a pair; see pair.py. */
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void check(int right, const char *what)
{
    if (right)
        return;
    perror(what);
    exit(1);
}

static sem_t *opened(const char *name)
{
    sem_t *sem = sem_open(name, 0);
    check(sem != SEM_FAILED, name);
    return sem;
}

int main(int argc, char **argv)
{
    struct timespec end;
    int value;

    check(argc >= 3, "arguments");
    if (!strcmp(argv[1], "make"))
        check(sem_open(argv[2], O_CREAT | O_EXCL, 0600, (unsigned)atoi(argv[3])) != SEM_FAILED, "sem_open");
    else if (!strcmp(argv[1], "drop"))
        check(!sem_unlink(argv[2]), "sem_unlink");
    else if (!strcmp(argv[1], "value"))
        check(!sem_getvalue(opened(argv[2]), &value) && value == atoi(argv[3]), "value");
    else {
        sem_t *mine = opened(argv[2]), *theirs = opened(argv[3]);
        for (int rounds = atoi(argv[4]); rounds > 0; rounds--) {
            clock_gettime(CLOCK_REALTIME, &end);
            end.tv_sec += 60;
            check(!sem_timedwait(mine, &end), "sem_timedwait");
            check(!sem_post(theirs), "sem_post");
        }
    }
    return 0;
}
