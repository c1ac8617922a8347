/*
 * What a client leaves in its session in transaction pooling. Texts that may leave something
 * (wire/session) are noted on their way; when their transaction is over, PostgreSQL is asked what
 * is there. Settings become the client's own and are put on every backend it is lent; anything else
 * pins: the client keeps its backend until it is gone again. A client whose texts leave nothing is
 * never asked about.
 *
 *    ACTIVE ─ all answered, something noted ─► LOOKING ─► nothing left: IDLE, the backend goes back
 *                                                    └──► pinned: ACTIVE, it stays
 */
#pragma once

#include "client/client.h"

/* Reasons to keep a backend. */
enum pin
{
    PIN_LISTEN = 1,
    PIN_PREPARE = 2,   /* SQL PREPARE */
    PIN_CURSOR = 4,    /* WITH HOLD */
    PIN_TEMP = 8,      /* temporary tables */
    PIN_LOCK = 16,     /* session-level advisory locks */
    PIN_SEQUENCE = 32, /* currval(), lastval() */
    PIN_LOAD = 64,
    PIN_SETTING = 128, /* a setting whose name is not known */
    PIN_UNKNOWN = 256, /* PostgreSQL did not say */
};

/* The client logged in. */
void session_start(struct client *client);

/* One of its settings is going to change: remembers those it started with, to which RESET goes
 * back. Most clients never get here. */
void session_note_setting(struct client *client);

/* This text is about to be run. NULL: it is not known. */
void session_note(struct client *client, const char *text);

/* The same for a text of which session_is_suspect() was found out when it was prepared. */
void session_note_suspect(struct client *client, const char *text);

/* Everything is answered and no transaction is open. True when the client keeps its backend: it is
 * LOOKING (then session_looked() follows), or pinned. */
bool session_keeps(struct client *client);

/* A reply while LOOKING. */
void session_reply(struct client *client, const struct message *message, bool is_whole);

/* All replies are there. True when the client keeps its backend; then perhaps settings are to be
 * put back first: params_apply(). */
bool session_looked(struct client *client);

/* Whether its pool has more pinned clients than max_pinned now: 53300. */
bool session_is_too_much(const struct client *client, struct fail *fail);

/* PIN_ bits, and their words: "listen, temporary table". */
unsigned session_pins(const struct client *client);
void session_pin_words(unsigned pins, char *text, size_t size);

/* Since when, on the loop's clock; 0: it is not pinned. */
int64_t session_pinned_since(const struct client *client);

/* A text was noted since PostgreSQL was asked last. */
bool session_has_news(const struct client *client);

/* Something may be left on its backend. */
bool session_is_dirty(const struct client *client);

/* Forgets what was left: the backend is gone, or is going to be cleaned. */
void session_end(struct client *client);
