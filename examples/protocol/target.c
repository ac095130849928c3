/* An attention in C that attnspec can test:
 *
 *     cc -O2 -o c_target target.c -lm
 *     attnspec verify exec:./c_target
 *
 * It speaks the process protocol (docs/protocol.md): requests on standard input, answers on standard output, one JSON
 * object to a line; tensors in safetensors files. It takes float32 and float64, computes in double, and knows mask, bias,
 * scale, softcap and causal_offset. Needs C99, POSIX getline and a little-endian machine.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char error_text[256];

/* Note what went wrong, for the answer; return 0. */
static int fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error_text, sizeof error_text, format, arguments);
    va_end(arguments);
    for (char *c = error_text; *c; c++) /* it will stand in a JSON string */
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') *c = '\'';
    return 0;
}

/* ---- JSON: a value is a pointer to its first character. The text ends with '\0', where everything stops. ---- */

static const char *blank(const char *p) { return p + strspn(p, " \t\r\n"); }

static const char *skip_string(const char *p) {
    for (p++; *p && *p != '"'; p++)
        if (*p == '\\' && p[1]) p++;
    return *p ? p + 1 : p;
}

/* Return what comes behind a value. */
static const char *skip_value(const char *p) {
    int depth = 0;
    do {
        p = blank(p);
        if (*p == '"') {
            p = skip_string(p);
        } else if (strchr("[{", *p) && *p) {
            depth++, p++;
        } else if (strchr("]}", *p) && *p) {
            depth--, p++;
        } else if (strchr(",:", *p) && *p) {
            p++;
        } else { /* a number or a word */
            p += strcspn(p, ",:]}[{\" \t\r\n");
        }
    } while (depth > 0 && *p);
    return p;
}

/* Return the member of an object, or NULL; the names asked for need no escapes. */
static const char *member(const char *object, const char *name) {
    size_t length = strlen(name);
    const char *p = object == NULL ? "" : blank(object);
    if (*p != '{') return NULL;
    for (p = blank(p + 1); *p == '"';) {
        const char *key = p + 1, *end = skip_string(p);
        p = blank(end);
        if (*p == ':') p = blank(p + 1);
        if ((size_t)(end - key) == length + 1 && memcmp(key, name, length) == 0) return p;
        p = blank(skip_value(p));
        if (*p == ',') p = blank(p + 1);
    }
    return NULL;
}

static double number(const char *p, double otherwise) {
    return p == NULL || *p == 'n' ? otherwise : strtod(p, NULL);
}

/* Copy a string, its escapes resolved, as UTF-8. */
static int text(const char *p, char *out, size_t size) {
    size_t length = 0;
    if (p == NULL || *p != '"') return fail("a string was expected");
    for (p++; *p && *p != '"'; p++) {
        unsigned code = (unsigned char)*p, low;
        if (length + 5 > size) return fail("a string is too long");
        if (code != '\\') { /* a byte of UTF-8 */
            out[length++] = *p;
            continue;
        }
        p++;
        if (*p == 'u' && sscanf(p + 1, "%4x", &code) == 1) {
            p += 4;
            if (code >= 0xD800 && code < 0xDC00 && sscanf(p + 1, "\\u%4x", &low) == 1) {
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                p += 6;
            }
        } else {
            const char *letters = "bfnrt", *values = "\b\f\n\r\t", *found = *p ? strchr(letters, *p) : NULL;
            code = found ? (unsigned char)values[found - letters] : (unsigned char)*p;
        }
        if (code < 0x80) {
            out[length++] = (char)code;
        } else if (code < 0x800) {
            out[length++] = (char)(0xC0 | code >> 6);
            out[length++] = (char)(0x80 | (code & 0x3F));
        } else {
            if (code >= 0x10000) out[length++] = (char)(0xF0 | code >> 18);
            out[length++] = (char)(code >= 0x10000 ? 0x80 | (code >> 12 & 0x3F) : 0xE0 | code >> 12);
            out[length++] = (char)(0x80 | (code >> 6 & 0x3F));
            out[length++] = (char)(0x80 | (code & 0x3F));
        }
    }
    out[length] = '\0';
    return 1;
}

/* ---- safetensors: eight bytes with the length of the header, the header in JSON, the data. ---- */

enum { MOST_AXES = 8 };

typedef struct {
    char dtype[8];
    int rank;
    size_t shape[MOST_AXES], count;
    const char *data;
} Tensor;

static char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    char *content = NULL;
    long length;
    if (file && fseek(file, 0, SEEK_END) == 0 && (length = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0) {
        content = malloc((size_t)length + 1);
        if (content && fread(content, 1, (size_t)length, file) != (size_t)length) free(content), content = NULL;
        *size = (size_t)length;
    }
    if (file) fclose(file);
    if (content == NULL) fail("cannot read %s", path);
    return content;
}

static size_t width(const char *dtype) {
    return strcmp(dtype, "F64") == 0 ? 8 : strcmp(dtype, "F32") == 0 ? 4 : strcmp(dtype, "BOOL") == 0 ? 1 : 0;
}

