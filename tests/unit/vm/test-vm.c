/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is done to a VM, over QMP replies as QEMU 10.0.13 gave them. A thread answers on the run
 * folder's sockets and a real process stands for QEMU's, so that its end is a real end.
 */
#include "vm/run.h"
#include "vm/vm.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define HELLO                                                                                      \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 13, \"minor\": 0, \"major\": 10}, "            \
    "\"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n{\"return\": {}, \"id\": 1}\r\n"
#define STAMP "\"timestamp\": {\"seconds\": 1795270750, \"microseconds\": 565170}"
#define RUNS "{\"return\": {\"status\": \"running\", \"running\": true}, \"id\": 2}\r\n"
#define DONE3 "{\"return\": {}, \"id\": 3}\r\n"
#define DONE "{\"return\": {}, \"id\": 2}\r\n"
#define EVENT(name) "{" STAMP ", \"event\": \"" name "\"}\r\n"
#define STATUS(word)                                                                               \
    HELLO "{\"return\": {\"status\": \"" word "\", \"running\": false}, \"id\": 2}\r\n"

typedef enum Operation { INSPECT, CONTINUE, POWER_OFF, KILL, DELETE, LAUNCH } Operation;

typedef struct Case {
    const char *name;
    Operation operation;
    const char *says;
    const char *ends_at; /* the command that ends the process */
    const char *state;   /* of INSPECT, and of all others afterwards */
    int code;            /* 0: done */
    const char *words;
} Case;

static const Case cases[] = {
    { "running", INSPECT, STATUS("running"), NULL, "running", 0, NULL },
    { "paused", INSPECT, STATUS("paused"), NULL, "paused", 0, NULL },
    { "prelaunch", INSPECT, STATUS("prelaunch"), NULL, "paused", 0, NULL },
    { "left", INSPECT, STATUS("postmigrate"), NULL, "left", 0, NULL },
    { "arriving", INSPECT, STATUS("inmigrate"), NULL, "arriving", 0, NULL },
    { "disk-error", INSPECT, STATUS("io-error"), NULL, "disk-error", 0, NULL },
    { "crashed", INSPECT, STATUS("guest-panicked"), NULL, "crashed", 0, NULL },
    { "word-of-the-future", INSPECT, STATUS("napping"), NULL, "unknown", 0, NULL },
    { "silent", INSPECT, "", NULL, "silent", 0, NULL },
    { "nonsense", INSPECT, "220 smtp ready\r\n", NULL, "silent", 0, NULL },
    { "continue", CONTINUE, HELLO EVENT("RESUME") DONE, NULL, "running", 0, NULL },
    { "continue-refused", CONTINUE,
      HELLO "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"Resetting the "
            "Virtual Machine is required\"}}\r\n"
            "{\"return\": {\"status\": \"prelaunch\"}, \"id\": 3}\r\n",
      NULL, "running", QS_VM_ERROR_RUNS_HERE,
      "Resetting the Virtual Machine is required; state: it is paused here" },
    { "power-off", POWER_OFF, HELLO RUNS EVENT("POWERDOWN") DONE3, "system_powerdown", "stopped", 0,
      NULL },
    { "power-off-by-itself", POWER_OFF, HELLO, "query-status", "stopped", 0, NULL },
    { "power-off-ignored", POWER_OFF, HELLO RUNS EVENT("POWERDOWN") DONE3, NULL, "running",
      QS_VM_ERROR_RUNS_HERE, "hint: quasar-run stop --force web" },
    { "power-off-refused", POWER_OFF,
      HELLO RUNS "{\"id\": 3, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command "
                 "system_powerdown has not been found\"}}\r\n",
      NULL, "running", QS_QMP_ERROR_UNKNOWN, "has not been found" },
    { "power-off-paused", POWER_OFF, STATUS("paused"), "system_powerdown", "running",
      QS_VM_ERROR_RUNS_HERE, "state: paused; hint: quasar-run stop --force web" },
    { "kill", KILL, HELLO DONE, "quit", "stopped", 0, NULL },
    { "kill-deaf", KILL, "", NULL, "stopped", 0, NULL },
    { "kill-refused", KILL,
      HELLO "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\r\n", NULL,
      "stopped", 0, NULL },
    { "delete", DELETE, HELLO, NULL, "running", QS_VM_ERROR_RUNS_HERE, "cannot be deleted" },
    { "launch", LAUNCH, HELLO, NULL, "running", QS_VM_ERROR_RUNS_HERE, "runs already" },
};

