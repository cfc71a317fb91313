/* Pixels of a region of a JPEG file, by libjpeg-turbo: what lies beside it is not made, and what lies below not read.

       start ... | MCU row | MCU row | MCU row | MCU row | ... | EOI
                  skipped    columns of the region only   searched for the end

   libjpeg-turbo calls back where something is wrong, and must not be returned to after an error.  That takes setjmp,
   which is why this is C.  The library is opened by name, so that any copy with the interface of the header will do
   (Pillow brings one); it says itself, when a decompressor is made, if it has another interface.

   Sources: libjpeg-turbo's libjpeg.txt, "Partial image decompression" (jpeg_crop_scanline, jpeg_skip_scanlines) and
   "Error handling"; ITU-T T.81 annex B (markers). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION
#error "these are not libjpeg-turbo's headers; others have no partial decompression"
#endif

enum { ROWS_AT_ONCE = 8, SHADES = 3 };

/* Smooth upsampling looks at the neighbours of a sample of chroma, of up to 4 pixels; at a cut edge it has none. */
enum { PIXELS_BESIDE = 8 };

static struct {
    struct jpeg_error_mgr *(*std_error)(struct jpeg_error_mgr *);
    void (*create)(j_decompress_ptr, int, size_t);
    void (*mem_src)(j_decompress_ptr, const unsigned char *, unsigned long);
    int (*read_header)(j_decompress_ptr, boolean);
    boolean (*start)(j_decompress_ptr);
    void (*crop)(j_decompress_ptr, JDIMENSION *, JDIMENSION *);
    JDIMENSION (*skip)(j_decompress_ptr, JDIMENSION);
    JDIMENSION (*read)(j_decompress_ptr, JSAMPARRAY, JDIMENSION);
    boolean (*input_complete)(j_decompress_ptr);
    void (*destroy)(j_decompress_ptr);
} jpeg;

struct doubt {
    struct jpeg_error_mgr manager; /* first, so that libjpeg's pointer to it is one to this */
    jmp_buf way_out;
    char words[JMSG_LENGTH_MAX];
};

/* Where and how large the image is, and which part of it is wanted; in pixels of the shrunk image but for the sides. */
struct region {
    unsigned height, width, shrink;
    unsigned top, left, bottom, right;
};

static void give_up(j_common_ptr info)
{
    struct doubt *doubt = (struct doubt *)info->err;
    info->err->format_message(info, doubt->words);
    longjmp(doubt->way_out, 1);
}

static void give_up_on_warnings(j_common_ptr info, int level)
{
    if (level < 0)
        give_up(info);
}

static void say_nothing(j_common_ptr info)
{
    (void)info;
}

static void doubt_that(struct doubt *doubt, const char *words)
{
    snprintf(doubt->words, sizeof doubt->words, "%s", words);
    longjmp(doubt->way_out, 1);
}

/* Whether an EOI stands behind the coded rows that were not read, with nothing between but codes and restarts. */
static int has_end(const unsigned char *at, size_t left)
{
    const unsigned char *end = at + left;
    while ((at = memchr(at, 0xFF, (size_t)(end - at))) != NULL && ++at < end) {
        if (*at == 0xD9)
            return 1;
        if (*at != 0 && *at != 0xFF && (*at < 0xD0 || *at > 0xD7))
            return 0;
    }
    return 0;
}

static int ends_whole(j_decompress_ptr info)
{
    if (info->unread_marker)
        return info->unread_marker == 0xD9 || (info->unread_marker >= 0xD0 && info->unread_marker <= 0xD7 &&
                                                has_end(info->src->next_input_byte, info->src->bytes_in_buffer));
    return jpeg.input_complete(info) || has_end(info->src->next_input_byte, info->src->bytes_in_buffer);
}

static void start(j_decompress_ptr info, struct doubt *doubt, const struct region *region)
{
    jpeg.read_header(info, TRUE);
    if (info->image_height != region->height || info->image_width != region->width)
        doubt_that(doubt, "the image has not the size that its header was read with");
    info->out_color_space = JCS_RGB;
    info->scale_num = 1;
    info->scale_denom = region->shrink;
    jpeg.start(info);
    if (info->output_components != SHADES || region->bottom > info->output_height || region->right > info->output_width)
        doubt_that(doubt, "the image cannot be decoded to the size that was asked for");
}

