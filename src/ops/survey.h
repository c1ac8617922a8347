/*
 * How all pools stand: numbers that each worker collects in its own thread, as the survey travels
 * from worker to worker by post and comes home to the thread that asked. Belongs to the loop it is
 * in. Costs a worker a few hundred additions for each of its pools, and a look at each lease.
 */
#pragma once

#include "client/session.h"
#include "pool/endpoint.h"
#include "pool/outage.h"
#include "pool/pool.h"

#include <uthash.h>

struct daemon;
struct loop;

enum
{
    SURVEY_LEASES = 20,
    SURVEY_PINS = 9,      /* reasons there are (client/session.h) */
    SURVEY_POOLS_MAX = 10000,
    SURVEY_ENDPOINTS_MAX = 100
};

/* A client that holds a backend for long: since when, and what for. */
struct survey_lease
{
    int64_t since_us;
    uint64_t client;
    int pid;          /* of its backend */
    bool is_running;  /* PostgreSQL owes it an answer */
    unsigned pins;    /* PIN_ bits */
    char database[64], user[64], peer[64];
};

/* The longest so far, longest first. */
struct survey_leases
{
    struct survey_lease all[SURVEY_LEASES];
    int count;
};

struct survey_pool
{
    uint64_t id; /* of the pool; no two of a process have the same */
    char *database, *user; /* own */
    const char *endpoint;  /* borrows for ever: its name */
    int limit, total, idle, busy, arriving, waiting; /* limit 0: none */
    int clients, pinned;
    int pins[SURVEY_PINS];       /* clients by reason, bit by bit */
    int64_t waits_since_us;      /* the oldest of those who wait; 0: nobody */
    int64_t transaction_since_us; /* the oldest that is open; 0: none */
    struct outage outage;
    struct pool_counts counts;
    struct pool_times times;
    UT_hash_handle hh;
};

struct survey_endpoint
{
    const char *name; /* borrows for ever */
    struct endpoint_view view;
    int backends;
};

struct survey
{
    struct daemon *daemon; /* borrows */
    struct loop *home;     /* borrows */
    int next;              /* worker */
    int64_t taken_us; /* when it came home */
    struct survey_pool *pools; /* own; in the order in which they were made */
    struct survey_endpoint *endpoints; /* owns */
    int endpoint_count;
    struct survey_leases transactions, pinned;
    struct settings *settings; /* holds: those in force for the first worker */
    int64_t clients, logins; /* all of the process; those that log in */
    void (*done)(void *arg, struct survey *survey); /* at home; owns the survey */
    void *arg;
};

/* Sends one on its way; done() is called in home's thread, or never when the process ends. */
void survey_start(struct daemon *daemon, struct loop *home,
    void (*done)(void *arg, struct survey *survey), void *arg);
void survey_free(struct survey **survey);

/* The pool of that id, or NULL. */
struct survey_pool *survey_find(const struct survey *survey, uint64_t id);