/* Find a tensor; one that is not there has the rank -1. */
static int find(const char *header, const char *data, size_t bytes, const char *name, Tensor *tensor) {
    const char *entry = member(header, name), *shape = member(entry, "shape"), *offsets = member(entry, "data_offsets");
    tensor->rank = -1;
    if (entry == NULL) return 1;
    if (!text(member(entry, "dtype"), tensor->dtype, sizeof tensor->dtype) || shape == NULL || offsets == NULL)
        return fail("tensor %s has no dtype, shape or data_offsets", name);
    if (width(tensor->dtype) == 0) return fail("tensor %s has the dtype %s", name, tensor->dtype);
    tensor->count = 1, tensor->rank = 0;
    for (shape = blank(shape + 1); *shape >= '0' && *shape <= '9'; shape = blank(shape)) {
        if (tensor->rank == MOST_AXES) return fail("tensor %s has too many axes", name);
        tensor->count *= tensor->shape[tensor->rank++] = strtoul(shape, (char **)&shape, 10);
        shape = blank(shape);
        if (*shape == ',') shape++;
    }
    size_t start = strtoul(offsets + 1, (char **)&offsets, 10), stop = strtoul(blank(offsets) + 1, NULL, 10);
    if (stop > bytes || start > stop || stop - start != tensor->count * width(tensor->dtype))
        return fail("tensor %s does not fit into its file", name);
    tensor->data = data + start;
    return 1;
}

static double at(const Tensor *tensor, size_t place) {
    float single;
    double number;
    if (tensor->dtype[0] == 'B') return tensor->data[place] != 0;
    if (tensor->dtype[1] == '6') return memcpy(&number, tensor->data + 8 * place, 8), number;
    return memcpy(&single, tensor->data + 4 * place, 4), single;
}

/* Return where a row begins: an axis of 1 serves every index. */
static size_t row(const Tensor *tensor, const size_t *index) {
    size_t place = 0;
    for (int axis = 0; axis < tensor->rank - 1; axis++)
        place = place * tensor->shape[axis] + (tensor->shape[axis] > 1 ? index[axis] : 0);
    return place * tensor->shape[tensor->rank - 1];
}

/* ---- attention ---- */

typedef struct {
    Tensor query, key, value, mask, bias;
    double scale, softcap, offset; /* no softcap: 0; not causal: infinity */
} Call;

/* Compute the logits of a query, -inf where it sees no key, and return the largest. */
static double compute_logits(const Call *call, const size_t *index, const size_t *above, double *logits) {
    const size_t size = call->query.shape[call->query.rank - 1], keys = call->key.shape[call->key.rank - 2];
    const size_t query = row(&call->query, index), i = index[call->query.rank - 2];
    size_t key_index[MOST_AXES];
    double largest = -INFINITY;
    memcpy(key_index, above, sizeof key_index);
    for (size_t j = 0; j < keys; j++) {
        double sum = 0, added = 0;
        logits[j] = -INFINITY; /* what is not visible is not read: there may be NaN */
        if ((double)j > (double)i + call->offset) continue;
        if (call->mask.rank > 0) {
            size_t last = call->mask.shape[call->mask.rank - 1];
            if (!at(&call->mask, row(&call->mask, index) + (last > 1 ? j : 0))) continue;
        }
        if (call->bias.rank > 0) {
            size_t last = call->bias.shape[call->bias.rank - 1];
            added = at(&call->bias, row(&call->bias, index) + (last > 1 ? j : 0));
            if (added == -INFINITY) continue;
        }
        key_index[call->key.rank - 2] = j;
        size_t key = row(&call->key, key_index);
        for (size_t d = 0; d < size; d++) sum += at(&call->query, query + d) * at(&call->key, key + d);
        sum *= call->scale;
        if (call->softcap > 0) sum = call->softcap * tanh(sum / call->softcap);
        logits[j] = sum + added;
        if (!(logits[j] <= largest)) largest = logits[j];
    }
    return largest;
}

/* softmax(logits) @ value for every query; a row that sees nothing is 0. */
static void attention(const Call *call, double *logits, double *output) {
    const int rank = call->query.rank;
    const size_t keys = call->key.shape[rank - 2], columns = call->value.shape[rank - 1];
    size_t rows = 1, index[MOST_AXES] = {0}, above[MOST_AXES];
    for (int axis = 0; axis < rank - 1; axis++) rows *= call->query.shape[axis];
    for (size_t r = 0; r < rows; r++, output += columns) {
        size_t rest = r;
        for (int axis = rank - 2; axis >= 0; axis--) {
            index[axis] = rest % call->query.shape[axis];
            rest /= call->query.shape[axis];
        }
        memcpy(above, index, sizeof above);
        if (rank > 3) /* neighbouring query heads share a head of keys */
            above[rank - 3] /= call->query.shape[rank - 3] / call->key.shape[rank - 3];
        double largest = compute_logits(call, index, above, logits), total = 0;
        for (size_t c = 0; c < columns; c++) output[c] = 0;
        for (size_t j = 0; j < keys; j++) {
            if (logits[j] == -INFINITY) continue;
            double weight = exp(logits[j] - largest);
            total += weight;
            above[rank - 2] = j;
            size_t value = row(&call->value, above);
            for (size_t c = 0; c < columns; c++) output[c] += weight * at(&call->value, value + c);
        }
        for (size_t c = 0; c < columns && total != 0; c++) output[c] /= total;
    }
}

