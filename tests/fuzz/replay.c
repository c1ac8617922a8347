/*
 * Runs one fuzz target over every file of the directories named on the command line: so the corpora
 * are tested by builds that have no libFuzzer. Each input lies in memory of exactly its size, for
 * the sanitizers to see what is read beyond.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
replay_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(size == 0 ? 1 : size);

    if (file == NULL || data == NULL || fread(data, 1, size, file) != size) {
        perror(path);
        exit(1);
    }
    fclose(file);
    int result = LLVMFuzzerTestOneInput(data, size);
    free(data);
    return result;
}

static unsigned
replay_directory(const char *name)
{
    DIR *directory = opendir(name);
    struct dirent *entry;
    unsigned count = 0;

    if (directory == NULL) {
        perror(name);
        exit(1);
    }
    while ((entry = readdir(directory)) != NULL) {
        char path[4096];
        struct stat stat_buf;
        snprintf(path, sizeof(path), "%s/%s", name, entry->d_name);
        if (stat(path, &stat_buf) == 0 && S_ISREG(stat_buf.st_mode)) {
            replay_file(path, (size_t)stat_buf.st_size);
            count++;
        }
    }
    closedir(directory);
    return count;
}

int
main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        unsigned count = replay_directory(argv[i]);
        printf("%s: %u inputs\n", argv[i], count);
        if (count == 0) {
            return 1; /* a corpus that is not found tests nothing */
        }
    }
    return argc > 1 ? 0 : 1;
}
