/*
 * Which channels a client's texts are about to leave, and whether PostgreSQL has done it. UNLISTEN
 * runs on any backend, where nothing of it can be asked for: the command's tag says that it was
 * done, a ROLLBACK or an error behind it that this may have been taken back. Embedded in whoever
 * follows a client; no I/O.
 */
#pragma once

#include "base/buf.h"

#include <stdbool.h>

struct message;

struct unlisten
{
    struct buf names;  /* owns: of channels, each with its zero byte */
    bool is_all;       /* all channels */
    bool is_done;      /* PostgreSQL said so, ... */
    bool is_doubtful;  /* ... and then something that may have taken it back */
};

/* A text that is about to be run leaves this channel, or all (NULL). */
void unlisten_note(struct unlisten *unlisten, const char *channel);

/* Follows a CommandComplete. */
void unlisten_tag(struct unlisten *unlisten, const struct message *message);
void unlisten_error(struct unlisten *unlisten);

/* Nothing of the client is on its way any more and no transaction is open: whether this channel is
 * left. Where there is a doubt it is not: then the client rather hears too much. */
bool unlisten_has(const struct unlisten *unlisten, const char *channel);

/* The same with this status of ReadyForQuery: forgets what is settled. */
void unlisten_settle(struct unlisten *unlisten, char status);

/* Forgets everything. */
void unlisten_forget(struct unlisten *unlisten);