/* Write the result, which has the query's dtype and its shape but for the last axis. */
static int write_output(const char *path, const Call *call, const double *output, size_t count) {
    const Tensor *query = &call->query;
    const size_t bytes = width(query->dtype);
    char header[512];
    int length = snprintf(header, sizeof header, "{\"output\":{\"dtype\":\"%s\",\"shape\":[", query->dtype);
    for (int axis = 0; axis < query->rank; axis++) {
        size_t size = axis < query->rank - 1 ? query->shape[axis] : call->value.shape[axis];
        length += snprintf(header + length, sizeof header - length, "%s%zu", axis ? "," : "", size);
    }
    length += snprintf(header + length, sizeof header - length, "],\"data_offsets\":[0,%zu]}}", count * bytes);
    while (length % 8) header[length++] = ' ';
    FILE *file = fopen(path, "wb");
    if (file == NULL) return fail("cannot write %s", path);
    uint64_t prefix = (uint64_t)length;
    int is_written = fwrite(&prefix, 8, 1, file) == 1 && fwrite(header, 1, (size_t)length, file) == (size_t)length;
    for (size_t i = 0; i < count && is_written; i++) {
        float single = (float)output[i];
        is_written = fwrite(bytes == 8 ? (const void *)&output[i] : &single, bytes, 1, file) == 1;
    }
    return fclose(file) == 0 && is_written ? 1 : fail("cannot write %s", path);
}

static int compute(const char *request, const char *content, size_t size, const char *write_path) {
    const char *names[] = {"query", "key", "value", "mask", "bias"}, *options = member(request, "options");
    uint64_t length = 0;
    Call call;
    Tensor *tensors[] = {&call.query, &call.key, &call.value, &call.mask, &call.bias};
    if (size >= 8) memcpy(&length, content, 8);
    if (size < 8 || length > size - 8) return fail("the file of tensors is truncated");
    const char *data = content + 8 + length;
    char *header = calloc(length + 1, 1); /* with an end */
    if (header == NULL) return fail("no memory");
    memcpy(header, content + 8, length);
    int is_right = 1;
    for (int i = 0; i < 5 && is_right; i++) is_right = find(header, data, size - 8 - length, names[i], tensors[i]);
    free(header);
    if (!is_right) return 0;
    if (call.query.rank < 2 || call.key.rank != call.query.rank || call.value.rank != call.query.rank)
        return fail("query, key and value must have the same rank, at least 2");
    const int last = call.query.rank - 1;
    call.scale = number(member(options, "scale"), 1 / sqrt((double)call.query.shape[last]));
    call.softcap = number(member(options, "softcap"), 0);
    call.offset = number(member(options, "causal_offset"), INFINITY);

    size_t columns = call.value.shape[last], count = columns;
    for (int axis = 0; axis < last; axis++) count *= call.query.shape[axis];
    double *logits = malloc((call.key.shape[last - 1] + 1) * sizeof *logits);
    double *output = malloc((count + 1) * sizeof *output);
    if (logits && output) {
        attention(&call, logits, output);
        is_right = write_output(write_path, &call, output, count);
    } else {
        is_right = fail("no memory");
    }
    free(logits);
    free(output);
    return is_right;
}

static void answer_run(const char *request) {
    char read_path[4096], write_path[4096], *content;
    size_t size;
    long id = (long)number(member(request, "id"), 0);
    int is_right = text(member(request, "tensors"), read_path, sizeof read_path) &&
                   text(member(request, "write"), write_path, sizeof write_path);
    if (is_right && (is_right = (content = read_file(read_path, &size)) != NULL)) {
        is_right = compute(request, content, size, write_path);
        free(content);
    }
    if (is_right)
        printf("{\"type\": \"done\", \"id\": %ld}\n", id);
    else
        printf("{\"type\": \"error\", \"id\": %ld, \"text\": \"%s\"}\n", id, error_text);
}

int main(void) {
    char *line = NULL, type[16];
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        if (!text(member(line, "type"), type, sizeof type) || strcmp(type, "stop") == 0) break;
        if (strcmp(type, "start") == 0)
            puts("{\"type\": \"started\", \"id\": 0, \"protocol\": 1, \"name\": \"C attention\", \"version\": \"1.0\", "
                 "\"language\": \"C\", \"operations\": {\"dot_product_attention\": {\"dtypes\": [\"float64\", "
                 "\"float32\"], \"options\": [\"mask\", \"bias\", \"scale\", \"softcap\", \"causal_offset\"]}}}");
        else
            answer_run(line);
        fflush(stdout); /* an answer that waits in a buffer is no answer */
    }
    free(line);
    return 0;
}
