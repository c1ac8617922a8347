/*
 * A growing run of bytes: messages being built, output that the kernel did not take yet, input
 * whose rest has not arrived. Empty buffers own no memory. One owner, no thread rules of its own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf
{
    uint8_t *data; /* owns; NULL while nothing was ever added */
    size_t start;  /* bytes before this were consumed */
    size_t end;    /* bytes from start to here are the content */
    size_t size;   /* allocated */
};

/* Frees the memory; the buffer is empty and usable again. */
void buf_deinit(struct buf *buf);

/* Number of bytes held. */
static inline size_t
buf_len(const struct buf *buf)
{
    return buf->end - buf->start;
}

/* First byte held; valid until the next call that adds. May be NULL while the buffer is empty. */
static inline uint8_t *
buf_head(const struct buf *buf)
{
    return buf->data == NULL ? NULL : buf->data + buf->start; /* NULL + 0 is undefined */
}

/* Makes room for len more bytes and returns where they go; buf_added() tells how many were written.
 */
uint8_t *buf_room(struct buf *buf, size_t len);
void buf_added(struct buf *buf, size_t len);

void buf_add(struct buf *buf, const void *data, size_t len);
void buf_add_u8(struct buf *buf, uint8_t value);
void buf_add_u16(struct buf *buf, uint16_t value);        /* network order */
void buf_add_u32(struct buf *buf, uint32_t value);        /* network order */
void buf_add_string(struct buf *buf, const char *string); /* with its zero byte */

/* Whether a string is among those that were added so, and nothing else. */
bool buf_has_string(const struct buf *buf, const char *string);

/* printf into the buffer, without a zero byte at the end. */
__attribute__((format(printf, 2, 3))) void buf_print(struct buf *buf, const char *format, ...);

/* Drops len bytes from the front; memory goes when nothing is left. */
void buf_consume(struct buf *buf, size_t len);

/* Drops all content, keeps the memory for the next use. */
void buf_clear(struct buf *buf);

/* Writes a number in network order at an offset from the head, into bytes that were added before.
 */
void buf_patch_u32(struct buf *buf, size_t offset, uint32_t value);
