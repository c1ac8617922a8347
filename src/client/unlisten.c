/* What UNLISTEN does without being asked about. Called by client/listening; calls nothing. */
#include "client/unlisten.h"

#include "wire/message.h"

#include <string.h>

void
unlisten_note(struct unlisten *unlisten, const char *channel)
{
    if (channel == NULL) {
        unlisten->is_all = true;
    } else if (!buf_has_string(&unlisten->names, channel)) {
        buf_add_string(&unlisten->names, channel);
    }
}

void
unlisten_tag(struct unlisten *unlisten, const struct message *message)
{
    const char *tag = (const char *)message->body;

    if (message->body_len == 0 || tag[message->body_len - 1] != '\0') {
        return;
    }
    if (strcmp(tag, "UNLISTEN") == 0 || strcmp(tag, "DISCARD ALL") == 0) {
        unlisten->is_done = true;
    } else if (strcmp(tag, "ROLLBACK") == 0) {
        /* It takes back what was before it, not what comes behind it. */
        unlisten_error(unlisten);
    }
}

void
unlisten_error(struct unlisten *unlisten)
{
    unlisten->is_doubtful = unlisten->is_done;
}

bool
unlisten_has(const struct unlisten *unlisten, const char *channel)
{
    return unlisten->is_done && !unlisten->is_doubtful &&
           (unlisten->is_all || buf_has_string(&unlisten->names, channel));
}

void
unlisten_settle(struct unlisten *unlisten, char status)
{
    /* What was not done before a transaction failed will not be done in it. */
    if (status == 'I' || (status == 'E' && !unlisten->is_done)) {
        unlisten_forget(unlisten);
    }
}

void
unlisten_forget(struct unlisten *unlisten)
{
    buf_deinit(&unlisten->names);
    unlisten->is_all = unlisten->is_done = unlisten->is_doubtful = false;
}
