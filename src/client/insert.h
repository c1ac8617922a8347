/*
 * Messages of our own in front of, or instead of, a client's: they are built in a buffer, and what
 * answers them is pushed to the reply queue at once. Inserted ones are answered to nobody but for
 * errors.
 */
#pragma once

#include "client/rewrite.h"

/* A name that is never in use for longer than a message. */
extern const char insert_placeholder[];

/* Close and Parse of a statement. */
void insert_close(struct client *client, struct buf *buf, const char *name);
void insert_parse(
    struct client *client, struct buf *buf, const char *name, const uint8_t *body, size_t len);

/* A Describe of a statement, whose answer is for pool/prepared. */
void insert_describe(struct client *client, struct buf *buf, const char *name);

/* A Parse that nothing is pushed for. body: what follows the name. */
void insert_write_parse(struct buf *buf, const char *name, const uint8_t *body, size_t len);

/* Runs a statement without parameters and results. */
void insert_statement(struct client *client, struct buf *buf, const char *text);

/* The client's own message with another name in it: everything up to the end of the name, where
 * `reader` stands, is replaced. before: bytes of the body in front of the name. */
void insert_name(struct rewrite *rewrite, const struct message *message,
    const struct reader *reader, const char *name, size_t before);

/* The client's message becomes a Close of nothing, which is answered in its place. */
void insert_nothing(
    struct client *client, struct rewrite *rewrite, const struct message *message);

/* The client's message goes as it is, or with nothing but its name changed. */
enum rewrite_result insert_none(struct client *client, const struct message *message);