typedef struct World {
    const Case *c;
    char *root;
    QsStore *store;
    char *run;
    int alive;
    QsProcess process;
    GThread *threads[2];
} World;

typedef struct Server {
    World *world;
    int listener;
} Server;

static void end_process(World *w)
{
    int pidfd = qs_process_pin(&w->process);

    if (pidfd >= 0) {
        qs_process_signal(pidfd, SIGKILL);
        close(pidfd);
    }
}

/* Says what the case has, reads to the end, and ends the process when told to. */
static void serve(World *w, int fd)
{
    g_autoptr(GString) heard = g_string_new(NULL);
    char buffer[1024];
    ssize_t n;

    if (send(fd, w->c->says, strlen(w->c->says), MSG_NOSIGNAL) < 0) {
        return;
    }
    if (*w->c->says == '\0') {
        return;
    }
    while ((n = recv(fd, buffer, sizeof(buffer), 0)) > 0) {
        g_string_append_len(heard, buffer, n);
        if (w->c->ends_at != NULL && strstr(heard->str, w->c->ends_at) != NULL) {
            end_process(w);
            return;
        }
    }
}

static gpointer answer(gpointer data)
{
    Server *server = data;
    int fd;

    while ((fd = accept(server->listener, NULL, NULL)) >= 0) {
        serve(server->world, fd);
        close(fd);
    }
    g_free(server);
    return NULL;
}

static void listen_at(World *w, guint index, const char *file, int *ret_listener)
{
    Server *server = g_new0(Server, 1);

    server->world = w;
    server->listener = qs_run_listen(w->run, file, NULL);
    g_assert_cmpint(server->listener, >=, 0);
    *ret_listener = server->listener;
    w->threads[index] = g_thread_new(file, answer, server);
}

/* As qs_vm_launch() leaves it, with `sleep` for QEMU. */
static void begin(World *w, const Case *c, int *ret_listeners)
{
    const char *argv[] = { "/bin/sleep", "100", NULL };
    g_autofree char *alive = NULL;
    g_autofree char *log = NULL;
    g_autofree char *record = NULL;
    g_autoptr(QsVm) vm = NULL;
    QsDef *def = qs_def_new();

    *w = (World){ .c = c, .root = g_dir_make_tmp("quasar-vm-XXXXXX", NULL) };
    w->store = qs_store_new(w->root);
    w->run = qs_store_run_folder(w->store, "web");
    vm = qs_vm_new(w->store, "web", NULL);
    g_assert_true(qs_def_complete(def, "web", NULL));
    g_assert_true(qs_vm_lock(vm, "test", NULL));
    g_assert_true(qs_vm_define(vm, def, NULL));
    alive = g_build_filename(w->run, "alive", NULL);
    log = g_build_filename(w->run, "log", NULL);
    record = g_build_filename(w->run, "process", NULL);
    g_assert_cmpint(qs_run_hold(alive, &w->alive, NULL), ==, QS_RUN_HELD);
    listen_at(w, 0, "monitor", &ret_listeners[0]);
    listen_at(w, 1, "query", &ret_listeners[1]);
    /* Or the child would hold it until it runs its program. */
    g_clear_pointer(&vm, qs_vm_free);
    g_assert_true(
        qs_process_spawn((char **)argv, &w->alive, 1, log, record, NULL, NULL, &w->process, NULL));
    close(w->alive);
}

