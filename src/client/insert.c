/* Messages of our own among a client's. Called by client/rewrite and client/unnamed. */
#include "client/insert.h"

#include <string.h>

const char insert_placeholder[] = "pgkeel_";

/* A Close or Describe of a statement. */
static void
write_about(struct buf *buf, uint8_t type, const char *name)
{
    size_t begin = message_begin(buf, type);

    buf_add_u8(buf, 'S');
    buf_add_string(buf, name);
    message_end(buf, begin);
}

void
insert_close(struct client *client, struct buf *buf, const char *name)
{
    write_about(buf, MSG_CLOSE, name);
    replies_push(&client->lease.backend->replies, REPLY_CLOSE, REPLY_INSERTED);
}

void
insert_describe(struct client *client, struct buf *buf, const char *name)
{
    write_about(buf, MSG_DESCRIBE, name);
    replies_push(&client->lease.backend->replies, REPLY_COLUMNS, REPLY_INSERTED);
}

void
insert_write_parse(struct buf *buf, const char *name, const uint8_t *body, size_t len)
{
    size_t begin = message_begin(buf, MSG_PARSE);

    buf_add_string(buf, name);
    buf_add(buf, body, len);
    message_end(buf, begin);
}

void
insert_parse(
    struct client *client, struct buf *buf, const char *name, const uint8_t *body, size_t len)
{
    insert_write_parse(buf, name, body, len);
    replies_push(&client->lease.backend->replies,
        name[0] == '\0' ? REPLY_PARSE_UNNAMED : REPLY_PARSE, REPLY_INSERTED);
    client->lease.side->counts.server_parses++;
}

void
insert_statement(struct client *client, struct buf *buf, const char *text)
{
    struct replies *replies = &client->lease.backend->replies;
    struct buf body = {0};

    buf_add_string(&body, text);
    buf_add_u16(&body, 0);
    insert_close(client, buf, insert_placeholder);
    insert_parse(client, buf, insert_placeholder, buf_head(&body), buf_len(&body));
    buf_deinit(&body);
    size_t bind = message_begin(buf, MSG_BIND);
    buf_add_string(buf, insert_placeholder);
    buf_add_string(buf, insert_placeholder);
    buf_add_u16(buf, 0);
    buf_add_u16(buf, 0);
    buf_add_u16(buf, 0);
    message_end(buf, bind);
    replies_push(replies, REPLY_BIND, REPLY_INSERTED);
    size_t execute = message_begin(buf, MSG_EXECUTE);
    buf_add_string(buf, insert_placeholder);
    buf_add_u32(buf, 0);
    message_end(buf, execute);
    replies_push(replies, REPLY_EXECUTE, REPLY_INSERTED);
}

/* The client's own message with another name in it: everything up to the end of the name is
 * replaced. before: what comes in front of the name. */
void
insert_name(struct rewrite *rewrite, const struct message *message, const struct reader *reader,
    const char *name, size_t before)
{
    struct buf *buf = rewrite->insert;
    size_t head = (size_t)(reader->at - message->body);
    size_t size = strlen(name) + 1;

    buf_add_u8(buf, message->type);
    buf_add_u32(buf, (uint32_t)(message->len - 1 - head + before + size));
    buf_add(buf, message->body, before);
    buf_add(buf, name, size);
    rewrite->skip = MESSAGE_HEADER + head;
}

/* The client's message is answered by a Close of nothing in its place. */
void
insert_nothing(struct client *client, struct rewrite *rewrite, const struct message *message)
{
    write_about(rewrite->insert, MSG_CLOSE, insert_placeholder);
    rewrite->skip = message->len;
    replies_push(&client->lease.backend->replies, REPLY_CLOSE, REPLY_FOR_CLIENT);
}

/* Nothing but perhaps the name is changed. */
enum rewrite_result
insert_none(struct client *client, const struct message *message)
{
    return replies_sent(&client->lease.backend->replies, message->type) ? REWRITE_DONE
                                                                        : REWRITE_BAD;
}
