/* `send_all` of fanout.py, without the GIL: there are its arguments, and what it returns. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: Python ignores SIGPIPE */
#endif

enum { UNTRIED = -1, FAILED = -2, SENDS_A_LOOK = 8 };

struct odd {
    Py_ssize_t place;
    long taken;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static long send_one(int fd, const char *data, size_t size) {
    ssize_t sent;
    do sent = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0) return (long)sent;
    return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : FAILED;
}

/* A buffer of 64-bit integers, to be released by the caller; false with an exception set. */
static bool integers(PyObject *object, Py_buffer *buffer) {
    if (PyObject_GetBuffer(object, buffer, PyBUF_FORMAT | PyBUF_ND) < 0) return false;
    if (buffer->itemsize == 8 && buffer->ndim == 1 && buffer->format && buffer->format[0] == 'Q') return true;
    PyBuffer_Release(buffer);
    PyErr_SetString(PyExc_TypeError, "keys should be an array of type code Q");
    return false;
}

static PyObject *result(Py_ssize_t place, const struct odd *odd, Py_ssize_t count) {
    PyObject *list = PyList_New(count);
    if (!list) return NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = Py_BuildValue("(nl)", odd[i].place, odd[i].taken);
        if (!pair) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, pair);
    }
    return Py_BuildValue("(nN)", place, list);
}

static PyObject *send_all(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *bytes, *wanted, *open, *made = NULL;
    Py_ssize_t begin, end;
    double seconds;
    Py_buffer keys, direct;
    if (!PyArg_ParseTuple(args, "SOOnnd:send_all", &bytes, &wanted, &open, &begin, &end, &seconds)) return NULL;
    if (!integers(wanted, &keys)) return NULL;
    if (!integers(open, &direct)) goto release_keys;
    if (begin < 0 || begin > end || end > keys.len / 8) {
        PyErr_SetString(PyExc_IndexError, "places should be within the keys");
        goto release_both;
    }
    struct odd *odd = PyMem_New(struct odd, end - begin);
    if (!odd) {
        PyErr_NoMemory();
        goto release_both;
    }
    const char *data = PyBytes_AS_STRING(bytes);
    const size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    const uint64_t *key = keys.buf, *open_key = direct.buf, known = (uint64_t)direct.len / 8;
    Py_ssize_t place = begin, count = 0;
    Py_BEGIN_ALLOW_THREADS;
    const double until = now() + seconds;
    for (; place < end; place++) {
        if (place > begin && (place - begin) % SENDS_A_LOOK == 0 && now() > until) break;
        const uint64_t fd = key[place] & UINT32_MAX;
        long taken = UNTRIED;
        if (key[place] && fd < known && open_key[fd] == key[place]) taken = send_one((int)fd, data, size);
        if (taken != (long)size) odd[count++] = (struct odd){place, taken};
    }
    Py_END_ALLOW_THREADS;
    made = result(place, odd, count);
    PyMem_Free(odd);
release_both:
    PyBuffer_Release(&direct);
release_keys:
    PyBuffer_Release(&keys);
    return made;
}

static PyMethodDef methods[] = {
    {"send_all", send_all, METH_VARARGS, "As fanout.send_all says."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "tornado_chat.live._fanout", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__fanout(void) { return PyModuleDef_Init(&module); }
