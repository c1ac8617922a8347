/* Texts of files. Called by the other files of this folder; calls the kernel. */
#include "conf/files.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct file
{
    struct file *next;
    char *path, *text; /* own */
    size_t len;
};

static struct file *remembered; /* own: of the last good load */
static struct file *fresh;      /* own: read since files_begin() */
static bool is_loading, reads_again;

static void
forget(struct file **list)
{
    while (*list != NULL) {
        struct file *file = *list;
        *list = file->next;
        explicit_bzero(file->text, file->len);
        free(file->text);
        free(file->path);
        free(file);
    }
}

static char *
copy(const char *text, size_t len)
{
    char *made = mem_new(len + 1);

    memcpy(made, text, len);
    return made;
}

static void
add(struct file **list, const char *path, const char *text, size_t len)
{
    struct file *file = mem_new(sizeof(*file));

    file->path = mem_string(path);
    file->text = copy(text, len);
    file->len = len;
    file->next = *list;
    *list = file;
}

void
files_begin(bool is_again)
{
    forget(&fresh);
    is_loading = true;
    reads_again = is_again;
}

void
files_end(bool is_good)
{
    is_loading = false;
    if (!is_good) {
        forget(&fresh);
        return;
    }
    if (!reads_again) {
        forget(&remembered);
    }
    while (fresh != NULL) {
        struct file *file = fresh;
        fresh = file->next;
        file->next = remembered;
        remembered = file;
    }
}

static char *
read_now(const char *path, size_t *len_out)
{
    struct buf buf = {0};
    ssize_t got;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return NULL;
    }
    do {
        got = read(fd, buf_room(&buf, 65536), 65536);
        buf_added(&buf, got > 0 ? (size_t)got : 0);
    } while (got > 0 || (got < 0 && errno == EINTR));
    int error = errno;
    close(fd);
    char *text = NULL;
    if (got == 0) {
        *len_out = buf_len(&buf);
        text = copy(buf_len(&buf) > 0 ? (const char *)buf_head(&buf) : "", *len_out);
    }
    if (buf.data != NULL) {
        explicit_bzero(buf.data, buf.size);
    }
    buf_deinit(&buf);
    errno = error;
    return text;
}

char *
files_read(const char *path, size_t *len_out)
{
    const struct file *file = is_loading && reads_again ? remembered : NULL;

    while (file != NULL && strcmp(file->path, path) != 0) {
        file = file->next;
    }
    if (file != NULL) {
        *len_out = file->len;
        return copy(file->text, file->len);
    }
    char *text = read_now(path, len_out);
    if (text != NULL && is_loading) {
        add(&fresh, path, text, *len_out);
    }
    return text;
}
