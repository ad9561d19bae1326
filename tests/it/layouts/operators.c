/* A library with one custom operator for ONNX Runtime: `Times` of the domain `longshore.test`
 * multiplies a float32 tensor by FACTOR.
 *
 * It declares the parts of ONNX Runtime's C interface that it uses. The interface only grows:
 * functions keep their positions in the table, and ONNX Runtime reads a structure of an older
 * version only up to the fields of that version. */

#include <stddef.h>
#include <stdint.h>

#ifndef FACTOR
#define FACTOR 3.0f
#endif

/* Positions in the table of functions. */
enum {
    CREATE_CUSTOM_OP_DOMAIN = 26,
    CUSTOM_OP_DOMAIN_ADD = 27,
    ADD_CUSTOM_OP_DOMAIN = 28,
    GET_TENSOR_MUTABLE_DATA = 51,
    GET_DIMENSIONS_COUNT = 61,
    GET_DIMENSIONS = 62,
    GET_TENSOR_SHAPE_ELEMENT_COUNT = 64,
    GET_TENSOR_TYPE_AND_SHAPE = 65,
    KERNEL_CONTEXT_GET_INPUT = 90,
    KERNEL_CONTEXT_GET_OUTPUT = 91,
    RELEASE_TENSOR_TYPE_AND_SHAPE_INFO = 99,
};

enum { VERSION = 12, FLOAT = 1, REQUIRED = 0, MOST_DIMENSIONS = 8 };

typedef void *(*Function)(void *, ...);
typedef const Function *Api;

struct ApiBase {
    Api (*get_api)(uint32_t version);
    const char *(*get_version)(void);
};

/* `OrtCustomOp` of version 12. */
struct Operator {
    uint32_t version;
    void *(*create_kernel)(const struct Operator *, Api, const void *);
    const char *(*name)(const struct Operator *);
    const char *(*provider)(const struct Operator *);
    int (*input_type)(const struct Operator *, size_t);
    size_t (*input_count)(const struct Operator *);
    int (*output_type)(const struct Operator *, size_t);
    size_t (*output_count)(const struct Operator *);
    void (*compute)(void *, void *);
    void (*destroy_kernel)(void *);
    int (*input_characteristic)(const struct Operator *, size_t);
    int (*output_characteristic)(const struct Operator *, size_t);
    /* Fields of later versions, which ONNX Runtime does not read. */
    void *later[16];
};

static Api api;

static void *create_kernel(const struct Operator *self, Api given, const void *info)
{
    (void)self, (void)info;
    return (void *)given;
}

static void compute(void *kernel, void *context)
{
    void *in = NULL, *out = NULL, *shape = NULL;
    float *from = NULL, *to = NULL;
    int64_t dimensions[MOST_DIMENSIONS] = {0};
    size_t rank = 0, count = 0;
    (void)kernel;
    api[KERNEL_CONTEXT_GET_INPUT](context, (size_t)0, &in);
    api[GET_TENSOR_TYPE_AND_SHAPE](in, &shape);
    api[GET_DIMENSIONS_COUNT](shape, &rank);
    if (rank > MOST_DIMENSIONS)
        rank = MOST_DIMENSIONS;
    api[GET_DIMENSIONS](shape, dimensions, rank);
    api[GET_TENSOR_SHAPE_ELEMENT_COUNT](shape, &count);
    api[RELEASE_TENSOR_TYPE_AND_SHAPE_INFO](shape);
    api[KERNEL_CONTEXT_GET_OUTPUT](context, (size_t)0, dimensions, rank, &out);
    api[GET_TENSOR_MUTABLE_DATA](in, &from);
    api[GET_TENSOR_MUTABLE_DATA](out, &to);
    for (size_t i = 0; i < count; i++)
        to[i] = from[i] * FACTOR;
}

static void destroy_kernel(void *kernel)
{
    (void)kernel;
}

static const char *name(const struct Operator *self)
{
    (void)self;
    return "Times";
}

static const char *provider(const struct Operator *self)
{
    (void)self;
    return NULL;
}

static int type(const struct Operator *self, size_t index)
{
    (void)self, (void)index;
    return FLOAT;
}

static size_t one(const struct Operator *self)
{
    (void)self;
    return 1;
}

static int characteristic(const struct Operator *self, size_t index)
{
    (void)self, (void)index;
    return REQUIRED;
}

static const struct Operator operator = {
    .version = VERSION,
    .create_kernel = create_kernel,
    .name = name,
    .provider = provider,
    .input_type = type,
    .input_count = one,
    .output_type = type,
    .output_count = one,
    .compute = compute,
    .destroy_kernel = destroy_kernel,
    .input_characteristic = characteristic,
    .output_characteristic = characteristic,
};

/* ONNX Runtime calls this for each session. Returns a status, or NULL on success. */
void *RegisterCustomOps(void *options, const struct ApiBase *base)
{
    void *domain = NULL, *status;
    api = base->get_api(VERSION);
    status = api[CREATE_CUSTOM_OP_DOMAIN]((void *)"longshore.test", &domain);
    if (status == NULL)
        status = api[CUSTOM_OP_DOMAIN_ADD](domain, &operator);
    if (status == NULL)
        status = api[ADD_CUSTOM_OP_DOMAIN](options, domain);
    return status;
}
