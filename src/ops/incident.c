/* Incidents. Called by ops/history with each survey, read by ops/status. */
#include "ops/incident.h"

#include "base/text.h"
#include "ops/survey.h"

#include <stdio.h>

enum
{
    AGAIN_US = 10000000 /* what begins anew within this time goes on */
};

/* How it stands with one subject. */
struct finding
{
    const char *subject, *reason;
    bool is_wrong;
    int64_t since_us; /* when it began, as far as is known; 0: between the surveys */
    struct toll before, now;
};

const struct incident *
incidents_at(const struct incidents *incidents, uint64_t i)
{
    uint64_t kept = incidents->count < INCIDENTS_MAX ? incidents->count : INCIDENTS_MAX;

    return i < kept ? &incidents->all[(incidents->count - 1 - i) % INCIDENTS_MAX] : NULL;
}

/* The one of this subject that goes on, or ended a moment ago. */
static struct incident *
find(struct incidents *incidents, const char *subject, int64_t now_us)
{
    const struct incident *incident;

    for (uint64_t i = 0; (incident = incidents_at(incidents, i)) != NULL; i++) {
        bool is_recent = incident->ended_us == 0 || now_us - incident->ended_us < AGAIN_US;
        if (is_recent && strcmp(incident->subject, subject) == 0) {
            return (struct incident *)incident;
        }
    }
    return NULL;
}

static struct incident *
begin(struct incidents *incidents, const struct finding *finding, int64_t before_us)
{
    struct incident *incident = &incidents->all[incidents->count++ % INCIDENTS_MAX];

    *incident = (struct incident){
        .began_us = finding->since_us > 0 ? finding->since_us : before_us,
        .before = finding->before};
    text_copy(incident->subject, sizeof(incident->subject), finding->subject);
    return incident;
}

/* A pool that went away takes what it counted along. */
static uint64_t
more_than(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

static void
add_toll(struct incident *incident, const struct toll *now)
{
    struct toll *toll = &incident->toll;

    toll->errors = more_than(now->errors, incident->before.errors);
    toll->moved = more_than(now->moved, incident->before.moved);
    toll->lost = more_than(now->lost, incident->before.lost);
    toll->waiting = now->waiting > toll->waiting ? now->waiting : toll->waiting;
    if (now->longest_wait_us > toll->longest_wait_us) {
        toll->longest_wait_us = now->longest_wait_us;
    }
}

/* It ends with the second survey in a row that finds nothing wrong: the first one may still see the
 * waits of its last moments. */
static void
settle(struct incident *incident, const struct finding *finding, int64_t now_us)
{
    if (finding->is_wrong) {
        incident->ended_us = incident->quiet_since_us = 0;
        if (finding->reason[0] != '\0') {
            text_copy(incident->reason, sizeof(incident->reason), finding->reason);
        }
    } else if (incident->ended_us == 0 && incident->quiet_since_us > 0) {
        incident->ended_us = incident->quiet_since_us;
    } else if (incident->ended_us == 0) {
        incident->quiet_since_us = now_us;
    }
}

static void
take(struct incidents *incidents, const struct finding *finding, int64_t before_us, int64_t now_us)
{
    struct incident *incident = find(incidents, finding->subject, now_us);

    if (incident == NULL && finding->is_wrong) {
        incident = begin(incidents, finding, before_us);
    }
    if (incident == NULL || (incident->ended_us > 0 && !finding->is_wrong)) {
        return;
    }
    add_toll(incident, &finding->now);
    settle(incident, finding, now_us);
}

/* ---- what surveys tell ---- */

static void
add_pool(struct toll *toll, const struct survey_pool *pool, int64_t now_us)
{
    int64_t waited_us = pool->waits_since_us > 0 ? now_us - pool->waits_since_us : 0;

    waited_us = pool->times.longest_wait_us > waited_us ? pool->times.longest_wait_us : waited_us;
    toll->errors += pool->counts.errors;
    toll->moved += pool->counts.moved;
    toll->lost += pool->counts.lost;
    toll->waiting += pool->waiting;
    toll->longest_wait_us =
        waited_us > toll->longest_wait_us ? waited_us : toll->longest_wait_us;
}

/* Over the pools at this endpoint; names of endpoints are the same string for ever. */
static struct toll
toll_at(const struct survey *survey, const char *endpoint)
{
    struct toll toll = {0};

    for (struct survey_pool *pool = survey != NULL ? survey->pools : NULL; pool != NULL;
         pool = pool->hh.next) {
        if (pool->endpoint == endpoint) {
            add_pool(&toll, pool, survey->taken_us);
        }
    }
    return toll;
}

static const struct survey_endpoint *
find_endpoint(const struct survey *survey, const char *name)
{
    for (int i = 0; survey != NULL && i < survey->endpoint_count; i++) {
        if (survey->endpoints[i].name == name) {
            return &survey->endpoints[i];
        }
    }
    return NULL;
}

static void
take_endpoint(struct incidents *incidents, const struct survey *before, const struct survey *now,
    const struct survey_endpoint *endpoint)
{
    const struct survey_endpoint *earlier = find_endpoint(before, endpoint->name);
    bool is_failing = endpoint_is_failing(&endpoint->view);
    struct finding finding = {.subject = endpoint->name,
        .since_us = is_failing ? endpoint->view.since_us : 0,
        .before = toll_at(before, endpoint->name),
        .now = toll_at(now, endpoint->name)};
    bool has_failed = endpoint->view.failures > (earlier != NULL ? earlier->view.failures : 0);
    bool has_lost = finding.now.lost > finding.before.lost;

    finding.is_wrong = is_failing || has_failed || has_lost;
    finding.reason = is_failing || has_failed ? endpoint->view.fail.text : "";
    take(incidents, &finding, before != NULL ? before->taken_us : now->taken_us, now->taken_us);
}

/* The trouble is this pool's alone: a wrong password, a database that is gone. */
static void
take_pool(struct incidents *incidents, const struct survey *before, const struct survey *now,
    const struct survey_pool *pool)
{
    const struct survey_endpoint *endpoint = find_endpoint(now, pool->endpoint);
    const struct survey_pool *earlier = before != NULL ? survey_find(before, pool->id) : NULL;
    char subject[INCIDENT_SUBJECT_MAX];
    struct finding finding = {.subject = subject,
        .reason = pool->outage.fail.text,
        .since_us = pool->outage.since_us,
        .is_wrong = pool->outage.is_down && endpoint != NULL &&
                    !endpoint_is_failing(&endpoint->view)};

    snprintf(subject, sizeof(subject), "%s/%s", pool->database, pool->user);
    if (earlier != NULL) {
        add_pool(&finding.before, earlier, before->taken_us);
    }
    add_pool(&finding.now, pool, now->taken_us);
    take(incidents, &finding, before != NULL ? before->taken_us : now->taken_us, now->taken_us);
}

void
incidents_take(struct incidents *incidents, const struct survey *before, const struct survey *now)
{
    for (int i = 0; i < now->endpoint_count; i++) {
        take_endpoint(incidents, before, now, &now->endpoints[i]);
    }
    for (struct survey_pool *pool = now->pools; pool != NULL; pool = pool->hh.next) {
        take_pool(incidents, before, now, pool);
    }
}
