/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "job/chart.h"

#include <string.h>

#define WIDTH 860
#define LEFT 70
#define RIGHT 20
#define PLOT (WIDTH - LEFT - RIGHT)
#define PANEL 180
#define TOP_Y 74
#define GAP 64
#define LOWER_Y (TOP_Y + PANEL + GAP)
#define HEIGHT (LOWER_Y + PANEL + 56)
#define MIB (1024.0 * 1024.0)

typedef guint64 (*Value)(const QsSample *sample);

typedef struct Chart {
    GString *text;
    const GArray *samples;
    double ms; /* to the right edge */
} Chart;

static guint64 get_remaining(const QsSample *s)
{
    return s->remaining;
}

static guint64 get_rate(const QsSample *s)
{
    return s->rate;
}

static guint64 get_dirty_rate(const QsSample *s)
{
    return s->dirty_rate;
}

static const QsSample *at(const Chart *c, guint i)
{
    return &g_array_index(c->samples, QsSample, i);
}

/* With a point, whatever the locale has; XML has no place for control characters at all. */
static void add(Chart *c, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void add(Chart *c, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    g_string_append_vprintf(c->text, format, list);
    va_end(list);
}

static void add_number(Chart *c, double value)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];

    g_string_append(c->text, g_ascii_formatd(text, sizeof(text), "%.1f", value));
}

static void add_text(Chart *c, double x, double y, const char *style, const char *words)
{
    g_autofree char *line = qs_fail_line(words);
    g_autofree char *escaped = g_markup_escape_text(line, -1);

    add(c, "<text %s x=\"", style);
    add_number(c, x);
    add(c, "\" y=\"");
    add_number(c, y);
    add(c, "\">%s</text>\n", escaped);
}

static double x_of(const Chart *c, gint64 ms)
{
    return LEFT + PLOT * (double)ms / c->ms;
}

static double highest(const Chart *c, Value value, double least)
{
    double most = least;

    for (guint i = 0; i < c->samples->len; i++) {
        most = MAX(most, (double)value(at(c, i)));
    }
    return most;
}

/* A title, a frame, and what top and bottom mean. */
static void add_panel(Chart *c, double y, const char *title, double most, const char *unit)
{
    g_autofree char *top = NULL;
    char number[G_ASCII_DTOSTR_BUF_SIZE];

    add_text(c, LEFT, y - 8, "class=\"t\"", title);
    add(c, "<rect class=\"f\" x=\"%d\" y=\"", LEFT);
    add_number(c, y);
    add(c, "\" width=\"%d\" height=\"%d\"/>\n", PLOT, PANEL);
    g_ascii_formatd(number, sizeof(number), "%.1f", most / MIB);
    top = g_strdup_printf("%s %s", number, unit);
    add_text(c, LEFT - 6, y + 10, "class=\"e\"", top);
    add_text(c, LEFT - 6, y + PANEL, "class=\"e\"", "0");
}

static void add_line(Chart *c, double y, const char *id, Value value, double most)
{
    add(c, "<polyline id=\"%s\" class=\"%s\" points=\"", id, id);
    for (guint i = 0; i < c->samples->len; i++) {
        add_number(c, x_of(c, at(c, i)->ms));
        add(c, ",");
        add_number(c, y + PANEL * (1 - (double)value(at(c, i)) / most));
        add(c, " ");
    }
    add(c, "\"/>\n");
}

/* Behind the panels; their names stand where there is room for them. */
static void add_stages(Chart *c)
{
    guint shade = 0;

    for (guint i = 0, next; i < c->samples->len; i = next) {
        double from = x_of(c, at(c, i)->ms), to;

        for (next = i + 1; next < c->samples->len && at(c, next)->stage == at(c, i)->stage;) {
            next++;
        }
        to = next < c->samples->len ? x_of(c, at(c, next)->ms) : LEFT + PLOT;
        add(c, "<rect class=\"s%u\" x=\"", shade++ % 2);
        add_number(c, from);
        add(c, "\" y=\"%d\" width=\"", TOP_Y);
        add_number(c, to - from);
        add(c, "\" height=\"%d\"><title>%s</title></rect>\n", LOWER_Y + PANEL - TOP_Y,
            at(c, i)->stage);
        if (to - from > 7.0 * (double)strlen(at(c, i)->stage)) {
            add_text(c, from + 3, LOWER_Y - 30, "class=\"n\"", at(c, i)->stage);
        }
    }
}

static void add_head(Chart *c, const QsJob *job)
{
    g_autofree char *title =
        g_strdup_printf("%s: %s of %s%s%s", job->id, job->verb, job->vm,
                        job->peer != NULL ? ", " : "", job->peer != NULL ? job->peer : "");
    g_autofree char *escaped = NULL;
    g_autofree char *line = qs_fail_line(title);

    escaped = g_markup_escape_text(line, -1);
    add(c,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d "
        "%d\" role=\"img\">\n<title>%s</title>\n"
        "<style>text{font:12px sans-serif;fill:#222}.h{font-size:16px}.e{text-anchor:end}"
        ".n{fill:#777}.f{fill:none;stroke:#999}.s0{fill:#f2f4f7}.s1{fill:#e4e9f0}"
        "polyline{fill:none;stroke-width:1.6}.remaining{stroke:#1b5e9b}.rate{stroke:#2e7d32}"
        ".dirty{stroke:#c25b00}</style>\n"
        "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
        WIDTH, HEIGHT, WIDTH, HEIGHT, escaped, WIDTH, HEIGHT);
    add_text(c, LEFT, 24, "class=\"h\"", title);
    add_text(c, LEFT, 44, "class=\"n\"", job->words != NULL ? job->words : qs_job_state_word(job));
}

static void add_axis(Chart *c)
{
    for (guint i = 0; i <= 4; i++) {
        char number[G_ASCII_DTOSTR_BUF_SIZE];
        g_autofree char *text = NULL;

        g_ascii_formatd(number, sizeof(number), "%.1f", c->ms * i / 4000.0);
        text = g_strdup_printf("%s s", number);
        add_text(c, LEFT + PLOT * i / 4.0, LOWER_Y + PANEL + 16,
                 i == 4 ? "class=\"e\"" : "class=\"n\"", text);
    }
}

char *qs_chart_svg(const QsJob *job, const GArray *samples)
{
    Chart c = { .text = g_string_new(NULL), .samples = samples };

    add_head(&c, job);
    if (samples->len == 0) {
        add_text(&c, LEFT, TOP_Y + 20, "class=\"n\"", "nothing was measured");
    } else {
        double remaining = highest(&c, get_remaining, 1);
        double rate = highest(&c, get_dirty_rate, highest(&c, get_rate, 1));
        g_autofree char *downtime = NULL;

        c.ms = MAX((double)at(&c, samples->len - 1)->ms, 1);
        downtime = g_strdup_printf("downtime %" G_GUINT64_FORMAT " ms",
                                   at(&c, samples->len - 1)->downtime_ms);
        add_stages(&c);
        add_panel(&c, TOP_Y, "remaining", remaining, "MiB");
        add_line(&c, TOP_Y, "remaining", get_remaining, remaining);
        add_panel(&c, LOWER_Y, "rate (green), dirty rate of memory (orange), a second", rate,
                  "MiB");
        add_line(&c, LOWER_Y, "rate", get_rate, rate);
        add_line(&c, LOWER_Y, "dirty", get_dirty_rate, rate);
        add_axis(&c);
        add_text(&c, LEFT, LOWER_Y + PANEL + 40, "id=\"downtime\"", downtime);
    }
    add(&c, "</svg>\n");
    return g_string_free(c.text, FALSE);
}