static void finish(World *w, const int *listeners)
{
    g_autofree char *definitions = g_strdup(qs_store_definitions(w->store));
    g_autofree char *run = g_path_get_dirname(w->run);

    end_process(w);
    waitpid(w->process.pid, NULL, 0);
    for (guint i = 0; i < 2; i++) {
        shutdown(listeners[i], SHUT_RDWR);
        g_thread_join(w->threads[i]);
        close(listeners[i]);
    }
    qs_run_sweep(w->run, NULL);
    qs_run_sweep(run, NULL);
    qs_run_sweep(definitions, NULL);
    qs_run_sweep(w->root, NULL);
    g_assert_false(g_file_test(w->root, G_FILE_TEST_EXISTS));
    qs_store_free(w->store);
    g_free(w->run);
    g_free(w->root);
}

static bool operate(QsVm *vm, const Case *c, GError **error)
{
    /* Only who does not obey is waited for to the end. */
    guint patience = c->ends_at != NULL ? 60 : 1;
    g_auto(QsVmNotes) notes = { 0 };

    switch (c->operation) {
    case CONTINUE: return qs_vm_continue(vm, NULL, error);
    case POWER_OFF: return qs_vm_power_off(vm, patience, NULL, error);
    case KILL: return qs_vm_kill(vm, error);
    case DELETE: return qs_vm_delete(vm, error);
    case LAUNCH: return qs_vm_launch(vm, false, NULL, &notes, error);
    default: return true;
    }
}

static void test_case(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(QsVm) vm = NULL;
    g_autofree char *live = NULL;
    QsVmInfo info;
    int listeners[2];
    World w;
    bool done;

    begin(&w, c, listeners);
    vm = qs_vm_open(w.store, "web", &error);
    g_assert_no_error(error);
    g_assert_true(qs_vm_lock(vm, "test", &error));
    done = operate(vm, c, &error);
    g_assert_true(done == (c->code == 0));
    if (!done) {
        g_test_message("%s", error->message);
        g_assert_cmpint(error->code, ==, c->code);
        g_assert_nonnull(strstr(error->message, c->words));
    }
    qs_vm_inspect(vm, 2000, &info);
    if (c->operation == INSPECT) {
        g_assert_cmpstr(info.state, ==, c->state);
        g_assert_cmpint(info.pid, ==, w.process.pid);
    } else {
        g_assert_true(info.alive == g_str_equal(c->state, "running"));
    }
    /* What is over leaves nothing behind but the lock. */
    live = qs_vm_run_file(vm, "process");
    g_assert_true(g_file_test(live, G_FILE_TEST_EXISTS) == info.alive);
    g_clear_pointer(&vm, qs_vm_free);
    finish(&w, listeners);
}

/* A process that has the recorded number, but is another one, is left alone. */
static void test_foreign_process(void)
{
    static const Case c = { "foreign", KILL, HELLO DONE, NULL, "running", 0, NULL };
    g_autofree char *record = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QsVm) vm = NULL;
    QsProcess other;
    int listeners[2], pidfd;
    World w;

    begin(&w, &c, listeners);
    other = w.process;
    other.start--;
    record = g_build_filename(w.run, "process", NULL);
    g_assert_true(qs_process_save(&other, record, NULL));
    vm = qs_vm_open(w.store, "web", NULL);
    g_assert_true(qs_vm_lock(vm, "test", NULL));
    g_assert_false(qs_vm_kill(vm, &error));
    g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_UNCERTAIN);
    pidfd = qs_process_pin(&w.process);
    g_assert_cmpint(pidfd, >=, 0);
    close(pidfd);
    g_clear_pointer(&vm, qs_vm_free);
    finish(&w, listeners);
}

