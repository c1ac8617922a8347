/*
 * Logs in over TLS with SCRAM-SHA-256, at a steady pace: generator PORT USER PASSWORD RATE SECONDS.
 * What the password gives with a salt is derived once, as drivers with a cache do, so that a login
 * costs this side a fraction of what it costs the other. Prints how many logins succeeded; any that
 * fails ends it with status 1.
 */
#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum
{
    THREADS = 3,
    KEY = 32,
    TEXT = 512
};

static struct
{
    int port;
    const char *user, *password;
    double rate, seconds;
} wanted;

/* Of one thread. */
struct login
{
    SSL_CTX *context;
    SSL *ssl;
    int fd;
    char salt[TEXT];
    uint8_t salted[KEY]; /* the password, with that salt */
    uint8_t body[4096];  /* of the last message */
    size_t len;
    long count;
};

static void
check(bool is_right, const char *what)
{
    if (!is_right) {
        fprintf(stderr, "generator: %s\n", what);
        exit(1);
    }
}

static double
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void
sleep_until(double then)
{
    struct timespec time = {.tv_sec = (time_t)then, .tv_nsec = (long)((then - (long)then) * 1e9)};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

/* ---- messages ---- */

static void
read_all(SSL *ssl, void *to, size_t len)
{
    for (size_t got = 0, some; got < len; got += some) {
        check(SSL_read_ex(ssl, (char *)to + got, len - got, &some) == 1, "the connection ended");
    }
}

/* The next message's type; its body is in login->body, with a zero behind it. */
static char
receive(struct login *login)
{
    uint8_t head[5];

    read_all(login->ssl, head, sizeof(head));
    uint32_t len;
    memcpy(&len, head + 1, sizeof(len));
    login->len = ntohl(len) - 4;
    check(login->len < sizeof(login->body), "a message is too long");
    read_all(login->ssl, login->body, login->len);
    login->body[login->len] = '\0';
    check(head[0] != 'E', (char *)login->body);
    return (char)head[0];
}

/* type '\0': a first packet. */
static void
send_message(struct login *login, char type, const void *body, size_t len)
{
    uint8_t packet[1024] = {(uint8_t)type};
    size_t head = type != '\0';
    uint32_t size = htonl((uint32_t)len + 4), sent = (uint32_t)(head + 4 + len);
    size_t written;

    check(sent <= sizeof(packet), "a packet is too long");
    memcpy(packet + head, &size, 4);
    memcpy(packet + head + 4, body, len);
    check(SSL_write_ex(login->ssl, packet, sent, &written) == 1, "writing");
}

/* ---- SCRAM (RFC 5802) ---- */

static void
hmac(const uint8_t key[KEY], const void *data, size_t len, uint8_t to[KEY])
{
    unsigned size;

    HMAC(EVP_sha256(), key, KEY, data, len, to, &size);
}

/* The value of an attribute of the server's words. */
static void
attribute(const char *words, const char *name, char to[TEXT])
{
    const char *at = strstr(words, name);

    check(at != NULL, "an attribute is missing");
    snprintf(to, TEXT, "%.*s", (int)strcspn(at + 2, ","), at + 2);
}

static void
salt_password(struct login *login, const char *words)
{
    char salt[TEXT], iterations[TEXT];
    uint8_t bytes[TEXT];

    attribute(words, "s=", salt);
    attribute(words, "i=", iterations);
    if (strcmp(salt, login->salt) == 0) {
        return;
    }
    snprintf(login->salt, sizeof(login->salt), "%s", salt);
    int len = EVP_DecodeBlock(bytes, (uint8_t *)salt, (int)strlen(salt));
    len -= (salt[strlen(salt) - 1] == '=') + (salt[strlen(salt) - 2] == '=');
    PKCS5_PBKDF2_HMAC(
        wanted.password, -1, bytes, len, atoi(iterations), EVP_sha256(), KEY, login->salted);
}

static void
prove(struct login *login, const char *nonce)
{
    char first[TEXT], final[TEXT], all[4 * TEXT], server_nonce[TEXT];
    uint8_t key[KEY], stored[KEY], proof[KEY], coded[64];

    check(receive(login) == 'R' && login->body[3] == 11, "no challenge");
    const char *words = (char *)login->body + 4;
    salt_password(login, words);
    attribute(words, "r=", server_nonce);
    snprintf(first, sizeof(first), "n=,r=%s", nonce);
    snprintf(final, sizeof(final), "c=biws,r=%.200s", server_nonce);
    int len = snprintf(all, sizeof(all), "%s,%s,%s", first, words, final);
    hmac(login->salted, "Client Key", 10, key);
    EVP_Digest(key, KEY, stored, NULL, EVP_sha256(), NULL);
    hmac(stored, all, (size_t)len, proof);
    for (int i = 0; i < KEY; i++) {
        proof[i] ^= key[i];
    }
    EVP_EncodeBlock(coded, proof, KEY);
    len = snprintf(all, sizeof(all), "%s,p=%s", final, coded);
    send_message(login, 'p', all, (size_t)len);
}

static void
log_in(struct login *login)
{
    char body[TEXT];
    uint8_t random[18];
    char nonce[32];

    static const char version[] = {0, 3, 0, 0};
    memcpy(body, version, sizeof(version));
    int len = snprintf(
        body + 4, sizeof(body) - 4, "user%c%s%cdatabase%capp%c", 0, wanted.user, 0, 0, 0);
    send_message(login, '\0', body, (size_t)len + 5);
    check(receive(login) == 'R' && login->body[3] == 10, "SCRAM is not offered");

    RAND_bytes(random, sizeof(random));
    EVP_EncodeBlock((uint8_t *)nonce, random, sizeof(random));
    uint8_t answer[TEXT];
    memcpy(answer, "SCRAM-SHA-256", 14);
    uint32_t size = htonl((uint32_t)strlen(nonce) + 8);
    memcpy(answer + 14, &size, 4);
    len = 18 + snprintf((char *)answer + 18, sizeof(answer) - 18, "n,,n=,r=%s", nonce);
    send_message(login, 'p', answer, (size_t)len);
    prove(login, nonce);
    while (receive(login) != 'Z') {
    }
    send_message(login, 'X', "", 0);
}

/* ---- connections ---- */

static void
connect_once(struct login *login)
{
    static const uint8_t request[] = {0, 0, 0, 8, 4, 210, 22, 47};
    struct sockaddr_in address = {.sin_family = AF_INET,
        .sin_port = htons((uint16_t)wanted.port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char answer;

    login->fd = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(login->fd, (struct sockaddr *)&address, sizeof(address)) == 0, "connecting");
    check(write(login->fd, request, sizeof(request)) == sizeof(request), "asking for TLS");
    check(read(login->fd, &answer, 1) == 1 && answer == 'S', "TLS is not offered");
    login->ssl = SSL_new(login->context);
    SSL_set_fd(login->ssl, login->fd);
    check(SSL_connect(login->ssl) == 1, "the handshake");
    log_in(login);
    SSL_free(login->ssl);
    close(login->fd);
    login->count++;
}

static void *
run(void *arg)
{
    struct login *login = arg;
    double began = now();

    login->context = SSL_CTX_new(TLS_client_method());
    while (now() - began < wanted.seconds) {
        connect_once(login);
        sleep_until(began + (double)login->count * THREADS / wanted.rate);
    }
    SSL_CTX_free(login->context);
    return NULL;
}

int
main(int argc, char **argv)
{
    struct login logins[THREADS] = {0};
    pthread_t threads[THREADS];
    long count = 0;

    check(argc == 6, "PORT USER PASSWORD RATE SECONDS");
    wanted.port = atoi(argv[1]);
    wanted.user = argv[2];
    wanted.password = argv[3];
    wanted.rate = atof(argv[4]);
    wanted.seconds = atof(argv[5]);
    for (int i = 0; i < THREADS; i++) {
        check(pthread_create(&threads[i], NULL, run, &logins[i]) == 0, "a thread");
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        count += logins[i].count;
    }
    printf("%ld\n", count);
    return 0;
}
