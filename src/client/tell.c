/* Counting words and ends. Called by whatever sends an error of ours to a client, and by
 * client/client. */
#include "client/tell.h"

#include "base/stats.h"
#include "client/client.h"
#include "wire/message.h"

#include <string.h>

/* What SQLSTATEs, or all that begin so, mean for a client; the first that matches. */
static const struct
{
    const char *sqlstate;
    enum metric closes;
    bool is_for_want; /* of a server connection */
} meanings[] = {
    {"08007", METRIC_client_closes_lost_total, true},
    {"08P01", METRIC_client_closes_protocol_total, false},
    {"08", METRIC_client_closes_lost_total, true},
    {"25P0", METRIC_client_closes_timeout_total, false},
    {"28", METRIC_client_closes_authentication_total, false},
    {"3D000", METRIC_client_closes_refused_total, false},
    {"40001", METRIC_client_closes_lost_total, true},
    {"42501", METRIC_client_closes_refused_total, false},
    {"53300", METRIC_client_closes_limit_total, true},
    {"53", METRIC_client_closes_limit_total, false},
    {"57014", METRIC_client_closes_timeout_total, false},
    {"57P03", METRIC_client_closes_unreachable_total, true},
    {"57P05", METRIC_client_closes_timeout_total, false},
    {"57P0", METRIC_client_closes_terminated_total, true},
    {"", METRIC_client_closes_other_total, false},
};

static int
meaning_of(const struct fail *fail)
{
    int i = 0;

    while (strncmp(meanings[i].sqlstate, fail->sqlstate, strlen(meanings[i].sqlstate)) != 0) {
        i++;
    }
    return i;
}

void
tell_error(struct client *client, struct buf *buf, const char *severity, const struct fail *fail)
{
    stats_sqlstate(fail->sqlstate);
    /* What PostgreSQL itself answered to our login stands between a client and its pool, too. */
    bool is_for_want = meanings[meaning_of(fail)].is_for_want || fail->is_verbatim;
    if (client->lease.side != NULL && is_for_want) {
        client->lease.side->counts.errors++;
    }
    message_add_error(buf, severity, fail);
}

void
tell_end(const struct client *client, const struct fail *fail)
{
    if (client->state < CLIENT_CLOSING) {
        stats_add(fail == NULL ? METRIC_client_closes_left_total
                               : meanings[meaning_of(fail)].closes, 1);
    }
}