static void test_two_hands(void)
{
    static const Case c = { "hands", INSPECT, STATUS("running"), NULL, "running", 0, NULL };
    g_autoptr(GError) error = NULL;
    g_autoptr(QsVm) one = NULL;
    g_autoptr(QsVm) two = NULL;
    QsVmInfo info;
    int listeners[2];
    World w;

    begin(&w, &c, listeners);
    one = qs_vm_open(w.store, "web", NULL);
    two = qs_vm_open(w.store, "web", NULL);
    g_assert_true(qs_vm_lock(one, "migrate", NULL));
    g_assert_false(qs_vm_lock(two, "stop", &error));
    g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, "quasar-run migrate, process "));
    /* Who only looks is not kept waiting. */
    qs_vm_inspect(two, 2000, &info);
    g_assert_cmpstr(info.state, ==, "running");
    g_clear_pointer(&one, qs_vm_free);
    g_assert_true(qs_vm_lock(two, "stop", NULL));
    g_clear_pointer(&two, qs_vm_free);
    finish(&w, listeners);
}

/* Who waited for the lock must not bring back what the definition was before. */
static void test_changed_before_the_lock(void)
{
    static const Case c = { "changed", INSPECT, STATUS("running"), NULL, "running", 0, NULL };
    g_autoptr(GError) error = NULL;
    g_autoptr(QsVm) one = NULL;
    g_autoptr(QsVm) two = NULL;
    g_autoptr(QsVm) three = NULL;
    int listeners[2];
    World w;

    begin(&w, &c, listeners);
    one = qs_vm_open(w.store, "web", NULL);
    two = qs_vm_open(w.store, "web", NULL);
    three = qs_vm_open(w.store, "web", NULL);
    g_assert_true(qs_vm_lock(one, "set", NULL));
    g_assert_true(qs_def_set(qs_vm_def(one), "memory", "1G", NULL));
    g_assert_true(qs_vm_save(one, NULL));
    g_clear_pointer(&one, qs_vm_free);
    g_assert_true(qs_vm_lock(two, "set", NULL));
    g_assert_cmpuint(qs_vm_def(two)->memory, ==, 1024);
    end_process(&w);
    waitpid(w.process.pid, NULL, 0);
    g_assert_true(qs_vm_delete(two, NULL));
    g_clear_pointer(&two, qs_vm_free);
    g_assert_false(qs_vm_lock(three, "start", &error));
    g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, "there is no VM"));
    g_clear_pointer(&three, qs_vm_free);
    finish(&w, listeners);
}

static void test_store(void)
{
    g_autofree char *root = g_dir_make_tmp("quasar-store-XXXXXX", NULL);
    g_autoptr(QsStore) store = qs_store_new(root);
    static const char *const files[] = { "b.conf", "a.conf", ".c.conf", "d.txt", "-e.conf" };
    g_auto(GStrv) none = qs_store_names(store, NULL);
    g_auto(GStrv) names = NULL;

    g_assert_cmpuint(g_strv_length(none), ==, 0);
    g_assert_cmpint(g_mkdir(qs_store_definitions(store), 0700), ==, 0);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = g_build_filename(qs_store_definitions(store), files[i], NULL);

        g_assert_true(g_file_set_contents(path, "", 0, NULL));
    }
    names = qs_store_names(store, NULL);
    g_assert_cmpuint(g_strv_length(names), ==, 2);
    g_assert_cmpstr(names[0], ==, "a");
    g_assert_cmpstr(names[1], ==, "b");
    qs_run_sweep(qs_store_definitions(store), NULL);
    qs_run_sweep(root, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/vm/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], test_case);
    }
    g_test_add_func("/vm/foreign-process", test_foreign_process);
    g_test_add_func("/vm/two-hands", test_two_hands);
    g_test_add_func("/vm/changed-before-the-lock", test_changed_before_the_lock);
    g_test_add_func("/vm/store", test_store);
    return g_test_run();
}
