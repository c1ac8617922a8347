/*
 * The text that Prometheus scrapes: counters of the process (base/metrics.def) and, from the latest
 * survey, of each endpoint and pool. Only the first METRICS_POOLS pools have labels of their own;
 * all others together are the pool without names, so that a scrape stays bounded.
 */
#pragma once

#include "base/buf.h"

struct daemon;
struct survey;

enum
{
    METRICS_POOLS = 100
};

/* survey: the latest, or NULL. Any thread that the survey belongs to. */
void metrics_print(struct buf *buf, struct daemon *daemon, const struct survey *survey);
