/* Growing byte buffers. Called from everywhere; calls nothing. */
#include "base/buf.h"

#include "base/mem.h"
#include "base/state.h"

#include <arpa/inet.h>
#include <stdarg.h>

void
buf_deinit(struct buf *buf)
{
    free(buf->data);
    memset(buf, 0, sizeof(*buf));
}

uint8_t *
buf_room(struct buf *buf, size_t len)
{
    if (buf->size - buf->end < len && buf->start > 0) {
        memmove(buf->data, buf_head(buf), buf_len(buf));
        buf->end -= buf->start;
        buf->start = 0;
    }
    if (buf->size - buf->end < len) {
        size_t size = buf->size == 0 ? 64 : buf->size;
        while (size - buf->end < len) {
            size *= 2;
        }
        buf->data = mem_resize(buf->data, size);
        buf->size = size;
    }
    return buf->data + buf->end;
}

void
buf_added(struct buf *buf, size_t len)
{
    ensure(len <= buf->size - buf->end);
    buf->end += len;
}

void
buf_add(struct buf *buf, const void *data, size_t len)
{
    if (len == 0) {
        return;
    }
    memcpy(buf_room(buf, len), data, len);
    buf->end += len;
}

void
buf_add_u8(struct buf *buf, uint8_t value)
{
    buf_add(buf, &value, 1);
}

void
buf_add_u16(struct buf *buf, uint16_t value)
{
    uint16_t network = htons(value);
    buf_add(buf, &network, sizeof(network));
}

void
buf_add_u32(struct buf *buf, uint32_t value)
{
    uint32_t network = htonl(value);
    buf_add(buf, &network, sizeof(network));
}

void
buf_add_string(struct buf *buf, const char *string)
{
    buf_add(buf, string, strlen(string) + 1);
}

bool
buf_has_string(const struct buf *buf, const char *string)
{
    const char *at = (const char *)buf_head(buf), *end = at + buf_len(buf);

    while (at < end && strcmp(at, string) != 0) {
        at += strlen(at) + 1;
    }
    return at < end;
}

void
buf_print(struct buf *buf, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int needed = vsnprintf(NULL, 0, format, args);
    va_end(args);
    ensure(needed >= 0);

    char *room = (char *)buf_room(buf, (size_t)needed + 1);
    va_start(args, format);
    vsnprintf(room, (size_t)needed + 1, format, args);
    va_end(args);
    buf_added(buf, (size_t)needed);
}

void
buf_consume(struct buf *buf, size_t len)
{
    ensure(len <= buf_len(buf));
    buf->start += len;
    if (buf->start == buf->end) {
        buf_deinit(buf);
    }
}

void
buf_clear(struct buf *buf)
{
    buf->start = 0;
    buf->end = 0;
}

void
buf_patch_u32(struct buf *buf, size_t offset, uint32_t value)
{
    uint32_t network = htonl(value);
    ensure(offset + sizeof(network) <= buf_len(buf));
    memcpy(buf_head(buf) + offset, &network, sizeof(network));
}
