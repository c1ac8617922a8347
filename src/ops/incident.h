/*
 * Incidents: times in which an endpoint, or a single pool, did not give what it should, and what
 * clients saw of it. Found by comparing surveys, so one is seen however short it was, and its ends
 * are as exact as surveys are frequent. Belongs to the thread of ops/http.
 */
#pragma once

#include <stdint.h>

struct survey;

enum
{
    INCIDENTS_MAX = 64,
    INCIDENT_SUBJECT_MAX = 192,
    INCIDENT_REASON_MAX = 240
};

/* Sums over the pools that an incident concerns. */
struct toll
{
    uint64_t errors, moved, lost; /* since the process began; in an incident: since it began */
    int64_t longest_wait_us;      /* of those who wait, or waited since the survey before */
    int waiting;
};

struct incident
{
    char subject[INCIDENT_SUBJECT_MAX]; /* an endpoint's name, or "database/user" */
    char reason[INCIDENT_REASON_MAX];
    int64_t began_us, ended_us; /* in loop_clock_us() time; 0: it goes on */
    int64_t quiet_since_us;     /* nothing was wrong since then; 0: it goes on */
    struct toll before;         /* what had been counted when it began */
    struct toll toll;
};

/* The last ones; a ring in the order in which they began. */
struct incidents
{
    struct incident all[INCIDENTS_MAX];
    uint64_t count; /* that there ever were */
};

/* What is new in the later one of two surveys; the earlier may be NULL. */
void incidents_take(
    struct incidents *incidents, const struct survey *before, const struct survey *now);

/* The i-th of those that are kept, the latest first; NULL behind the last. */
const struct incident *incidents_at(const struct incidents *incidents, uint64_t i);
