/* Asks PAM in a helper. Called by client/login; calls libpam. */
#include "client/pam.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/text.h"

#include <string.h>
#ifdef HAVE_PAM
#include <security/pam_appl.h>
#endif

struct question
{
    struct job job;      /* first */
    struct crowd *crowd; /* borrows: outlives all helpers */
    uint64_t ticket;
    char *service, *user, *address, *password; /* own; the last is wiped */
    pam_done_fn *done;
    bool is_right;
};

static void
question_free(struct question *question)
{
    free(question->service);
    free(question->user);
    free(question->address);
    text_wipe(&question->password);
    free(question);
}

static void
on_answer(void *arg)
{
    struct question *question = arg;

    question->done(question->crowd, question->ticket, question->is_right);
    question_free(question);
}

#ifdef HAVE_PAM
/* Answers what is asked for in secret with the password, nothing else. PAM frees the answers. */
static int
converse(
    int count, const struct pam_message **messages, struct pam_response **answers_out, void *arg)
{
    const struct question *question = arg;
    struct pam_response *answers = calloc((size_t)count, sizeof(*answers));

    for (int i = 0; answers != NULL && i < count; i++) {
        switch (messages[i]->msg_style) {
        case PAM_PROMPT_ECHO_OFF:
            answers[i].resp = strdup(question->password);
            break;
        case PAM_TEXT_INFO:
        case PAM_ERROR_MSG:
            break;
        default:
            log_info("PAM asks for more than a password: %s", messages[i]->msg);
            while (i-- > 0) {
                text_wipe(&answers[i].resp);
            }
            free(answers);
            return PAM_CONV_ERR;
        }
    }
    *answers_out = answers;
    return answers != NULL ? PAM_SUCCESS : PAM_CONV_ERR;
}

/* Instead of the library's pause after a wrong password, which would keep a helper for seconds. */
static void
do_not_wait(int status, unsigned delay_us, void *arg)
{
    (void)status;
    (void)delay_us;
    (void)arg;
}

static bool
ask(struct question *question)
{
    void (*const pause)(int, unsigned, void *) = do_not_wait;
    struct pam_conv conversation = {.conv = converse, .appdata_ptr = question};
    pam_handle_t *pam = NULL;

    int result = pam_start(question->service, question->user, &conversation, &pam);
    if (result == PAM_SUCCESS) {
        result = pam_set_item(pam, PAM_FAIL_DELAY, (const void *)pause);
    }
    if (result == PAM_SUCCESS && question->address[0] != '\0') {
        result = pam_set_item(pam, PAM_RHOST, question->address);
    }
    if (result == PAM_SUCCESS) {
        result = pam_authenticate(pam, PAM_SILENT);
    }
    if (result == PAM_SUCCESS) {
        result = pam_acct_mgmt(pam, PAM_SILENT);
    }
    if (result != PAM_SUCCESS) {
        log_info("PAM service \"%s\" refuses user \"%s\": %s", question->service, question->user,
            pam_strerror(pam, result));
    }
    if (pam != NULL) {
        pam_end(pam, result);
    }
    return result == PAM_SUCCESS;
}
#else
static bool
ask(struct question *question)
{
    (void)question;
    ensure(!"the settings refuse PAM");
    return false;
}
#endif

/* In a helper. */
static void
run(struct job *job)
{
    struct question *question = (struct question *)job;

    question->is_right = ask(question);
    if (!loop_post(question->crowd->pool.loop, on_answer, question)) {
        question_free(question);
    }
}

static void
give_up(struct job *job)
{
    question_free((struct question *)job);
}

void
pam_check(struct client *client, const char *service, const char *password, pam_done_fn *done)
{
    struct question *question = mem_new(sizeof(*question));
    char address[PEER_TEXT_MAX] = "";

    if (!client->identity.is_unix) {
        client_address(client, address, sizeof(address));
    }
    question->job = (struct job){.kind = JOB_LOOKUP, .run = run, .drop = give_up};
    question->crowd = client->crowd;
    question->ticket = client->ticket;
    question->service = mem_string(service);
    question->user = mem_string(client->identity.user);
    question->address = mem_string(address);
    question->password = mem_string(password);
    question->done = done;
    helpers_run(client->crowd->crowds->helpers, &question->job);
}
