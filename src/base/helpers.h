/*
 * Threads for small blocking jobs with a deadline: connecting through libpq, cancel requests, key
 * derivation. A job belongs to its maker until helpers_run(), to the helper from then on; its run()
 * hands it on (usually with loop_post) or frees it. Event loops never block because these do.
 */
#pragma once

#include <stdbool.h>

struct helpers;

enum job_kind /* in the order in which they are taken */
{
    JOB_URGENT,   /* cancels: never behind a row of slow dials */
    JOB_HEAVY,    /* computes for milliseconds and waits for nobody: keys, signatures. Few at a
                     time: processors are left for the workers however many clients log in */
    JOB_LOOKUP,   /* asks PostgreSQL on behalf of somebody who has proved nothing: few at a time, so
                     that strangers keep neither helpers nor PostgreSQL busy */
    JOB_ORDINARY, /* may use all threads but those kept for urgent ones */
    JOB_KINDS
};

/* Embedded by value in what a job works on. */
struct job
{
    enum job_kind kind;
    void (*run)(struct job *job);  /* in a helper thread; owns the job */
    void (*drop)(struct job *job); /* instead of run() when helpers stop first; owns the job */
    const void *share; /* of those with the same one, ordinary jobs leave some threads to others;
                          NULL: on its own */
    struct job *next;  /* the queue's */
};

struct helpers_limits
{
    unsigned most, kept; /* threads for urgent and ordinary jobs; of these, for urgent ones only */
    unsigned heavy, lookups; /* threads for as many such jobs at a time */
};

/* Starts with no thread; grows when jobs wait. */
struct helpers *helpers_new(const struct helpers_limits *limits);

/* Hands a job over. Any thread. After helpers_stop() the job is dropped at once in the caller's
 * thread. */
void helpers_run(struct helpers *helpers, struct job *job);

/* Readable from helpers_stop() on: jobs that wait in poll() add it to their set and give up. */
int helpers_stop_fd(struct helpers *helpers);

/* Drops what is queued, asks running jobs to give up, waits for their end up to timeout_ms. True
 * when every thread ended; after false it may be asked again. Main thread. */
bool helpers_stop(struct helpers *helpers, int timeout_ms);

/* Frees; only after helpers_stop() returned true. */
void helpers_free(struct helpers **helpers);