/* The pixels of the region, at their places in rows of the whole image's width; 0, or -1 and the words of a doubt. */
static int decode_region(const unsigned char *data, size_t size, const struct region *region, unsigned char *pixels,
                         struct doubt *doubt)
{
    struct jpeg_decompress_struct info;
    memset(&info, 0, sizeof info);
    info.err = jpeg.std_error(&doubt->manager);
    doubt->manager.error_exit = give_up;
    doubt->manager.emit_message = give_up_on_warnings;
    doubt->manager.output_message = say_nothing;
    if (setjmp(doubt->way_out)) {
        if (info.mem != NULL)
            jpeg.destroy(&info);
        return -1;
    }
    jpeg.create(&info, JPEG_LIB_VERSION, sizeof info); /* anew: a used one lends its tables to an image without any */
    jpeg.mem_src(&info, data, (unsigned long)size);
    start(&info, doubt, region);
    size_t row_bytes = (size_t)info.output_width * SHADES;
    unsigned whole_width = info.output_width;
    JDIMENSION left = region->left > PIXELS_BESIDE ? region->left - PIXELS_BESIDE : 0;
    JDIMENSION width = (region->right + PIXELS_BESIDE < whole_width ? region->right + PIXELS_BESIDE : whole_width) - left;
    if (width < whole_width)
        jpeg.crop(&info, &left, &width);
    if (region->top > 0)
        jpeg.skip(&info, region->top);
    while (info.output_scanline < region->bottom) {
        JSAMPROW rows[ROWS_AT_ONCE];
        unsigned count = region->bottom - info.output_scanline;
        count = count < ROWS_AT_ONCE ? count : ROWS_AT_ONCE;
        for (unsigned i = 0; i < count; i++)
            rows[i] = pixels + (info.output_scanline + i) * row_bytes + (size_t)left * SHADES;
        if (jpeg.read(&info, rows, count) == 0)
            doubt_that(doubt, "its rows cannot be read on");
    }
    if (!ends_whole(&info))
        doubt_that(doubt, "the file does not end behind its image");
    jpeg.destroy(&info);
    return 0;
}

/* The region of the caller's numbers, if such an image and region can be and `room` bytes hold all rows to its bottom. */
static int is_possible(const struct region *region, Py_ssize_t room)
{
    unsigned shrink = region->shrink;
    if (shrink != 1 && shrink != 2 && shrink != 4 && shrink != 8)
        return 0;
    if (region->height == 0 || region->height > JPEG_MAX_DIMENSION || region->width == 0 ||
        region->width > JPEG_MAX_DIMENSION)
        return 0;
    unsigned high = (region->height + shrink - 1) / shrink, wide = (region->width + shrink - 1) / shrink;
    if (region->top >= region->bottom || region->bottom > high || region->left >= region->right || region->right > wide)
        return 0;
    return (size_t)room >= (size_t)region->bottom * wide * SHADES;
}

static PyObject *decode(PyObject *self, PyObject *args)
{
    Py_buffer data, pixels;
    struct region region;
    struct doubt doubt;
    int failed;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*w*(III)(IIII)", &data, &pixels, &region.height, &region.width, &region.shrink,
                          &region.top, &region.left, &region.bottom, &region.right))
        return NULL;
    if (jpeg.create == NULL) {
        snprintf(doubt.words, sizeof doubt.words, "no library was opened");
        failed = 1;
    } else if (!is_possible(&region, pixels.len)) {
        snprintf(doubt.words, sizeof doubt.words, "there is no such region, or no room for it");
        failed = 1;
    } else {
        Py_BEGIN_ALLOW_THREADS
        failed = decode_region(data.buf, (size_t)data.len, &region, pixels.buf, &doubt);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&pixels);
    if (failed) {
        PyErr_SetString(PyExc_ValueError, doubt.words);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Whether the library takes structures of the header that this was compiled with. */
static int fits(struct doubt *doubt)
{
    struct jpeg_decompress_struct info;
    memset(&info, 0, sizeof info);
    info.err = jpeg.std_error(&doubt->manager);
    doubt->manager.error_exit = give_up;
    if (setjmp(doubt->way_out))
        return 0;
    jpeg.create(&info, JPEG_LIB_VERSION, sizeof info);
    jpeg.destroy(&info);
    return 1;
}

static int find(void *library, const char *name, void *place, char *words, size_t room)
{
    void *found = dlsym(library, name);
    if (found == NULL)
        snprintf(words, room, "it has no %s", name);
    memcpy(place, &found, sizeof found);
    return found != NULL;
}

static PyObject *open_library(PyObject *self, PyObject *args)
{
    const char *name;
    struct doubt doubt;
    (void)self;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        PyErr_SetString(PyExc_OSError, dlerror());
        return NULL;
    }
#define FIND(place, symbol) find(library, symbol, &jpeg.place, doubt.words, sizeof doubt.words)
    int whole = FIND(std_error, "jpeg_std_error") && FIND(mem_src, "jpeg_mem_src") &&
                FIND(read_header, "jpeg_read_header") && FIND(start, "jpeg_start_decompress") &&
                FIND(crop, "jpeg_crop_scanline") && FIND(skip, "jpeg_skip_scanlines") &&
                FIND(read, "jpeg_read_scanlines") && FIND(input_complete, "jpeg_input_complete") &&
                FIND(destroy, "jpeg_destroy_decompress") && FIND(create, "jpeg_CreateDecompress") && fits(&doubt);
#undef FIND
    if (!whole) {
        jpeg.create = NULL;
        dlclose(library);
        PyErr_SetString(PyExc_OSError, doubt.words);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"open_library", open_library, METH_VARARGS, "Take this copy of libjpeg-turbo; OSError where it cannot be used."},
    {"decode", decode, METH_VARARGS, "Pixels of a region of a JPEG, into a buffer; ValueError with libjpeg's doubt."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_jpeg_regions", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__jpeg_regions(void)
{
    return PyModule_Create(&module);
}
