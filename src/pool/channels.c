/* Channels. Called by pool/herald; calls nothing. */
#include "pool/channels.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <uthash.h>

struct channel
{
    UT_hash_handle hh;
    char *name; /* owns */
    bool is_sent;
    unsigned total;
    unsigned counts[]; /* one a worker */
};

static char marker[32]; /* never changes while there are threads */

void
channels_init(void)
{
    uint64_t number = 0;

    ensure(getrandom(&number, sizeof(number), 0) == (ssize_t)sizeof(number));
    snprintf(marker, sizeof(marker), "pgkeel_%016" PRIx64, number);
}

const char *
channels_marker(void)
{
    return marker;
}

static void
free_channel(struct channels *channels, struct channel *channel)
{
    HASH_DEL(channels->all, channel);
    free(channel->name);
    free(channel);
}

void
channels_deinit(struct channels *channels)
{
    while (channels->all != NULL) {
        free_channel(channels, channels->all);
    }
    buf_deinit(&channels->farewell);
}

static struct channel *
find(const struct channels *channels, const char *name)
{
    struct channel *channel;

    HASH_FIND_STR(channels->all, name, channel);
    return channel;
}

bool
channels_want(struct channels *channels, const char *name, int worker)
{
    struct channel *channel = find(channels, name);
    bool is_new = channel == NULL;

    if (is_new) {
        size_t counts = (size_t)channels->workers * sizeof(channel->counts[0]);
        channel = mem_new(sizeof(*channel) + counts);
        channel->name = mem_string(name);
        HASH_ADD_KEYPTR(hh, channels->all, channel->name, strlen(channel->name), channel);
    }
    channel->counts[worker]++;
    channel->total++;
    return is_new;
}

static void
add_statement(struct buf *sql, const char *what, const char *name)
{
    buf_print(sql, "%s ", what);
    text_quote_identifier(sql, name);
    buf_print(sql, ";");
}

void
channels_leave(struct channels *channels, const char *name, int worker)
{
    struct channel *channel = find(channels, name);

    ensure(channel != NULL && channel->counts[worker] > 0);
    channel->counts[worker]--;
    channel->total--;
    if (channel->total == 0) {
        if (channel->is_sent) {
            add_statement(&channels->farewell, "UNLISTEN", name);
        }
        free_channel(channels, channel);
    }
}

unsigned
channels_count(const struct channels *channels, const char *name, int worker)
{
    const struct channel *channel = find(channels, name);

    return channel != NULL ? channel->counts[worker] : 0;
}

unsigned
channels_total(const struct channels *channels)
{
    return HASH_COUNT(channels->all);
}

bool
channels_concern(const struct channels *channels, int worker)
{
    const struct channel *channel = channels->all;

    while (channel != NULL && channel->counts[worker] == 0) {
        channel = channel->hh.next;
    }
    return channel != NULL;
}

void
channels_sql(struct channels *channels, struct buf *sql)
{
    struct channel *channel, *next;

    if (buf_len(&channels->farewell) > 0) {
        buf_add(sql, buf_head(&channels->farewell), buf_len(&channels->farewell));
        buf_deinit(&channels->farewell);
    }
    HASH_ITER(hh, channels->all, channel, next) {
        if (!channel->is_sent) {
            add_statement(sql, "LISTEN", channel->name);
            channel->is_sent = true;
        }
    }
}

void
channels_forget_sent(struct channels *channels)
{
    struct channel *channel, *next;

    HASH_ITER(hh, channels->all, channel, next) {
        channel->is_sent = false;
    }
    buf_deinit(&channels->farewell);
}
